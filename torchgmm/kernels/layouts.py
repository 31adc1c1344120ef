"""Features of a chunk of rows in memory, and the two products with them that make an E-step.

Buffers are made once and used for every chunk. `theta (*B, K, P)` has its columns in the order
second, linear, constant; so have the sums.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..buffers import room
from ..linalg import long_product
from .base import has_triton

__all__ = ["Columns", "Layout", "Rows"]

# Rows of a slab: float32 sums over more of them wear out. A GPU adds one row after the other, where
# a library on the CPU adds sums of some hundred.
_SLAB, _SLAB_ON_GPU = 2048, 1024


class Layout(ABC):
    """Buffers for features of at most `rows` rows.

    Args:
        batch: leading axes B.
        d: coordinates.
        n_second: S, products of two coordinates.
        rows: of the largest chunk.
        like: a tensor of the dtype and on the device.

    Attributes:
        precision: of the products; another than `ieee` needs Triton.
    """

    precision: str = "ieee"

    def __init__(
        self, batch: tuple[int, ...], d: int, n_second: int, rows: int, like: Tensor
    ) -> None:
        self._batch, self._d, self._n_second = tuple(batch), d, n_second
        self._like, self._most = like, rows

    def buffer(self, width: int) -> Tensor:
        """Room for `width` numbers per row."""
        return room((math.prod(self._batch) * self._most * width,), self._like)

    def part(self, buffer: Tensor, *shape: int) -> Tensor:
        """The beginning of a buffer as `(*B, *shape)`."""
        return buffer[: math.prod(self._batch) * math.prod(shape)].view(*self._batch, *shape)

    def _into(self, left: Tensor, right: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
        """`left @ right` into `out`, or added to it."""
        if self.precision != "ieee":
            from . import triton_product

            return triton_product.into(left, right, out, self.precision, add=add)
        if not add:
            return torch.matmul(left, right, out=out)
        size = left.shape[-1]
        flat = out.reshape(-1, *out.shape[-2:])
        flat.baddbmm_(left.reshape(len(flat), -1, size), right.reshape(len(flat), size, -1))
        return out

    def _summed(self, left: Tensor, right: Tensor) -> Tensor:
        """`left @ right` with as many terms as there are rows, in float64 on a CPU."""
        if self.precision != "ieee":
            from . import triton_product

            return triton_product.summed(left, right, self.precision)
        return _by_slabs(left, right, _SLAB_ON_GPU if left.is_cuda else _SLAB)

    @abstractmethod
    def joint(self, theta: Tensor, out: Tensor) -> Tensor:
        """`theta . phi (*B, K, n)` of the rows last loaded, into `out`."""

    @abstractmethod
    def sums(self, r: Tensor) -> Tensor:
        """`R phi^T (*B, K, P)` for responsibilities `r (*B, K, n)`."""


def _by_slabs(left: Tensor, right: Tensor, rows: int) -> Tensor:
    """`left (*B, K, n) @ right (*B, n, P)`: slabs in their dtype, joined in float64 in order."""
    n, p = right.shape[-2:]
    slabs = -(-n // rows)
    if slabs < 2:
        return long_product(left, right).double()
    each = n // slabs
    whole = slabs * each
    own = left[..., :whole].view(*left.shape[:-1], slabs, each).transpose(-2, -3)
    sums = long_product(own, right[..., :whole, :].view(*right.shape[:-2], slabs, each, p))
    total = sums.sum(-3, dtype=torch.float64)
    return total if whole == n else total.add_(left[..., whole:] @ right[..., whole:, :])


class Rows(Layout):
    """As the rows lie, `(n, D)` and `(n, S)`: features that are coordinates and their squares.

    Nothing is transposed: matrix products read either order equally well.
    """

    def __init__(
        self, batch: tuple[int, ...], d: int, n_second: int, rows: int, like: Tensor
    ) -> None:
        super().__init__(batch, d, n_second, rows, like)
        self._linear_buffer = self.buffer(d)
        self._square_buffer = self.buffer(d)
        self.linear = self._square = self._linear_buffer
        self._turned = False

    def room(self, x: Tensor) -> Tensor:
        """Where the coordinates of the chunk `x (*B, n, D)` go; column by column if it lies so."""
        n, self._turned = x.shape[-2], x.stride(-2) < x.stride(-1)
        self.linear = self._laid(self._linear_buffer, n)
        return self.linear

    def square(self) -> None:
        """Squares of the coordinates, or their sum where that is all there is."""
        n = self.linear.shape[-2]
        self._square = self._laid(self._square_buffer, n)
        torch.mul(self.linear, self.linear, out=self._square)
        if self._n_second == 1 != self._d:
            self._square = self._square.sum(-1, keepdim=True)

    def _laid(self, buffer: Tensor, n: int) -> Tensor:
        if self._turned:
            return self.part(buffer, self._d, n).mT
        return self.part(buffer, n, self._d)

    def joint(self, theta: Tensor, out: Tensor) -> Tensor:
        s = self._n_second
        self._into(theta[..., s:-1], self.linear.mT, out)
        if s == 1:
            out.addcmul_(theta[..., :1], self._square.mT)
        elif s:
            self._into(theta[..., :s], self._square.mT, out, add=True)
        return out.add_(theta[..., -1:])

    def sums(self, r: Tensor) -> Tensor:
        linear = self._summed(r, self.linear)
        parts = [linear, r.sum(-1, keepdim=True, dtype=linear.dtype)]
        if self._n_second:
            parts.insert(0, self._summed(r, self._square))
        return torch.cat(parts, -1)


class Columns(Layout):
    """Feature by feature, `(P, n)`: every product of two coordinates is one contiguous pass.

    With `extra`, one more feature follows the others, which whoever uses it fills.
    """

    def __init__(
        self,
        batch: tuple[int, ...],
        d: int,
        n_second: int,
        rows: int,
        like: Tensor,
        *,
        extra: bool = False,
    ) -> None:
        super().__init__(batch, d, n_second, rows, like)
        self._size = n_second + d + 1 + extra
        self._phi_buffer = self.buffer(self._size)
        self.phi = self._phi_buffer

    def room(self, x: Tensor) -> Tensor:
        """Where the coordinates of the chunk `x (*B, n, D)` go, `(*B, D, n)`."""
        self.phi = self.part(self._phi_buffer, self._size, x.shape[-2])
        return self.phi[..., self._n_second : self._n_second + self._d, :]

    def multiply(self) -> None:
        """All products of two coordinates, and ones."""
        end = self._n_second + self._d
        linear, start = self.phi[..., self._n_second : end, :], 0
        self.phi[..., end, :] = 1
        if linear.is_cuda and has_triton():  # one launch in place of D
            from . import triton_soft

            triton_soft.multiply(linear, self.phi, *self._pairs)
            return
        for i in range(self._d):
            stop = start + self._d - i
            left, right = linear[..., i : i + 1, :], linear[..., i:, :]
            torch.mul(left, right, out=self.phi[..., start:stop, :])
            start = stop

    @functools.cached_property
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Which two coordinates every product is made of."""
        i, j = torch.triu_indices(
            self._d, self._d, dtype=torch.int32, device=self._like.device
        ).unbind()
        return i.contiguous(), j.contiguous()

    def joint(self, theta: Tensor, out: Tensor) -> Tensor:
        return self._into(theta, self.phi, out)

    def sums(self, r: Tensor) -> Tensor:
        return self._summed(r, self.phi.mT)
