"""Fitting: one loop, many methods."""

from __future__ import annotations

from .ascent import GradientState
from .base import BatchStep, Method, Problem, State, Status, Step, StepSums
from .batch_result import BatchResult, Course, Ends, Progress
from .em import EM, EMState
from .events import Event, FitResult, Observer, Resumption, RowsEvent
from .gradient import Gradient
from .incremental import IncrementalEM, IncrementalState
from .loop import fit
from .online import OnlineEM, OnlineState
from .reduced import ReducedState, VarianceReducedEM
from .rescue import Rescue
from .restarts import climbed, side_by_side
from .shrunk import ShrunkEM, shrunk
from .squarem import SQUAREM, SquaremState
from .stopping import Aitken, RelativeTolerance, Stop, Tolerance

__all__ = [
    "EM",
    "SQUAREM",
    "Aitken",
    "BatchResult",
    "BatchStep",
    "Course",
    "EMState",
    "Ends",
    "Event",
    "FitResult",
    "Gradient",
    "GradientState",
    "IncrementalEM",
    "IncrementalState",
    "Method",
    "Observer",
    "OnlineEM",
    "OnlineState",
    "Problem",
    "Progress",
    "ReducedState",
    "RelativeTolerance",
    "Rescue",
    "Resumption",
    "RowsEvent",
    "ShrunkEM",
    "SquaremState",
    "State",
    "Status",
    "Step",
    "StepSums",
    "Stop",
    "Tolerance",
    "VarianceReducedEM",
    "climbed",
    "fit",
    "shrunk",
    "side_by_side",
]
