"""`Checked`: a source as a fit reads it, ahead of the computation, on the device, without NaN."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace

import torch

from .. import checks
from ..exact import tell_rounding
from .base import Source
from .block import Block
from .prefetch import ahead, sent
from .wrapped import Wrapped

__all__ = ["Checked"]

# Rows in memory that are kept as the computation reads them: so much is no second copy to speak of.
_KEPT_BYTES = 16 * 2**20


class Checked(Wrapped):
    """A source as a fit reads it: on the device, in the computation's dtype, checked.

    Rows of weight 0 are left out. Finiteness is looked at until one whole pass was clean; the
    rows do not change after that. Where rows come from a disk or a loader they are read, checked
    and sent by a thread of their own, if it has a core to itself; so are rows in memory on their
    way to a GPU. Blocks are numbered as the source gives them, so that a reader finds its place
    again though blocks without a row of positive weight are left out.

    Args:
        source: the rows.
        dtype: of the computation.
        device: of the computation.
        by_columns: whether few rows are turned, feature by feature; those in memory once for all
            passes. On a CPU, where operations then run along the rows.
    """

    def __init__(
        self,
        source: Source,
        dtype: torch.dtype,
        device: torch.device,
        *,
        by_columns: bool = False,
    ) -> None:
        super().__init__(source)
        self.dtype = dtype
        self._device = device
        self._clean = self._told = False
        self._absent = False  # whether a row of weight 0 was seen
        rows = math.inf if source.n_rows is None else source.n_rows
        small = rows * self.n_features * dtype.itemsize <= _KEPT_BYTES
        self._turns = by_columns and small and device.type == "cpu"
        self._keeps = self._turns and not source.reads and source.stable and source.replayable
        self._kept: Block | None = None

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        if self._kept is not None and skip == 0:
            yield self._kept
            return
        delivered = self._delivered(self._source.blocks(skip=skip), skip)
        # directly where they are many, so that a reader ends with whoever takes its blocks
        yield from self._all_turned(delivered) if self._turns else delivered
        self._clean = self._clean or skip == 0

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        batches = self._source.batches(rows, seed=seed, epoch=epoch, skip=skip)
        yield from self._delivered(batches, skip)
        self._clean = self._clean or skip == 0

    def ordered_batches(self, rows: int, *, skip: int = 0) -> Iterator[Block]:
        if self.group.size == 1:
            return super().ordered_batches(rows, skip=skip)
        return self._delivered(self._source.ordered_batches(rows, skip=skip), skip)

    def sample(self, size: int, generator: torch.Generator) -> Block:
        if self._keeps and self.n_rows is not None and size >= self.n_rows:
            every = next(self.blocks(), None)
            if every is not None and len(every.x) == self.n_rows:
                return every
        return self._turned(self._usable(self._source.sample(size, generator)))

    def _all_turned(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            found = self._turned(block)
            if self._keeps and len(found.x) == self.n_rows:
                self._kept = found
            yield found

    def _turned(self, block: Block) -> Block:
        """Column by column, if all rows are in the block and few: the same rows, the same bits."""
        if not self._turns or len(block.x) != self.n_rows:
            return block
        return replace(block, x=block.x.mT.contiguous().mT)

    def _delivered(self, blocks: Iterator[Block], first: int) -> Iterator[Block]:
        usable = self._all_usable(blocks, first)
        return ahead(usable, device=self._device) if self._pays_ahead() else usable

    def _pays_ahead(self) -> bool:
        """Whether a thread should read, check and send blocks while others are computed."""
        if self._device.type == "cuda" and self.on_host:
            return True  # the way there is all that a GPU would wait for
        return self.reads and (not self.decodes or _idle_cores(self._device))

    def _all_usable(self, blocks: Iterator[Block], first: int) -> Iterator[Block]:
        for number, block in enumerate(blocks, first):
            usable = self._usable(block, number)
            if usable.whole or (usable.whole is None and len(usable.x)):
                yield usable

    def _usable(self, block: Block, number: int = 0) -> Block:
        whole = block.whole
        looked_at = self._clean and not self._absent  # weights do not change either
        if block.w is not None and not looked_at and not bool(block.w.all()):
            block, self._absent = block.take(block.w.nonzero().squeeze(-1)), True
        if not self._clean:
            kept = block.kept
            checks.check_finite(block.x, self.dtype, offset=block.start, kept=kept)
            self._told = self._told or tell_rounding(block.x, self._device)
        x = sent(block.x, self._device).to(self.dtype)
        w = None if block.w is None else sent(block.w, self._device).to(self.dtype)
        return Block(x, w, block.start, block.kept, number, whole)


def _idle_cores(device: torch.device) -> bool:
    """Whether the computation leaves a core for decoding.

    Where it leaves none, a thread that decodes takes one of the computation's cores, and the
    others wait for that one at the end of every operation: one after the other is faster.
    """
    if device.type != "cpu":
        return True
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return cores > torch.get_num_threads()
