"""The mixture as a module of torch."""

from __future__ import annotations

from . import registered as registered
from .module import Estimate, GaussianMixture, stack

__all__ = ["Estimate", "GaussianMixture", "stack"]
