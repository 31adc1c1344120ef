"""A mixture on its way through the Triton kernels: tiles, slabs, sums joined in fixed order.

This module imports Triton; `triton.py`, which everybody may import, loads it when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..moments import Moments
from ..parameters import Parameters
from . import triton_axes, triton_matrix
from .base import _LEAST_EXPONENT
from .dense import Prepared, prepare
from .triton_launch import cells, interpreted, launch
from .triton_tiles import INTERPRETED_ROWS, tiles

__all__ = ["Launcher", "densities"]

# Programs that keep a device of about 130 multiprocessors busy, several on each, and the rows of
# a slab: sums over more wear out in float32, shorter slabs are all overhead.
_PROGRAMS = 1024
_SLAB_ROWS = {torch.float32: (256, 8192), torch.float64: (256, 65_536)}
_LEAST_ROWS = 32  # of a chunk


class Launcher:
    """A mixture made ready for launches over rows of one dtype.

    Args:
        parameters: one mixture or a batch.
        like: rows, for dtype and device.
        precision: of the products; kernels without products have no use for it.
        budget: bytes of the buffers of a chunk.
    """

    def __init__(self, parameters: Parameters, like: Tensor, precision: str, budget: int) -> None:
        p = parameters
        self._parameters, self._family = p, p.family
        self._batch, self._precision = max(1, p.batch_shape.numel()), precision
        self._k, self._d = p.n_components, p.n_features
        self._dtype, self._device = like.dtype, like.device
        self._matrix = p.family.n_axes == 2
        self._budget = budget
        self._tiles = tiles(self._k, self._d, like, precision, is_matrix=self._matrix)
        made: Prepared = prepare(p, like)
        flat = (self._batch, self._k, self._d)
        self._centre = made.centre.reshape(flat).contiguous()
        self._shift = made.shift
        if self._shift is not None:
            self._shift = self._shift.reshape(flat).contiguous()
        factor = made.whitener
        if not self._matrix:  # (*B, H, 1, D) or (*B, H, 1, 1)
            factor = factor.squeeze(-2).expand(*factor.shape[:-2], self._d)
        self._factor = factor.reshape(self._batch, -1, *[self._d] * p.family.n_axes).contiguous()
        self._log_norm = made.log_norm.reshape(self._batch, self._k).contiguous()
        self._limit, self._least = _limit(like.dtype), _LEAST_EXPONENT[like.dtype]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density `(*B, N)`, chunk by chunk: rows may have to be turned, which is a copy."""
        out = x.new_empty(*self._parameters.batch_shape, x.shape[-2])
        for part in _cut(x.shape[-2], self._chunk_rows(x, 0)):
            out[..., part] = self._pass(_part(x, part), keep=False)[0]
        return out

    def log_joint(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """`log pi_k N(x_n; k)` by chunks of rows, `(*B, K, n)`."""
        for part in _cut(x.shape[-2], self._chunk_rows(x, 0)):
            yield part, self._pass(_part(x, part), keep=True)[1]

    def moments(self, x: Tensor, w: Tensor | None, about: Tensor | None) -> Moments:
        """Moments of z about `about (*B, K, D)`, or the origin, in float64."""
        shape = (self._batch, self._k, self._d)
        square = (self._d, self._d) if self._matrix else (self._d,)
        zeros = torch.zeros((), dtype=torch.float64, device=x.device)
        weight = first = second = log_prob = total = zeros
        n_rows = x.shape[-2] if self._matrix else self._chunk_rows(x, 0)
        slab = self._slab_rows(n_rows)
        per_slab = self._batch * self._k * (self._d ** len(square) + self._d + 1)
        for part in _cut(x.shape[-2], self._chunk_rows(x, per_slab, slab)):
            chunk, chunk_w = _part(x, part), None if w is None else w[..., part]
            n = chunk.shape[-2]
            slabs = cells(n, slab)
            partial = (
                chunk.new_empty(slabs, *shape[:2]),
                chunk.new_empty(slabs, *shape),
                chunk.new_empty(slabs, *shape[:2], *square),
            )
            seen = self._pass(chunk, keep=not self._matrix)
            self._sums(chunk, chunk_w, about, seen, slab, partial)
            weight, first, second = (
                t + s.sum(0, dtype=torch.float64)
                for t, s in zip((weight, first, second), partial, strict=True)
            )
            row_log_prob = seen[0].double()
            if chunk_w is None:
                total = total + n
            else:
                row_log_prob *= chunk_w
                total = total + chunk_w.sum(-1, dtype=torch.float64)
            log_prob = log_prob + row_log_prob.sum(-1)
        return self._joined(weight, first, second, log_prob, total, about)

    def _joined(
        self,
        weight: Tensor,
        first: Tensor,
        second: Tensor,
        log_prob: Tensor,
        total: Tensor,
        about: Tensor | None,
    ) -> Moments:
        batch = self._parameters.batch_shape
        weight, first = (t.view(*batch, *t.shape[1:]) for t in (weight, first))
        second = second.view(*batch, *second.shape[1:])
        if self._matrix:
            second = self._family.pool(second, 2)
        else:  # joins features that share a variance, and components that share all of them
            second = self._family.outer(second, torch.ones_like(second))
        log_prob = log_prob.view(batch)
        frame = torch.zeros_like(first) if about is None else about.double()
        return Moments(weight, first, second, log_prob, total.expand(batch), frame)

    # launches -------------------------------------------------------------------------------

    def _pass(self, x: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
        """Log-densities `(*B, n)` of a chunk, and its log-joint `(*B, K, n)` if kept."""
        batch = self._parameters.batch_shape
        log_prob, joint = densities(x, *self._tensors(), self._precision, keep=keep)
        if keep:
            joint = joint.view(*batch, *joint.shape[1:])
            joint = joint if self._matrix else joint.mT
        return log_prob.view(*batch, x.shape[-2]), joint

    def _sums(
        self,
        x: Tensor,
        w: Tensor | None,
        about: Tensor | None,
        seen: tuple[Tensor, Tensor],
        slab: int,
        partial: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        n, (log_prob, joint) = x.shape[-2], seen
        slabs = len(partial[0])
        weights = log_prob if w is None else w.contiguous()
        stride_w = 0 if w is None or w.dim() == 1 else n
        frame = self._centre if about is None else about.reshape(self._centre.shape).contiguous()
        rows, x_strides = _rows(x)
        sizes = (n, self._batch, self._k, self._d, slab)
        flags = (w is not None, self._shift is not None, about is not None)
        strides = (*x_strides[:2], stride_w, *_heads(self._factor))
        centre, shift, factor, log_norm = self._tensors()
        tensors = (centre, centre if shift is None else shift, factor)
        if self._matrix:
            _launch(
                triton_matrix.sums_matrix,
                slabs * self._batch * self._k,
                (rows, weights, *tensors, log_norm, frame, log_prob, *partial, *sizes),
                strides,
                (self._limit, self._least, *flags, self._precision),
                self._tiles[1],
            )
            return
        _, of_components, of_features = self._tiles[1].sizes
        kept = joint.mT.view(self._batch, n, self._k)
        k_tiles = cells(self._k, of_components)
        _launch(
            triton_axes.sums_axes,
            slabs * self._batch * k_tiles * cells(self._d, of_features),
            (rows, weights, *tensors, frame, log_prob, kept, *partial, *sizes),
            (*strides, *kept.stride()),
            (self._least, *flags),
            self._tiles[1],
        )

    def _tensors(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        return self._centre, self._shift, self._factor, self._log_norm

    # sizes ----------------------------------------------------------------------------------

    def _slab_rows(self, n: int) -> int:
        """Rows of a slab of `n`: enough slabs to keep the device busy."""
        least, most = _SLAB_ROWS[self._dtype]
        least = max(least, INTERPRETED_ROWS) if interpreted() else least
        each = self._batch * self._k
        if not self._matrix:
            _, of_components, of_features = self._tiles[1].sizes
            each = self._batch * cells(self._k, of_components) * cells(self._d, of_features)
        wanted = n * each // _PROGRAMS
        return min(max(cells(wanted, least) * least, least), most, n)

    def _chunk_rows(self, x: Tensor, per_slab: int, slab: int = 1) -> int:
        """Rows of a chunk, whole slabs, so that its buffers have about `budget` bytes."""
        size = self._dtype.itemsize
        per_row = self._batch * (self._k + 2) + self._d
        if self._matrix and per_slab:
            per_row = 3 * self._batch  # no log-joint
        rows = int(self._budget / size / (per_row + per_slab / slab))
        return min(max(rows // slab * slab, slab, _LEAST_ROWS), x.shape[-2])


def densities(
    x: Tensor,  # (n, D) or (*B, n, D), each row in one piece
    centre: Tensor,  # (B, K, D)
    shift: Tensor | None,  # (B, K, D)
    factor: Tensor,  # (B, H, D, D) or (B, H, D), H being K or 1
    log_norm: Tensor,  # (B, K)
    precision: str,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Log-densities `(B, n)`, and if kept the log-joint.

    That is `(B, K, n)` for matrices, and `(B, n, K)` for variances along the axes, whose second
    kernel reads it so. Leading axes of parameters are joined to one; see `dense.Prepared`.
    """
    n, (batch, k, d) = x.shape[-2], centre.shape
    log_prob = x.new_empty(batch, n)
    is_matrix = factor.dim() == 4
    joint = x.new_empty((batch, k, n) if is_matrix else (batch, n, k)) if keep else x.new_empty(0)
    tensors = (centre, centre if shift is None else shift, factor, log_norm, log_prob, joint)
    limits = (_limit(x.dtype), torch.finfo(x.dtype).min, shift is not None, keep)
    tile = tiles(k, d, x, precision, is_matrix=is_matrix)[0]
    if is_matrix:
        rows, strides = _rows(x)
        _launch(
            triton_matrix.log_prob_matrix,
            batch * cells(n, tile.sizes[0]),
            (rows, *tensors, n, k, d),
            (*strides[:2], *_heads(factor)),
            (*limits, precision),
            tile,
        )
        return log_prob, joint
    rows, strides = _rows(x.mT.contiguous().mT)  # feature by feature: neighbours read neighbours
    _launch(
        triton_axes.joint_axes,
        batch * cells(n, tile.sizes[0]),
        (rows, *tensors, n, k, d),
        (*strides, *_heads(factor), *(joint.stride() if keep else (0, 0, 0))),
        limits,
        tile,
    )
    return log_prob, joint


def _limit(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).max / 8


def _heads(factor: Tensor) -> tuple[int, int]:
    """Strides of the factors along batch and components, which may share one."""
    return factor.stride(0), factor.stride(1) if factor.shape[1] > 1 else 0


def _launch(kernel: Any, programs: int, *groups: Any) -> None:
    *lists, tile = groups
    launch(kernel, programs, lists[0][0].device, tuple(v for each in lists for v in each), tile)


def _cut(n: int, rows: int) -> Iterator[slice]:
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def _part(x: Tensor, part: slice) -> Tensor:
    """Some rows, each of them in one piece."""
    rows = x[..., part, :]
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _rows(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Rows with their strides as `(b, n, d)`; shared rows have stride 0 along the batch."""
    if x.dim() == 2:
        return x, (0, x.stride(0), x.stride(1))
    flat = x.reshape(-1, *x.shape[-2:])
    return flat, (flat.stride(0), flat.stride(1), flat.stride(2))
