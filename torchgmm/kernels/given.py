"""Moments of rows whose responsibilities are given: the M-step's half of an E-step, for starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..collective import Group
from ..covariance import Family
from ..covariance.base import Whitened
from ..data import Block
from ..moments import Moments
from .memory import chunk_budget, onward

__all__ = ["GivenSums", "labelled_sums", "weighted_sums"]

# rows at a time where responsibilities or labels are made on the way: memory O(rows * K)
_CHUNK = 8192
# Rows with labels are copied in order: so many numbers, or so many rows of each component.
_NUMBERS, _PER_LABEL = 2**20, 64


def labelled_sums(
    blocks: Iterable[Block], frame: Tensor, family: Family, labels_of: Callable[[Block], Tensor]
) -> GivenSums:
    """Moments in float64 about `frame (K, D)` with hard labels; negative labels are left out.

    Rows are grouped by label, so a pass costs N D^2 however many components there are.
    """
    total = GivenSums(frame, family)
    k, d = frame.shape
    rows = max(_CHUNK, _NUMBERS // d, _PER_LABEL * k)
    for block in blocks:
        for part in _parts(block, rows):
            total.add_labelled(part.x, part.w, labels_of(part))
    return total


def weighted_sums(
    blocks: Iterable[Block], frame: Tensor, family: Family, draw: Callable[[Block], Tensor]
) -> GivenSums:
    """Moments in float64 about `frame (K, D)` with responsibilities `draw(block) -> (K, n)`."""
    total = GivenSums(frame, family)
    rows = max(64, _CHUNK // len(frame))
    for block in blocks:
        for part in _parts(block, rows):
            total.add(part.x, part.w, draw(part).to(frame.device))
    return total


class _Grouped(NamedTuple):
    """Rows in the order of their components."""

    counts: list[int]  # of every component
    d: Tensor  # (1, n, D), from its frame
    squares: Tensor  # (1, n, D)
    r: Tensor  # (1, n), what they weigh


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

    def add(self, x: Tensor, w: Tensor | None, r: Tensor) -> None:
        """Rows `x (n, D)` under `r (K, n)`."""
        self._n_rows += len(x)
        width = 8 * self._frame.numel()

        def size(rows: Tensor) -> int:
            return chunk_budget(None, width * len(x), rows.device)

        def sums(start: int) -> tuple[int, list[Tensor]]:
            part = slice(start, start + max(1, size(x) // width))
            own = r[:, part] if w is None else r[:, part] * w[part]
            return part.stop, self._sums(x[part], own)

        for found in onward(size, x, sums):
            for total, part in zip((self._weight, self._first, self._second), found, strict=True):
                total += part

    def _sums(self, x: Tensor, r: Tensor) -> list[Tensor]:
        # contiguous, as `scatter` wants it, whatever the order in which the rows are stored
        d = (x.double() - self._frame.unsqueeze(-2)).contiguous()  # (K, n, D)
        second = self._family.scatter(Whitened(d, d * d, r), r)
        return [r.sum(-1), (r.unsqueeze(-2) @ d).squeeze(-2), second]

    def add_labelled(self, x: Tensor, w: Tensor | None, labels: Tensor) -> None:
        """Rows `x (n, D)` that each belong to one component `labels (n,)`; negative: to none."""
        width = 8 * x.shape[-1]

        def size(rows: Tensor) -> int:  # of a row or many for each component, whatever that is
            return chunk_budget(width * len(x), 0, rows.device)

        def grouped(start: int) -> tuple[int, _Grouped]:
            part = slice(start, start + max(1, size(x) // width))
            own = None if w is None else w[part]
            return part.stop, self._grouped(x[part], own, labels[part])

        for found in onward(size, x, grouped):
            self._add_grouped(found, weighted=w is not None)
            del found  # before the next are made

    def _grouped(self, x: Tensor, w: Tensor | None, labels: Tensor) -> _Grouped:
        k = len(self._frame)
        absent, *counts = (labels + 1).bincount(minlength=k + 1).tolist()
        order = _order_by_label(labels, k)[absent:]
        d = x[order].double().contiguous().sub_(self._frame[labels[order]]).unsqueeze(0)
        r = d.new_ones(1, len(order)) if w is None else w[order].double().unsqueeze(0)
        return _Grouped(counts, d, d * d, r)

    def _add_grouped(self, rows: _Grouped, *, weighted: bool) -> None:
        counts, d, squares, r = rows
        self._n_rows += r.shape[-1]
        start = 0
        for component, count in enumerate(counts):
            if not count:
                continue
            z, mine, own = (t[:, start : start + count] for t in (d, r, squares))
            start += count
            head = 0 if self._family.tied else component
            self._second[head] += self._family.scatter(Whitened(z, own, mine), mine)[0]
            self._first[component] += torch.mm(mine, z[0])[0]
            self._weight[component] += mine.sum() if weighted else count

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


def _order_by_label(labels: Tensor, k: int) -> Tensor:
    """The places of the rows, label by label, -1 first; those of one label in their own order."""
    if labels.is_cuda or k > 2**15:
        return labels.argsort(stable=True)
    small = labels.to(torch.int16).cpu().numpy()  # few bits are sorted by counting, not comparing
    return torch.from_numpy(small.argsort(kind="stable")).to(labels.device)


def _parts(block: Block, rows: int) -> list[Block]:
    return [block.part(start, rows) for start in range(0, len(block.x), rows)]
