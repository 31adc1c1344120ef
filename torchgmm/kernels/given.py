"""Moments of rows whose responsibilities are given: the M-step's half of an E-step, for starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..collective import Group
from ..covariance import Family
from ..covariance.base import Whitened
from ..data import Block
from ..moments import Moments

__all__ = ["GivenSums", "labelled_sums", "weighted_sums"]

# rows at a time where responsibilities or labels are made on the way: memory O(rows * K)
_CHUNK = 8192


def labelled_sums(
    blocks: Iterable[Block], frame: Tensor, family: Family, labels_of: Callable[[Block], Tensor]
) -> GivenSums:
    """Moments in float64 about `frame (K, D)` with hard labels; negative labels are left out.

    Rows are grouped by label, so a pass costs N D^2 however many components there are.
    """
    total = GivenSums(frame, family)
    for block in blocks:
        for part in _parts(block):
            labels = labels_of(part)
            order = labels.argsort(stable=True)
            counts = labels[labels >= 0].bincount(minlength=len(frame)).tolist()
            start = int((labels < 0).sum())
            for k, count in enumerate(counts):
                rows = order[start : start + count]
                start += count
                if count:
                    ones = torch.ones(1, count, dtype=torch.float64, device=frame.device)
                    w = None if part.w is None else part.w[rows]
                    total.add(slice(k, k + 1), part.x[rows], w, ones)
    return total


def weighted_sums(
    blocks: Iterable[Block], frame: Tensor, family: Family, draw: Callable[[Block], Tensor]
) -> GivenSums:
    """Moments in float64 about `frame (K, D)` with responsibilities `draw(block) -> (K, n)`."""
    total = GivenSums(frame, family)
    rows = max(64, _CHUNK // len(frame))
    for block in blocks:
        for part in _parts(block, rows):
            total.add(slice(None), part.x, part.w, draw(part).to(frame.device))
    return total


class GivenSums:
    """Running sums of given responsibilities: the M-step's half of an E-step."""

    def __init__(self, frame: Tensor, family: Family) -> None:
        k, d = frame.shape
        self._family = family
        self._frame = frame
        self._weight = frame.new_zeros(k)
        self._first = frame.new_zeros(k, d)
        self._second = frame.new_zeros(family.scale_shape(k, d))
        self._n_rows = 0

    def add(self, which: slice, x: Tensor, w: Tensor | None, r: Tensor) -> None:
        """Rows `x (n, D)` under `r (K', n)` for the components `which`; r may be overwritten."""
        self._n_rows += len(x)
        if w is not None:
            r = r * w
        # contiguous, as `scatter` wants it, whatever the order in which the rows are stored
        d = (x.double() - self._frame[which].unsqueeze(-2)).contiguous()  # (K', n, D)
        squares = d * d
        second = self._family.scatter(Whitened(d, squares, squares.sum(-1)), r)
        self._weight[which] += r.sum(-1)
        self._first[which] += (r.unsqueeze(-2) @ d).squeeze(-2)
        self._second[slice(None) if self._family.tied else which] += second

    def over(self, group: Group) -> GivenSums:
        """The sums over the rows of all processes."""
        if group.size > 1:
            rows = self._weight.new_tensor(float(self._n_rows))
            sums = group.sum((self._weight, self._first, self._second, rows), (self._frame,))
            self._weight, self._first, self._second, rows = sums
            self._n_rows = int(rows)
        return self

    @property
    def unit(self) -> float:
        """The mean weight of a row."""
        return float(self._weight.sum()) / max(1, self._n_rows)

    def moments(self) -> Moments:
        """What was added up; `rows` counts only rows that have a label."""
        nothing = self._weight.new_zeros(())
        return Moments(
            self._weight, self._first, self._second, nothing, self._weight.sum(), self._frame
        )


def _parts(block: Block, rows: int = 16 * _CHUNK) -> list[Block]:
    return [block.part(start, rows) for start in range(0, len(block.x), rows)]
