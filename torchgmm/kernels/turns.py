"""A batch of mixtures in turns: as many at once as have buffers near the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..parameters import Parameters
from .costs import dense_cost, quadratic_cost

__all__ = ["mixtures_at_once", "turns"]

# Bytes of the buffers of the mixtures that take a turn, and rows of one that count for that: of
# those with more the kernels cut the rows. 16 MiB measured best (1,000 mixtures of 400 x 2 -> 2).
_BYTES, _ROWS = 16 * 2**20, 8192


def mixtures_at_once(p: Parameters, rows: int, dtype: torch.dtype) -> int:
    """How many mixtures of a batch a kernel should take together, for so many rows of each."""
    d, k = p.n_features, p.n_components
    width = 2 * k * d + k
    if quadratic_cost(p, dtype) < dense_cost(p, dtype):
        matrix = p.family.n_axes == 2 and not p.family.tied
        width = (d * (d + 3) // 2 if matrix else 2 * d) + 1 + 2 * k
    return max(1, _BYTES // (width * dtype.itemsize * min(rows, _ROWS)))


def turns(
    parameters: Parameters,
    x: Tensor,  # (N, D) or (*B, N, D)
    *more: Tensor | None,  # (N,) or (*B, N)
) -> Iterator[tuple[slice, Parameters, Tensor, tuple[Tensor | None, ...]]]:
    """Parts of the flattened batch with their rows: a slice, mixtures `(b, ...)`, rows, the rest.

    One turn for a batch that is small enough, and for a single mixture, which stays as it is.
    """
    batch = parameters.batch_shape
    some = mixtures_at_once(parameters, x.shape[-2], x.dtype) if batch else 1
    if not batch or batch.numel() <= some:
        yield slice(0, batch.numel()), parameters, x, more
        return
    flat = parameters.flat()
    if x.dim() > 2:
        x = x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:])
    own = [t if t is None or t.dim() == 1 else _flat(t, batch) for t in more]
    for start in range(0, len(flat.means), some):
        part = slice(start, start + some)
        rows = x[part] if x.dim() > 2 else x
        rest = tuple(t if t is None or t.dim() == 1 else t[part] for t in own)
        yield part, flat[part], rows, rest


def _flat(t: Tensor, batch: torch.Size) -> Tensor:
    return t.expand(*batch, t.shape[-1]).reshape(-1, t.shape[-1])
