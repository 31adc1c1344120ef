"""Passes over blocks: shared out, cut into batches, mixed in a window, and drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .block import Block, join

__all__ = ["in_batches", "in_order", "parts", "reservoir", "sample_indices", "through_window"]


def parts(blocks: Iterator[Block], rank: int, world: int) -> Iterator[Block]:
    """Of every block the rows of one of `world` processes."""
    for block in blocks:
        n = len(block.x)
        present = n if block.w is None else int((block.w > 0).sum())
        start = n * rank // world
        yield replace(block.part(start, n * (rank + 1) // world - start), whole=present)


def in_batches(
    orders: Iterator[Tensor],
    weights: Tensor | None,
    rows: int,
    window_rows: int,
    key: tuple[int, int],
) -> Iterator[Block]:
    """`through_window` of row numbers `(n, 1)`, as if they were the rows."""

    def numbers() -> Iterator[Block]:
        for index in orders:
            w = None if weights is None else weights[index.to(weights.device)]
            yield Block(index.unsqueeze(-1), w, 0)

    return through_window(numbers(), rows, window_rows, key)


def through_window(
    blocks: Iterator[Block], rows: int, window_rows: int, key: tuple[int, int]
) -> Iterator[Block]:
    """Batches of `rows` rows out of a permuted window of at least `window_rows`."""
    waiting: list[Block] = []
    count = 0
    for number, block in enumerate(_with_end(blocks)):
        if block is not None:
            waiting.append(block)
            count += len(block.x)
            if count < window_rows:
                continue
        if not count:
            return
        window = join(waiting)
        order = torch.from_numpy(np.random.default_rng((*key, number)).permutation(count))
        # half of the window stays, so that rows of neighbouring windows meet
        leave = count if block is None else (count // 2) // rows * rows
        for start in range(0, leave, rows):
            yield window.take(order[start : min(start + rows, leave)])
        waiting = [window.take(order[leave:])]
        count -= leave


def in_order(blocks: Iterator[Block], rows: int) -> Iterator[Block]:
    """The same rows in the same order, `rows` at a time; the last batch may be smaller."""
    waiting: list[Block] = []
    count = 0
    for block in _with_end(blocks):
        if block is not None:
            waiting.append(block)
            count += len(block.x)
            if count < rows:
                continue
        if not count:
            return
        whole = join(waiting)
        leave = count if block is None else count // rows * rows
        for start in range(0, leave, rows):
            yield whole.part(start, min(rows, leave - start))
        waiting = [whole.part(leave, count - leave)] if leave < count else []
        count -= leave


def _with_end(blocks: Iterator[Block]) -> Iterator[Block | None]:
    yield from blocks
    yield None


def reservoir(blocks: Iterator[Block], size: int, generator: torch.Generator) -> Block:
    """At most `size` rows of positive weight, drawn without replacement in one pass.

    Algorithm R of Vitter (1985), a block at a time.
    """
    kept: Block | None = None
    seen = 0
    for block in blocks:
        if block.w is not None:
            block = block.take(block.w.nonzero().squeeze(-1))
        n = len(block.x)
        fresh = max(0, min(size - seen, n))
        # row number t (from 1) enters with probability size / t, at a random place
        t = torch.arange(seen + fresh + 1, seen + n + 1, dtype=torch.float64)
        drawn = (torch.rand(n - fresh, generator=generator, dtype=torch.float64) * t).long()
        place = torch.cat([torch.arange(seen, seen + fresh), drawn])
        enters = (place < size).nonzero().squeeze(-1)
        kept = _placed(kept, block.take(enters), place[enters])
        seen += n
    if kept is None or not len(kept.x):
        raise InputError("the source has no rows of positive weight")
    return kept


def _placed(kept: Block | None, block: Block, place: Tensor) -> Block:
    """`kept` with its rows at `place` replaced (or extended); of two for one place the later."""
    both = block if kept is None else join([kept, block])
    n_kept = 0 if kept is None else len(kept.x)
    size = max(n_kept, int(place.max()) + 1 if len(place) else 0)
    owner = np.arange(size)
    owner[place.numpy()] = n_kept + np.arange(len(place))
    return both.take(torch.from_numpy(owner))


def sample_indices(population: int, size: int, generator: torch.Generator) -> np.ndarray:
    """Sorted numbers below `population`, drawn without replacement in memory O(size)."""
    if size >= population:
        return np.arange(population)
    seed = int(torch.randint(2**62, (), generator=generator))
    return np.sort(np.random.default_rng(seed).choice(population, size, replace=False))
