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
from .triton_launch import Tile, cells, interpreted, launch

__all__ = ["Launcher"]

# Programs that keep a device of about 130 multiprocessors busy, several on each, and the rows of
# a slab: sums over more wear out in float32, shorter slabs are all overhead.
_PROGRAMS = 1024
_SLAB_ROWS = {torch.float32: (256, 8192), torch.float64: (256, 65_536)}
_LEAST_ROWS = 32  # of a chunk
# Of a tile and a slab in the interpreter: there an operation costs the same for many rows as for
# one. Slabs are still several in the larger cases.
_INTERPRETED_ROWS = 1024


def matrix_tiles(d: int, dtype: torch.dtype) -> tuple[Tile, Tile]:
    """For covariances that are matrices: rows, features of a product, features in all."""
    width = max(16, _power_of_two(d))
    if interpreted():
        tile = Tile((_INTERPRETED_ROWS, width, width))
        return tile, tile
    if dtype == torch.float64:
        warps = 8 if width > 32 else 4
        return Tile((32, 16, width), warps), Tile((32 if width < 128 else 16, 16, width), warps)
    return _MATRIX_TILES[width]


def axes_tiles(k: int, d: int) -> tuple[Tile, Tile]:
    """For covariances along the axes: rows, components, features."""
    components, features = min(32, _power_of_two(k)), min(64, _power_of_two(d))
    if interpreted():
        tile = Tile((_INTERPRETED_ROWS, components, min(8, features)))
        return tile, tile
    return Tile((64, components, 1)), Tile((1 if features > 8 else 8, components, features))


# None of these spills more than a few registers on an H100, by the report of its assembler.
_MATRIX_TILES = {
    16: (Tile((128, 16, 16)), Tile((64, 16, 16))),
    32: (Tile((128, 16, 32)), Tile((64, 16, 32))),
    64: (Tile((128, 16, 64), 8), Tile((32, 16, 64), 8)),
    128: (Tile((64, 16, 128), 8), Tile((32, 16, 128), 8)),
}


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
        self._tiles = axes_tiles(self._k, self._d)
        if self._matrix:
            self._tiles = matrix_tiles(self._d, like.dtype)
        made: Prepared = prepare(p, like.dtype)
        flat = (self._batch, self._k, self._d)
        self._centre = made.centre.reshape(flat).contiguous()
        self._shift = self._centre
        self._has_shift = made.shift is not None
        if made.shift is not None:
            self._shift = made.shift.reshape(flat).contiguous()
        factor = made.whitener
        if not self._matrix:  # (*B, H, 1, D) or (*B, H, 1, 1)
            factor = factor.squeeze(-2).expand(*factor.shape[:-2], self._d)
        self._factor = factor.reshape(self._batch, -1, *[self._d] * p.family.n_axes).contiguous()
        self._stride_k = 0 if p.family.tied else self._factor.stride(1)
        self._log_norm = made.log_norm.reshape(self._batch, self._k).contiguous()
        info = torch.finfo(like.dtype)
        self._limit, self._lowest = info.max / 8, info.min
        self._least = _LEAST_EXPONENT[like.dtype]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density `(*B, N)`."""
        out = x.new_empty(*self._parameters.batch_shape, x.shape[-2])
        rows = x.shape[-2] if self._matrix else self._chunk_rows(x, 0)
        for part in _cut(x.shape[-2], rows):
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
        slab = self._slab_rows(x.shape[-2])
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
        n, batch = x.shape[-2], self._parameters.batch_shape
        log_prob = x.new_empty(*batch, n)
        # component by component for products; row by row where the second kernel reads it so
        shape = (self._batch, self._k, n) if self._matrix else (self._batch, n, self._k)
        joint = x.new_empty(shape) if keep else x.new_empty(0)
        strides = joint.stride() if keep else (0, 0, 0)
        tile = self._tiles[0]
        if self._matrix:
            rows, x_strides = _rows(x)
            self._launch(
                triton_matrix.log_prob_matrix,
                self._batch * cells(n, tile.sizes[0]),
                (rows, *self._tensors(), log_prob, joint, n, self._k, self._d),
                (*x_strides[:2], self._factor.stride(0), self._stride_k),
                (self._limit, self._lowest, self._has_shift, keep, self._precision),
                tile,
            )
            joint = joint.view(*batch, self._k, n) if keep else joint
            return log_prob, joint
        joint_b, joint_n, joint_k = strides
        turned = x.mT.contiguous().mT  # feature by feature: neighbours read neighbours
        rows, x_strides = _rows(turned)
        self._launch(
            triton_axes.joint_axes,
            self._batch * cells(n, tile.sizes[0]),
            (rows, *self._tensors(), log_prob, joint, n, self._k, self._d),
            (*x_strides, self._factor.stride(0), self._stride_k, joint_b, joint_n, joint_k),
            (self._limit, self._lowest, self._has_shift, keep),
            tile,
        )
        return log_prob, joint.view(*batch, n, self._k).mT if keep else joint

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
        flags = (w is not None, self._has_shift, about is not None)
        strides = (*x_strides[:2], stride_w, self._factor.stride(0), self._stride_k)
        if self._matrix:
            self._launch(
                triton_matrix.sums_matrix,
                slabs * self._batch * self._k,
                (rows, weights, *self._tensors(), frame, log_prob, *partial, *sizes),
                strides,
                (self._limit, self._least, *flags, self._precision),
                self._tiles[1],
            )
            return
        _, of_components, of_features = self._tiles[1].sizes
        kept = joint.mT.view(self._batch, n, self._k)
        k_tiles = cells(self._k, of_components)
        self._launch(
            triton_axes.sums_axes,
            slabs * self._batch * k_tiles * cells(self._d, of_features),
            (rows, weights, *self._tensors()[:3], frame, log_prob, kept, *partial, *sizes),
            (*strides, *kept.stride()),
            (self._least, *flags),
            self._tiles[1],
        )

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._centre, self._shift, self._factor, self._log_norm

    def _launch(self, kernel: Any, programs: int, *groups: Any) -> None:
        *lists, tile = groups
        arguments = tuple(value for each in lists for value in each)
        launch(kernel, programs, self._device, arguments, tile)

    # sizes ----------------------------------------------------------------------------------

    def _slab_rows(self, n: int) -> int:
        """Rows of a slab: enough slabs to keep the device busy, whatever the cut into chunks."""
        least, most = _SLAB_ROWS[self._dtype]
        least = max(least, _INTERPRETED_ROWS) if interpreted() else least
        wanted = n * self._batch * self._k // _PROGRAMS
        return min(max(cells(wanted, least) * least, least), most, n)

    def _chunk_rows(self, x: Tensor, per_slab: int, slab: int = 1) -> int:
        """Rows of a chunk, whole slabs, so that its buffers have about `budget` bytes."""
        size = self._dtype.itemsize
        per_row = self._batch * (self._k + 2) + self._d
        if self._matrix and per_slab:
            per_row = 3 * self._batch  # no log-joint
        rows = int(self._budget / size / (per_row + per_slab / slab))
        return min(max(rows // slab * slab, slab, _LEAST_ROWS), x.shape[-2])


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


def _power_of_two(size: int) -> int:
    """The least one that is not below."""
    return 1 << (size - 1).bit_length()
