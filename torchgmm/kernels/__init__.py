"""Ways to compute log-probabilities and moments: many, all equal to `dense`."""

from __future__ import annotations

from .auto import Auto
from .autograd import is_traced, log_prob
from .base import Kernel, as_kernel, kernels
from .costs import by_columns
from .dense import Dense, joint_log_prob, squared_distances
from .formed import TritonQuadratic
from .given import GivenSums, labelled_sums, weighted_sums
from .memory import retried
from .operators import score
from .precision import full_precision
from .quadratic import Quadratic, nearest_moments
from .screened import Screened
from .triton import Triton

__all__ = [
    "Auto",
    "Dense",
    "GivenSums",
    "Kernel",
    "Quadratic",
    "Screened",
    "Triton",
    "TritonQuadratic",
    "as_kernel",
    "by_columns",
    "full_precision",
    "is_traced",
    "joint_log_prob",
    "kernels",
    "labelled_sums",
    "log_prob",
    "nearest_moments",
    "retried",
    "score",
    "squared_distances",
    "weighted_sums",
]
