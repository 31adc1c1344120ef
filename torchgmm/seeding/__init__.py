"""First parameters of a fit, from rows."""

from __future__ import annotations

from .base import Seeding, child
from .methods import (
    KMeans,
    KMeansPlusPlus,
    Labels,
    RandomResponsibilities,
    RandomRows,
    Start,
    as_seeding,
)
from .sums import first_parameters, maximum, nearest_sums

__all__ = [
    "KMeans",
    "KMeansPlusPlus",
    "Labels",
    "RandomResponsibilities",
    "RandomRows",
    "Seeding",
    "Start",
    "as_seeding",
    "child",
    "first_parameters",
    "maximum",
    "nearest_sums",
]
