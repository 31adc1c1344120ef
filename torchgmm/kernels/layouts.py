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

from .base import has_triton

__all__ = ["Columns", "Layout", "Rows"]


class Layout(ABC):
    """Buffers for features of at most `rows` rows.

    Args:
        batch: leading axes B.
        d: coordinates.
        n_second: S, products of two coordinates.
        rows: of the largest chunk.
        like: a tensor of the dtype and on the device.
    """

    def __init__(
        self, batch: tuple[int, ...], d: int, n_second: int, rows: int, like: Tensor
    ) -> None:
        self._batch, self._d, self._n_second = tuple(batch), d, n_second
        self._like, self._most = like, rows

    def buffer(self, width: int) -> Tensor:
        """Room for `width` numbers per row."""
        return self._like.new_empty(math.prod(self._batch) * self._most * width)

    def part(self, buffer: Tensor, *shape: int) -> Tensor:
        """The beginning of a buffer as `(*B, *shape)`."""
        return buffer[: math.prod(self._batch) * math.prod(shape)].view(*self._batch, *shape)

    @abstractmethod
    def joint(self, theta: Tensor, out: Tensor) -> Tensor:
        """`theta . phi (*B, K, n)` of the rows last loaded, into `out`."""

    @abstractmethod
    def sums(self, r: Tensor) -> Tensor:
        """`R phi^T (*B, K, P)` for responsibilities `r (*B, K, n)`."""


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
        torch.matmul(theta[..., s:-1], self.linear.mT, out=out)
        if s == 1:
            out.addcmul_(theta[..., :1], self._square.mT)
        elif s:
            flat = out.reshape(-1, *out.shape[-2:])
            left = theta[..., :s].reshape(len(flat), -1, s)
            flat.baddbmm_(left, self._square.reshape(len(flat), -1, s).mT)
        return out.add_(theta[..., -1:])

    def sums(self, r: Tensor) -> Tensor:
        parts = [r @ self.linear, r.sum(-1, keepdim=True)]
        return torch.cat([r @ self._square, *parts] if self._n_second else parts, -1)


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
        return torch.matmul(theta, self.phi, out=out)

    def sums(self, r: Tensor) -> Tensor:
        return r @ self.phi.mT
