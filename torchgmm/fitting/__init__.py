"""Fitting: one loop, many methods."""

from __future__ import annotations

from .base import Event, FitResult, Method, Observer, Problem, State, Status, Step
from .em import EM
from .incremental import IncrementalEM
from .loop import fit
from .online import OnlineEM
from .rescue import Rescue
from .stopping import Aitken, RelativeTolerance, Stop, Tolerance

__all__ = [
    "EM",
    "Aitken",
    "Event",
    "FitResult",
    "IncrementalEM",
    "Method",
    "Observer",
    "OnlineEM",
    "Problem",
    "RelativeTolerance",
    "Rescue",
    "State",
    "Status",
    "Step",
    "Stop",
    "Tolerance",
    "fit",
]
