"""`Checked`: a source as a fit reads it, ahead of the computation, on the device, without NaN."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .. import checks
from .base import Block, Source
from .prefetch import ahead, sent

__all__ = ["Checked"]


class Checked(Source):
    """A source as a fit reads it: on the device, in the computation's dtype, checked.

    Rows of weight 0 are left out. Finiteness is looked at until one whole pass was clean; the
    rows do not change after that. Where rows come from a disk or a loader they are read, checked
    and sent by a thread of their own.
    """

    def __init__(self, source: Source, dtype: torch.dtype, device: torch.device) -> None:
        self._source = source
        self._device = device
        self._clean = False
        self.n_features, self.n_rows = source.n_features, source.n_rows
        self.dtype, self.replayable = dtype, source.replayable
        self.reads = source.reads

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        yield from self._delivered(self._source.blocks(skip=skip))
        self._clean = self._clean or skip == 0

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        yield from self._delivered(self._source.batches(rows, seed=seed, epoch=epoch, skip=skip))
        self._clean = self._clean or skip == 0

    def sample(self, size: int, generator: torch.Generator) -> Block:
        return self._usable(self._source.sample(size, generator))

    def _delivered(self, blocks: Iterator[Block]) -> Iterator[Block]:
        usable = self._all_usable(blocks)
        return ahead(usable, device=self._device) if self.reads else usable

    def _all_usable(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            usable = self._usable(block)
            if len(usable.x):
                yield usable

    def _usable(self, block: Block) -> Block:
        if block.w is not None and not bool(block.w.all()):
            block = block.take(block.w.nonzero().squeeze(-1))
        if not self._clean:
            kept = block.kept
            checks.check_finite(block.x, self.dtype, offset=block.start, kept=kept)
        x = sent(block.x, self._device).to(self.dtype)
        w = None if block.w is None else sent(block.w, self._device).to(self.dtype)
        return Block(x, w, block.start, block.kept)
