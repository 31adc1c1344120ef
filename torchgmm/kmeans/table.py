"""Rows about their mean, as k-means computes with them: in small numbers products cancel less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Table", "is_shared", "mean_of", "near_mean", "with_ones"]

_NUMBERS = 2**23  # of rows that are copied in float64, 64 MiB
_FEW = 8  # features: measured on 2 to 12 of them, 1,000 to 200,000 rows


@dataclass(frozen=True)
class Table:
    """Rows of B data sets about the mean of each.

    Attributes:
        x: the rows as they were given, `(B, N, D)`.
        w: their weights `(B, N)`, float64, or None.
        rows: about the mean, `(B, N, D)`; `(1, N, D)` where all data sets are one.
        origin: that mean in float64, `(B, 1, D)` or `(1, 1, D)`.
    """

    x: Tensor
    w: Tensor | None
    rows: Tensor
    origin: Tensor

    @classmethod
    def of(cls, x: Tensor, w: Tensor | None) -> Table:
        """The table of `x (B, N, D)` with weights `w (B, N)`."""
        weights = None if w is None else w.double()
        own, weighing = x, weights
        if len(x) > 1 and x.stride(0) == 0 and (w is None or w.stride(0) == 0):
            own, weighing = x[:1], None if weights is None else weights[:1]
        # a number that rows could hold: no digit is lost
        origin = near_mean(own, weighing)
        return cls(x, weights, _by_columns(own, origin), origin.double())

    @property
    def own_weights(self) -> Tensor | None:
        """Weights of `rows`, `(B, N)` or `(1, N)`."""
        return None if self.w is None else self.w[: len(self.rows)]


def _by_columns(x: Tensor, origin: Tensor) -> Tensor:
    """`x - origin`, feature by feature where these are few: operations then run along the rows."""
    b, n, d = x.shape
    if d > _FEW or x.device.type != "cpu":
        return x - origin
    turned = torch.empty(b, d, n, dtype=x.dtype)
    return torch.sub(x.mT, origin.mT, out=turned).mT


def near_mean(x: Tensor, w: Tensor | None) -> Tensor:
    """Weighted means of `x (B, N, D)` in its dtype, `(B, 1, D)`, for what no digit depends on."""
    if w is None:
        mean = x.mean(-2, keepdim=True)
        if bool(torch.isfinite(mean).all()):  # else the sum was out of range
            return mean
    return mean_of(x, w).unsqueeze(-2).to(x.dtype)


def mean_of(x: Tensor, w: Tensor | None) -> Tensor:
    """Weighted means of `x (B, N, D)` in float64, `(B, D)`."""
    if w is None:
        return x.mean(-2, dtype=torch.float64)
    rows = max(1, _NUMBERS // (len(x) * x.shape[-1]))
    total = _weighted(x[:, :rows], w[:, :rows])
    for start in range(rows, x.shape[-2], rows):
        total += _weighted(x[:, start : start + rows], w[:, start : start + rows])
    return total / w.sum(-1, keepdim=True)


def _weighted(x: Tensor, w: Tensor) -> Tensor:
    return (w.unsqueeze(-2) @ x.double()).squeeze(-2)


def is_shared(x: Tensor, each: Tensor) -> bool:
    """Whether rows `(1, N, D)` stand for all data sets."""
    return x.shape[0] == 1 < each.shape[0]  # asked several times per step: len() costs 1 us


def with_ones(rows: Tensor, *before: Tensor) -> Tensor:
    """The columns of `rows (B, N, D)`, of others `(B, N, ...)` and a one, as the rows lie."""
    ones = rows.new_ones(*rows.shape[:-1], 1)
    if rows.stride(-1) > rows.stride(-2):  # feature by feature
        return torch.cat([t.mT for t in (rows, *before, ones)], -2).mT
    return torch.cat([rows, *before, ones], -1)
