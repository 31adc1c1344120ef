"""Pictures of a mixture and of a fit, each drawn on axes that the caller brings (matplotlib)."""

from __future__ import annotations

from .common import COLOURS
from .course import criterion, history
from .density import density, ellipses, marginal
from .memberships import responsibilities
from .pairs import pairs
from .patches import eigenpatches
from .spectra import spectra

__all__ = [
    "COLOURS",
    "criterion",
    "density",
    "eigenpatches",
    "ellipses",
    "history",
    "marginal",
    "pairs",
    "responsibilities",
    "spectra",
]
