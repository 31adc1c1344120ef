"""The mixture as a module of torch."""

from __future__ import annotations

from .module import Estimate, GaussianMixture

__all__ = ["Estimate", "GaussianMixture"]
