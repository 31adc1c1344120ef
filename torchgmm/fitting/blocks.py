"""The same blocks of rows on every pass, for the methods that keep statistics of each."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..checks import check_count
from ..data import Block
from ..errors import InputError
from .base import Problem, State

__all__ = ["check_blocks", "fixed_blocks", "require_replay", "require_same_blocks"]

# Rows of a block where nobody knows how many rows there are: enough that the moments that are
# kept of it are small beside it.
_UNKNOWN = 8192


def check_blocks(n_blocks: int, block_rows: int | None) -> None:
    """Refuse settings of blocks that mean nothing."""
    check_count("n_blocks", n_blocks)
    if block_rows is not None:
        check_count("block_rows", block_rows)


def require_replay(problem: Problem, what: str, instead: str) -> None:
    """Refuse a source that can be read only once, saying why and what to do."""
    if not problem.source.replayable:
        raise InputError(
            f"{what}, but this source can be read only once: give something that can be read "
            f"again (a function that makes the iterator), or {instead}"
        )


def require_same_blocks(problem: Problem, what: str) -> None:
    """Refuse a source that cannot give the same blocks again, saying why and what to do."""
    require_replay(problem, what, "use OnlineEM")
    if problem.source.own and problem.group.size > 1:
        raise InputError(
            f"{what}, but each process has rows of its own, and blocks would change with the "
            "number of processes: give all of them the same data, or use EM or OnlineEM"
        )
    if not problem.source.stable:
        raise InputError(
            f"{what}, but this loader draws another order on every pass: give it shuffle=False "
            "(the rows of a block are drawn at random anyway), or use OnlineEM"
        )


def fixed_blocks(
    problem: Problem,
    state: State,
    *,
    n_blocks: int,
    block_rows: int | None,
    seed: int,
    known: int | None,
) -> Iterator[tuple[int, int, Block]]:
    """Blocks, random but the same for the same seed: the position after it, its number, a block.

    Args:
        problem: whose rows.
        state: where in a pass to begin; the size of its mixture says what a block is where the
            number of rows is not known.
        n_blocks: into how many the rows are cut.
        block_rows: rows of a block; from `n_blocks` if None.
        seed: of the cut.
        known: how many blocks there were before, None at the first pass.

    Raises:
        InputError: the source gives no rows, or other blocks than at its first pass.
    """
    source, p = problem.source, state.parameters
    size = block_rows
    if size is None and source.n_rows is not None:
        size = max(1, math.ceil(source.n_rows / n_blocks))
    if size is None:
        size = max(_UNKNOWN, p.n_components * p.family.min_rows(p.n_features))
    count = state.sums.batches
    for position, batch in problem.batches(size, seed, 0, state.position):
        if known is None or count < known:
            yield position, count, batch
        count += 1
    if known is not None and count != known:
        raise InputError(
            f"the source gave {count} blocks after {known} in its first pass: this method needs "
            "the same rows in the same order every time"
        )
    if not count:
        raise InputError("the source gave no rows of positive weight")
