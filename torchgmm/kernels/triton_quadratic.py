"""The two products of `formed.py` on their way to the kernels: tiles, slabs, sums joined in order.

This module imports Triton; who uses it imports it when it is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import triton_formed
from .base import _LEAST_EXPONENT
from .triton_launch import Tile, cells, interpreted, launch, power_of_two
from .triton_tuned import Use, tuned

__all__ = ["Products", "padded", "tiles", "use_of", "usual_tiles"]

_PROGRAMS = 1024  # that keep some 130 multiprocessors busy
# rows of a slab: sums over more wear out, as they are added one after the other
_LEAST_SLAB, _LARGEST_SLAB = 512, {torch.float32: 1024, torch.float64: 8192}
_SHARES = 512  # rows of a program that makes responsibilities
# times that an exponential is made again before it pays to keep it
_TIMES = {torch.float32: 4, torch.float64: 1}


def tiles(k: int, size: int, like: Tensor, precision: str) -> tuple[Tile, ...]:
    """For the log-joint and for the sums: rows, components, features at a time."""
    use = use_of(k, size, like.dtype, precision)
    return tuned(use, like.device, usual_tiles(k, size, like.dtype))


def use_of(k: int, size: int, dtype: torch.dtype, precision: str) -> Use:
    """What tiles are kept under."""
    components, features = _least_tile(k, size)
    return Use("formed", (min(128, components), min(128, features)), dtype, precision)


def usual_tiles(k: int, size: int, dtype: torch.dtype) -> tuple[Tile, Tile]:
    """What is taken without tuning.

    None of these spills a register on an H100, by the report of its assembler, and each leaves
    room for another program there (more than 64 components: in the first kernel). Loads a step
    ahead would take all registers, for less than what other programs hide.
    """
    components, features = _least_tile(k, size)
    if interpreted():
        tile = Tile((_SHARES, min(64, components), min(256, features)))
        return tile, tile
    if dtype == torch.float64:
        components = min(64, components)
        joint, sums = (64, components, 16), (16, components, min(64, features))
        warps = 8 if components == 64 else 4
        return Tile(joint, warps, 1), Tile(sums, warps, 1)
    if components <= 64:
        joint, sums = (64, components, min(32, features)), (32, components, min(64, features))
        return Tile(joint, 4, 1), Tile(sums, 4, 1)
    joint, sums = (64, 128, min(32, features)), (32, 128, min(128, features))
    return Tile(joint, 8, 1), Tile(sums, 8, 1)


class Products:
    """`Theta Phi` and `R Phi^T` for chunks of rows whose coordinates lie in `y (b, R, stride)`.

    Args:
        places: where in `y` the two factors of a feature begin, int32; filled up to whole tiles
            with features that are 1.
        theta: coefficients of the features, `(B, K, P)`, of which there are fewer by that.
        constant: of the feature that is 1, `(B, K)`.
        slope: of the last coordinate where that is a feature by itself, `(B, K)`.
        stride: of `y`: rows of the largest chunk, whole tiles.
        precision: of the products.
        shares_dtype: of whose digits responsibilities have to be.
    """

    def __init__(
        self,
        places: tuple[Tensor, Tensor],
        theta: Tensor,
        constant: Tensor,
        slope: Tensor | None,
        stride: int,
        precision: str,
        shares_dtype: torch.dtype,
    ) -> None:
        self._batch, self._k, self._size = theta.shape
        self._stride, self._precision = stride, precision
        self._short = shares_dtype != theta.dtype
        self._least = _LEAST_EXPONENT[shares_dtype]
        self._tiles = tiles(self._k, self._size, theta, precision)
        self._left, self._right = places
        padded = len(self._left)
        self._theta = torch.nn.functional.pad(theta, (0, padded - self._size)).contiguous()
        self._constant, self._slope = constant, slope
        self._joint = theta.new_empty(self._batch, self._k, stride)
        self._log_prob = theta.new_empty(self._batch, stride)

    def joint(self, y: Tensor, n: int) -> Tensor:
        """`log pi_k N(x_n; k)` of the first n rows, `(B, K, n)`, but for what all k share."""
        tile = self._tiles[0]
        used = cells(self._size, tile.sizes[2]) * tile.sizes[2]
        slope = self._constant if self._slope is None else self._slope
        tensors = (y, self._left, self._right, self._theta, self._constant, slope)
        out = (self._joint, self._log_prob)
        sizes = (n, self._k, len(self._left), used, y.shape[1], self._stride_b(y), self._stride)
        lowest = torch.finfo(y.dtype).min
        flags = (lowest, self._slope is not None, self._short, self._precision)
        programs = self._batch * cells(n, tile.sizes[0])
        launch(
            triton_formed.joint_formed, programs, y.device, (*tensors, *out, *sizes, *flags), tile
        )
        return self._joint[..., :n]

    def sums(self, y: Tensor, n: int, w: Tensor | None) -> tuple[Tensor, Tensor]:
        """`log p(x) (B, n)` of these rows, and sums of all features `(B, K, S + D + 1)`, float64.

        The log-joint is used up.
        """
        tile, padded = self._tiles[1], len(self._left)
        p_tiles = padded // tile.sizes[2]
        each = self._batch * cells(self._k, tile.sizes[1]) * p_tiles
        ready = p_tiles > _TIMES[y.dtype]
        slab = cells(n * each, _PROGRAMS * _LEAST_SLAB) * _LEAST_SLAB
        slab = min(slab, _LARGEST_SLAB[y.dtype])
        slabs, shape = cells(n, slab), (self._batch, self._k)
        out = y.new_empty(slabs, *shape, padded)
        weight, extra = y.new_empty(2, slabs, *shape)
        weights = self._log_prob if w is None else w.contiguous()
        stride_w = 0 if w is None or w.dim() == 1 else n
        if ready:
            self._make_shares(n, weights, stride_w, has_w=w is not None)
        tensors = (y, self._left, self._right, weights, self._joint, self._log_prob)
        sizes = (n, self._batch, self._k, padded, y.shape[1], slab)
        strides = (self._stride_b(y), self._stride, stride_w)
        has = (w is not None, self._slope is not None)
        flags = (self._least, *has, ready, self._short, self._precision)
        arguments = (*tensors, out, weight, extra, *sizes, *strides, *flags)
        launch(triton_formed.sums_formed, slabs * each, y.device, arguments, tile)
        parts = [out[..., : self._size], weight.unsqueeze(-1)]
        if self._slope is not None:
            parts.insert(0, extra.unsqueeze(-1))
        sums = torch.cat([t.sum(0, dtype=torch.float64) for t in parts], -1)
        return self._log_prob[:, :n], sums

    def _make_shares(self, n: int, w: Tensor, stride_w: int, *, has_w: bool) -> None:
        programs = self._batch * self._k * cells(n, _SHARES)
        sizes = (n, self._k, self._stride, stride_w)
        arguments = (self._joint, self._log_prob, w, *sizes, self._least, has_w, self._short)
        launch(triton_formed.shares, programs, self._joint.device, arguments, Tile((_SHARES,)))

    def _stride_b(self, y: Tensor) -> int:
        """Between the rows of two mixtures, which may share them."""
        return y.stride(0) if len(y) == self._batch > 1 else 0


def padded(k: int, size: int, like: Tensor, precision: str) -> int:
    """The number of features, filled up to whole tiles of both kernels."""
    width = max(tile.sizes[2] for tile in tiles(k, size, like, precision))
    return cells(size, width) * width


def _least_tile(k: int, size: int) -> tuple[int, int]:
    """Components and features of a tile that holds all."""
    return max(16, power_of_two(k)), max(16, power_of_two(size))
