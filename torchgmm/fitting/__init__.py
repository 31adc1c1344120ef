"""Fitting: one loop, many methods."""

from __future__ import annotations

from .base import Event, FitResult, Method, Observer, Problem, Resumption, State, Status, Step
from .em import EM
from .incremental import IncrementalEM, IncrementalState
from .loop import fit
from .online import OnlineEM, OnlineState
from .reduced import ReducedState, VarianceReducedEM
from .rescue import Rescue
from .stopping import Aitken, RelativeTolerance, Stop, Tolerance

__all__ = [
    "EM",
    "Aitken",
    "Event",
    "FitResult",
    "IncrementalEM",
    "IncrementalState",
    "Method",
    "Observer",
    "OnlineEM",
    "OnlineState",
    "Problem",
    "ReducedState",
    "RelativeTolerance",
    "Rescue",
    "Resumption",
    "State",
    "Status",
    "Step",
    "Stop",
    "Tolerance",
    "VarianceReducedEM",
    "fit",
]
