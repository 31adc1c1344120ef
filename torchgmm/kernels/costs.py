"""What a kernel costs per row of a CPU, in operations of a float32 matrix product.

The constants were measured on two AVX-512 cores with buffers near the cache (see `benchmarks/`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..covariance import Family
from ..parameters import Parameters

__all__ = [
    "by_columns",
    "dense_cost",
    "elementwise",
    "feature_count",
    "pair_cost",
    "product",
    "quadratic_cost",
    "quadratic_form",
    "screening_cost",
    "sharing",
]

_PRODUCT = {torch.float32: 1.0, torch.float64: 2.2}
_ELEMENTWISE = {torch.float32: 25.0, torch.float64: 40.0}
# In elementwise operations of `dense`: sorting a pair into its tile and its row; what a row costs
# whatever there is to compute.
_PER_PAIR, _PER_ROW = 300, 60
# Of `quadratic`, in elementwise operations: a soft-max per pair, making a feature which two thin
# products read, and a row by itself.
_SOFT_MAX, _PER_FEATURE, _LEAST = 8, 3, 30
# The same for a batch whose mixtures have rows of their own: many small products.
_APART = 1.4
_FEW = 12


def product(dtype: torch.dtype) -> float:
    """One operation of a matrix product."""
    return _PRODUCT[dtype]


def elementwise(dtype: torch.dtype) -> float:
    """One elementwise operation on one number."""
    return _ELEMENTWISE[dtype]


def quadratic_form(p: Parameters) -> int:
    """Numbers of a factor: what whitening one row multiplies."""
    return p.n_features ** (2 if p.family.n_axes == 2 else 1)


def dense_cost(p: Parameters, dtype: torch.dtype) -> float:
    """Every pair whitened."""
    d = p.n_features
    products = 4.0 * quadratic_form(p) if p.family.n_axes == 2 else 0.0
    passes = 6 * d + 8 if by_columns(d, p.family) else 2 * d + 100
    each = product(dtype) * products + passes * elementwise(dtype)
    return p.n_components * each + _PER_ROW * elementwise(dtype)


def by_columns(n_features: int, family: Family) -> bool:
    """Whether the features are so few that `dense` has them one after the other in its buffers.

    Operations then run along the rows; those along two or eight numbers at a time cost two to four
    times as much.
    """
    return n_features <= _FEW and family.reads_columns


def quadratic_cost(p: Parameters, dtype: torch.dtype, shared_by: int = 1) -> float:
    """Two products with all features, which so many mixtures of a batch share."""
    k, size = p.n_components, feature_count(p)
    passes = _PER_FEATURE * size / shared_by + _SOFT_MAX * k + _LEAST
    cost = product(dtype) * 4 * k * size + passes * elementwise(dtype)
    return _APART * cost if p.batch_shape and shared_by == 1 else cost


def sharing(p: Parameters, x: Tensor) -> int:
    """How many mixtures have their quadratic features in common: all whose rows are the same.

    Whitened features, of covariances that are shared by components, are of one mixture alone.
    """
    return p.batch_shape.numel() if x.dim() == 2 and not p.family.tied else 1


def feature_count(p: Parameters) -> int:
    """Entries of a row's features; the whitening of rows once for all components counts too."""
    k, d = p.n_components, p.n_features
    if p.family.n_axes == 2:
        return d + 1 + d * d // k if p.family.tied else d * (d + 3) // 2 + 1
    return d + 1 if p.family.tied else 2 * d + 1


def screening_cost(p: Parameters, size: int, dtype: torch.dtype) -> float:
    """Bounds of all pairs from `size` features, and the comparisons with them."""
    k = p.n_components
    return 2.0 * product(dtype) * size * k + (size + 4 * k) * elementwise(dtype)


def pair_cost(p: Parameters, dtype: torch.dtype) -> float:
    """One pair that was kept."""
    products = 4.0 * product(dtype) * quadratic_form(p)
    return products + (18 * p.n_features + _PER_PAIR) * elementwise(dtype)
