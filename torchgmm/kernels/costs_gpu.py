"""What a kernel costs per row on a GPU, in operations of float32 arithmetic there.

Counted, not timed: what the compiler makes of the innermost loops for an H100 (`python -m
benchmarks.gpu.compile --code`), and the numbers that pass through its memory. 60 TFLOP/s and 3 TB/s
are 80 operations for every number of float32 that is read or written. Its tensor cores multiply
float64 as fast as the others multiply float32.
"""

from __future__ import annotations

import torch

from ..parameters import Parameters
from .costs import feature_count, quadratic_form

__all__ = ["formed_cost", "fused_cost", "pair_cost_there", "products_cost", "screening_cost_there"]

_TRAFFIC = {torch.float32: 80.0, torch.float64: 160.0}
# Operations of generated code for one of a library's product: where products are its whole work,
# where rows are subtracted first, and for variances along the axes, which have no products.
_FORMED, _WHITENED, _AXES = 1.25, 2.0, 80.0
_SOFT_MAX = 40.0  # of a pair, in registers
_PER_PAIR = 12  # numbers that a kept pair is sorted by


def fused_cost(p: Parameters, dtype: torch.dtype) -> float:
    """`triton`: whitens twice and sums once, a matrix padded to a power of two."""
    if p.family.n_axes == 1:
        return p.n_components * (_AXES * p.n_features + 2 * _TRAFFIC[dtype])
    width = max(16, 1 << (p.n_features - 1).bit_length())
    return _WHITENED * 6.0 * p.n_components * width**2


def formed_cost(p: Parameters, dtype: torch.dtype) -> float:
    """`triton_quadratic`: two products; coordinates and the log-joint pass through the memory."""
    k, size = p.n_components, feature_count(p)
    return k * (_FORMED * 4.0 * size + _SOFT_MAX) + 2 * _TRAFFIC[dtype] * (p.n_features + k)


def products_cost(p: Parameters, dtype: torch.dtype) -> float:
    """`quadratic`: two products of the library; features, too, pass through the memory."""
    k, size = p.n_components, feature_count(p)
    return 4.0 * k * size + _TRAFFIC[dtype] * (3 * size + 4 * k)


def screening_cost_there(p: Parameters, size: int, dtype: torch.dtype) -> float:
    """`screened`: bounds of all pairs from so many features, which are compared and kept."""
    k = p.n_components
    return 2.0 * size * k + _TRAFFIC[dtype] * (2 * size + 5 * k)


def pair_cost_there(p: Parameters, dtype: torch.dtype) -> float:
    """One pair that was kept: whitened twice and summed once, each time from the memory."""
    per_feature = _TRAFFIC[dtype] * (8 * p.n_features + _PER_PAIR)
    return 6.0 * quadratic_form(p) + per_feature
