"""First parameters of a fit, from rows."""

from __future__ import annotations

from .alike import distinct
from .base import Seeding, child
from .door import as_seeding
from .given import Labels, Start
from .methods import KMeans, KMeansPlusPlus, RandomResponsibilities, RandomRows
from .near import brought, near
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
    "brought",
    "child",
    "distinct",
    "first_parameters",
    "maximum",
    "near",
    "nearest_sums",
]
