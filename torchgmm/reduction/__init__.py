"""Fewer features before a mixture, and few enough for a picture after it."""

from __future__ import annotations

from .directions import discriminant
from .files import load_pca, save_pca
from .pca import PCA
from .projection import Projection
from .recipe import Principal, PrincipalRows
from .reduced import Reduced

__all__ = [
    "PCA",
    "Principal",
    "PrincipalRows",
    "Projection",
    "Reduced",
    "discriminant",
    "load_pca",
    "save_pca",
]
