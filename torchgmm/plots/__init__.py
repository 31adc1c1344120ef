"""Pictures of a mixture and of a fit, each drawn on axes that the caller brings (matplotlib)."""

from __future__ import annotations

from .common import COLOURS
from .course import criterion, history
from .density import density, ellipses, marginal
from .memberships import responsibilities
from .pairs import pairs
from .patches import eigenpatches
from .spectra import spectra
from .verdicts import calibration, entropy, likelihood_ratio

__all__ = [
    "COLOURS",
    "calibration",
    "criterion",
    "density",
    "eigenpatches",
    "ellipses",
    "entropy",
    "history",
    "likelihood_ratio",
    "marginal",
    "pairs",
    "responsibilities",
    "spectra",
]
