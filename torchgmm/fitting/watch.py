"""While a step is under way: how many rows it has read, and a state from which it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from ..data import Block, Source, Wrapped

if TYPE_CHECKING:
    from .base import State

__all__ = ["Watch", "Watched"]

# Observers are told at most ten times a second: a bar moves smoothly, and no step becomes slower.
_EVERY = 0.1


class Watch:
    """Counts the rows of the step under way, and tells somebody now and then.

    Attributes:
        tell: called between two blocks, if a tenth of a second has gone by since the last time.
        rows: of the step, so far.
        state: the last one that the method named as one from which the step can go on.
    """

    def __init__(self) -> None:
        self.tell: Callable[[], None] | None = None
        self.rows = 0
        self.state: State | None = None
        self._started = self._told = time.perf_counter()

    def begin(self, rows: int = 0, seconds: float = 0.0) -> None:
        """A step begins, of which so many rows were read in so many seconds before."""
        self.rows, self.state = rows, None
        self._told = time.perf_counter()
        self._started = self._told - seconds

    def end(self) -> None:
        """The step is over: what was noted of it is out of date."""
        self.state = None

    @property
    def seconds(self) -> float:
        """How long the step has taken so far."""
        return time.perf_counter() - self._started

    def between_blocks(self) -> None:
        """Tell how far the step has come, if it is time."""
        if self.tell is not None and time.perf_counter() - self._told >= _EVERY:
            self.tell()
            self._told = time.perf_counter()


class Watched(Wrapped):
    """A source whose blocks are counted as they are taken.

    A block counts from the moment the next one is asked for, when all that it brings is in the
    state that the method has named.
    """

    def __init__(self, source: Source, watch: Watch) -> None:
        super().__init__(source)
        self._watch = watch

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return self._counted(self._source.blocks(skip=skip))

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        return self._counted(self._source.batches(rows, seed=seed, epoch=epoch, skip=skip))

    def ordered_batches(self, rows: int, *, skip: int = 0) -> Iterator[Block]:
        return self._counted(self._source.ordered_batches(rows, skip=skip))

    def sample(self, size: int, generator: torch.Generator) -> Block:
        return self._source.sample(size, generator)

    def _counted(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            self._watch.between_blocks()
            self._watch.rows += len(block.x)
            yield block
