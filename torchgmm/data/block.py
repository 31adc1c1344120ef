"""`Block`: some rows with their weights and their numbers; parts of one, and several as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..exact import exact, exact_device

__all__ = ["Block", "join"]


@dataclass(frozen=True)
class Block:
    """Some consecutive rows with their weights; or rows of several groups side by side."""

    x: Tensor  # (n, D), or (b, n, D) of b groups; row by row or column by column: as it was read
    w: Tensor | None  # (n,) or (b, n), or None where every weight is 1
    start: int  # number of the first row in the whole data set
    kept: Tensor | None = None  # (n,) numbers of the rows, counted from start; on the CPU
    number: int = 0  # of the block in its pass, where a reader counts them
    # rows of positive weight in the batch of which other processes have the rest; None: no others
    whole: int | None = None
    groups: Tensor | None = None  # (b,) whose rows x holds; None: of no group, or of all
    filled: int | None = None  # how many of the b * n rows there are, where some only fill up

    @property
    def n_rows(self) -> int:
        """How many rows it holds."""
        return self.x.shape[:-1].numel() if self.filled is None else self.filled

    def numbers(self) -> Tensor:
        """The numbers of the rows in the whole data set, `(n,)`."""
        kept = torch.arange(len(self.x)) if self.kept is None else self.kept
        return kept + self.start

    def part(self, start: int, rows: int) -> Block:
        """Rows `start` to `start + rows` of this block."""
        some = slice(start, start + rows)
        w = None if self.w is None else self.w[some]
        if self.kept is None:
            return Block(self.x[some], w, self.start + start)
        return Block(self.x[some], w, self.start, self.kept[some])

    def take(self, index: Tensor) -> Block:
        """The rows at these places of this block, in this order."""
        kept = index if self.kept is None else self.kept[index.to(self.kept.device)]
        w = None if self.w is None else self.w[index.to(self.w.device)]
        return Block(self.x[index.to(self.x.device)], w, self.start, kept.cpu())


def join(blocks: Sequence[Block]) -> Block:
    """Several blocks as one; its row numbers are those of its parts."""
    if len(blocks) == 1:
        return blocks[0]
    x = torch.cat([block.x for block in blocks])
    w = None
    if any(block.w is not None for block in blocks):
        w = torch.cat([_weights(block) for block in blocks])
    ends = [block.start + len(block.x) for block in blocks]
    in_order = all(end == after.start for end, after in zip(ends, blocks[1:], strict=False))
    if in_order and all(block.kept is None for block in blocks):
        return Block(x, w, blocks[0].start)
    return Block(x, w, 0, torch.cat([block.numbers() for block in blocks]))


def _weights(block: Block) -> Tensor:
    if block.w is None:
        place = exact_device(block.x.device)
        return torch.ones(len(block.x), dtype=torch.float64, device=place)
    return exact(block.w)
