"""Pictures of a mixture and of a fit, each drawn on axes that the caller brings (matplotlib)."""

from __future__ import annotations

from .common import COLOURS
from .course import history
from .density import ellipses, marginal
from .patches import eigenpatches

__all__ = ["COLOURS", "eigenpatches", "ellipses", "history", "marginal"]
