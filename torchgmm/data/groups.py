"""Rows of many groups at once, and one source of rows that all groups share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from .base import Source
from .block import Block
from .wrapped import Wrapped

__all__ = ["BLOCK_BYTES", "Groups", "SharedGroups"]

# What one block may hold: a gathered copy of some groups' rows.
BLOCK_BYTES = 16 * 2**20


class Groups(Source):
    """Rows of several groups: a batch of mixtures is fitted to them, one to each.

    Attributes:
        n_groups: B.
        counts: `(B,)` rows of positive weight of every group, on the CPU.
        runs: whether they are the same rows for several runs, of which one will be kept: starts
            that differ in the order of their components alone are then one.
    """

    stable = False  # which groups are left changes from pass to pass
    n_groups: int
    counts: Tensor
    runs: bool = False

    @abstractmethod
    def only(self, index: Tensor) -> Groups:
        """Some of the groups, by number `(b,)`; no row is copied."""

    @abstractmethod
    def of(self, group: int) -> Source:
        """The rows of one group."""

    @abstractmethod
    def samples(self, size: int, generator: torch.Generator) -> Iterator[Block]:
        """At most `size` rows of every group, drawn without replacement; every group comes once.

        Blocks are `(b, n, D)` with their `groups`.
        """


class SharedGroups(Wrapped, Groups):
    """One source of rows for all groups: restarts, or weights `(B, N)` of the groups' own.

    Args:
        source: as a fit reads it.
        n_groups: B.
        weights: `(B, N)`, where groups weigh the rows differently.
        runs: see `Groups`.
    """

    def __init__(
        self, source: Source, n_groups: int, weights: Tensor | None = None, *, runs: bool = False
    ) -> None:
        super().__init__(source)
        self.stable = Groups.stable
        self.n_groups, self._weights, self.runs = n_groups, weights, runs
        rows = -1 if source.n_rows is None else source.n_rows
        self.counts = torch.full((n_groups,), rows)
        if weights is not None:
            self.counts = (weights > 0).sum(-1).cpu()

    def only(self, index: Tensor) -> SharedGroups:
        weights = self._weights
        if weights is not None:
            weights = weights[index.to(weights.device)]
        return SharedGroups(self._source, len(index), weights, runs=self.runs)

    def of(self, group: int) -> Source:
        if self._weights is None:
            return self._source
        return _Reweighted(self._source, self._weights[group])

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        for block in self._source.blocks(skip=skip):
            yield block if self._weights is None else _weighted(block, self._weights)

    def samples(self, size: int, generator: torch.Generator) -> Iterator[Block]:
        block = self._source.sample(size, generator)
        if self._weights is not None:
            block = _weighted(block, self._weights)
        x = block.x.expand(self.n_groups, *block.x.shape)
        w = None if block.w is None else block.w.expand(x.shape[:-1])
        # kept small by number of groups, as `size` bounds their rows
        each = max(1, BLOCK_BYTES // max(1, x[0].numel() * x.element_size()))
        for number, first in enumerate(range(0, self.n_groups, each)):
            some = torch.arange(first, min(first + each, self.n_groups))
            part = slice(first, first + each)
            own = None if w is None else w[part]
            yield Block(x[part], own, 0, number=number, groups=some)


class _Reweighted(Wrapped):
    """A source whose rows weigh otherwise for one group."""

    def __init__(self, source: Source, weights: Tensor) -> None:
        super().__init__(source)
        self._weights = weights

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        for block in self._source.blocks(skip=skip):
            mine = _weighted(block, self._weights)
            assert mine.w is not None
            yield mine.take(mine.w.nonzero().squeeze(-1))


def _weighted(block: Block, weights: Tensor) -> Block:
    """A block with its rows' columns of `weights (*B, N)`."""
    own = weights[..., block.numbers().to(weights.device)].to(block.x.device, block.x.dtype)
    return Block(block.x, own, block.start, block.kept, block.number)
