"""Chunks of rows on their way through the two products of quadratic features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..buffers import room
from .features import Features

__all__ = ["MOST_ROWS", "Assign", "Chunks"]

MOST_ROWS = 65_536  # past which nothing is gained

# Responsibilities in place of a log-joint `(*B, K, n)`, and `log p(x) (*B, n)`.
Assign = Callable[[Tensor], tuple[Tensor, Tensor]]


class Chunks:
    """Chunks of rows, loaded one after the other, with a buffer `(*B, K, n)` beside them."""

    layout: Any

    def __init__(
        self,
        features: Features,
        x: Tensor,
        dtype: torch.dtype,
        budget: int,
        precision: str = "ieee",
    ) -> None:
        p = features.parameters
        self.features, self.dtype = features, dtype
        self._x = x if x.dim() > 2 else x.expand(*features.batch, *x.shape)
        theta = features.coefficients().to(dtype)
        self._theta = theta.reshape(*features.batch, -1, features.size)
        self._shape = (*p.batch_shape, p.n_components)
        numbers = features.size * math.prod(features.batch) + 2 * math.prod(self._shape)
        width = numbers * dtype.itemsize
        self._rows = min(max(budget // width // 256 * 256, 64), MOST_ROWS, x.shape[-2])
        like = torch.empty(0, dtype=dtype, device=x.device)
        self.layout = features.layout(self._rows, like)
        self.layout.precision = precision
        self._joint = room((math.prod(self._shape) * self._rows,), like)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the rows, and `log pi_k N(x_n; k)` but for what all components share."""
        n_rows = self._x.shape[-2]
        for start in range(0, n_rows, self._rows):
            part = slice(start, min(start + self._rows, n_rows))
            self.features.load(self._x[..., part, :], self.layout)
            n = part.stop - start
            flat = self._joint[: math.prod(self._shape) * n]
            self.layout.joint(self._theta, flat.view(*self._theta.shape[:-1], n))
            yield part, flat.view(*self._shape, n)

    def sums(self, joint: Tensor, w: Tensor | None, assign: Assign) -> tuple[Tensor, Tensor]:
        """`log p(x) (*B, n)` of the chunk under way, and `R phi^T (*B, K, P)`.

        The log-joint is overwritten.
        """
        r, log_prob = assign(joint)
        if w is not None:
            r.mul_(w.unsqueeze(-2))
        own = r.reshape(*self._theta.shape[:-1], r.shape[-1])
        return log_prob, self.layout.sums(own).reshape(*self._shape, -1)
