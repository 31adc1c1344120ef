"""Starts of rows on a device without float64: made on the CPU, as sums in float64 and little else.

Rows of one block at a time are brought there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..covariance import Family, Floor
from ..data import Block, Groups, Source, Wrapped
from ..exact import has_float64, reachable
from ..parameters import Parameters
from .base import Generators, Seeding

__all__ = ["brought", "near"]


def near(seeding: Seeding, device: torch.device) -> Seeding:
    """The same seeding for rows on a device, whether that has float64 or not."""
    return seeding if has_float64(device) else _Near(seeding)


def brought(block: Block) -> Block:
    """A block where its rows can be had in float64."""
    return replace(block, x=reachable(block.x), w=None if block.w is None else reachable(block.w))


@dataclass(frozen=True)
class _Near(Seeding):
    seeding: Seeding

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        return self.seeding(_Rows(source), n_components, family, floor, generator)

    def only(self, index: Tensor) -> Seeding:
        return _Near(self.seeding.only(index))

    def of(self, number: int, count: int) -> Seeding:
        return _Near(self.seeding.of(number, count))

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: Generators,
    ) -> Parameters:
        return self.seeding.batch(_GroupsOfRows(source), n_components, family, floor, generator)


class _Rows(Wrapped):
    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return map(brought, self._source.blocks(skip=skip))

    def sample(self, size: int, generator: torch.Generator) -> Block:
        return brought(self._source.sample(size, generator))


class _GroupsOfRows(Wrapped, Groups):
    _source: Groups

    def __init__(self, source: Groups) -> None:
        super().__init__(source)
        self.n_groups, self.counts, self.runs = source.n_groups, source.counts, source.runs

    def only(self, index: Tensor) -> Groups:
        return _GroupsOfRows(self._source.only(index))

    def of(self, group: int) -> Source:
        return _Rows(self._source.of(group))

    def samples(self, size: int, generator: torch.Generator) -> Iterator[Block]:
        return map(brought, self._source.samples(size, generator))

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return map(brought, self._source.blocks(skip=skip))
