"""Moments about a frame: additive sufficient statistics, the one thing every fit passes around."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .answers import answer

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    """Weighted sums over rows about known origins, in float64.

    They form a vector space: `+` joins data sets, `*` scales (decays) one, and the sum over any
    cut of the rows is the same to rounding. `Family.moved` takes them to another frame without
    the data. The shape of `second` is the family's: `H` is K, or 1 where the family is tied.
    """

    weight: Tensor  # (*B, K)     sum w r
    first: Tensor  # (*B, K, D)  sum w r (x - c)
    second: Tensor  # (*B, H, D, D) full, (*B, H, D) diagonal, (*B, H, 1) spherical
    log_prob: Tensor  # (*B,)       sum w log p(x), nats
    rows: Tensor  # (*B,)       sum w
    frame: Tensor  # (*B, K, D)  the origins c

    def __add__(self, other: Moments) -> Moments:
        """The moments of both data sets together; both must stand on one frame."""
        if self.frame is not other.frame and not torch.equal(self.frame, other.frame):
            raise ValueError("moments about different frames do not add: move one first")
        return Moments(
            self.weight + other.weight,
            self.first + other.first,
            self.second + other.second,
            self.log_prob + other.log_prob,
            self.rows + other.rows,
            self.frame,
        )

    def __mul__(self, factor: float) -> Moments:
        """Every row's weight times `factor`."""
        return Moments(
            self.weight * factor,
            self.first * factor,
            self.second * factor,
            self.log_prob * factor,
            self.rows * factor,
            self.frame,
        )

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> Moments:
        """Those of some mixtures of a batch."""
        return Moments(*(getattr(self, name)[index] for name in _FIELDS))

    def put(self, index: Any, other: Moments) -> Moments:
        """With those of the mixtures at `index` of the leading axis replaced by others."""
        return Moments(*(getattr(self, f).index_put((index,), getattr(other, f)) for f in _FIELDS))

    def add_(self, index: Tensor, other: Moments) -> Moments:
        """In place: those of other mixtures, about the same origins, are added at `index`."""
        for name in _FIELDS[:-1]:
            own = getattr(self, name)
            own[index] += getattr(other, name)
        for known in ("present", "mean"):
            self.__dict__.pop(known, None)
        return self

    def map(self, change: Callable[[Tensor], Tensor]) -> Moments:
        """The same moments with every tensor passed through `change`."""
        return Moments(*(change(getattr(self, name)) for name in _FIELDS))

    @staticmethod
    def cat(parts: Sequence[Moments]) -> Moments:
        """Those of several batches of mixtures one after the other, along the first axis."""
        if len(parts) == 1:
            return parts[0]
        return Moments(*(torch.cat([getattr(m, name) for m in parts]) for name in _FIELDS))

    @functools.cached_property
    def present(self) -> Tensor:
        """The weight, and a tiny one where there is none, to divide by, `(*B, K)`."""
        return self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)

    @functools.cached_property
    def mean(self) -> Tensor:
        """The components' own means about the frame, `(*B, K, D)`; 0 where there is no weight."""
        return self.first / self.present.unsqueeze(-1)

    @property
    def mean_log_prob(self) -> Tensor:
        """Mean log-probability per unit of weight, nats, `(*B,)`."""
        return self.log_prob / self.rows

    def is_finite(self) -> bool:
        """Whether every sum is finite."""
        sums = (self.weight, self.first, self.second, self.log_prob)
        # NaN and infinities come through sums, so one number tells, and is waited for, as a rule
        total = torch.stack([t.sum() for t in sums]).sum(0, keepdim=True)
        if answer(total, _is_finite):
            return True
        return all(bool(torch.isfinite(t).all()) for t in sums)

    def finite(self) -> Tensor:
        """The same for each mixture of a batch `(B,)`."""
        sums = (self.weight, self.first, self.second, self.log_prob)
        flat = [torch.isfinite(t).reshape(len(t), -1).all(-1) for t in sums]
        return torch.stack(flat).all(0)


def _is_finite(number: Any) -> Any:
    return number - number == 0  # of a float as of a tensor


_FIELDS = ("weight", "first", "second", "log_prob", "rows", "frame")
