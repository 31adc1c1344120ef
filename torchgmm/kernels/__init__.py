"""Ways to compute log-probabilities and moments: many, all equal to `dense`."""

from __future__ import annotations

from .base import Kernel, as_kernel, kernels
from .dense import Dense, joint_log_prob
from .given import labelled_sums, weighted_sums

__all__ = [
    "Dense",
    "Kernel",
    "as_kernel",
    "joint_log_prob",
    "kernels",
    "labelled_sums",
    "weighted_sums",
]
