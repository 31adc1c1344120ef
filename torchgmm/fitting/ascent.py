"""On the way uphill: what an optimiser moves, and what its moves are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..data import Block, Source
from ..kernels import Kernel, score
from ..moments import Moments
from ..parameters import Parameters
from .base import Problem, State
from .coordinates import located, tempered
from .optimizers import frozen, thawed

__all__ = ["AllRows", "Ascent", "GradientState", "leaves_of"]


@dataclass(frozen=True)
class GradientState(State):
    """What gradient ascent goes on from.

    Attributes:
        frame: the origin of the coordinates (`coordinates.placed`).
        point: the coordinates, which the optimiser moves.
        seen: `(K,)` weight that every component had in this pass.
        optimizer: its state dict as nested tuples; empty before the first update.
        schedule: the scheduler's.
        row_weight: the weight that counts as one row, the mean of the first batch.
        annealed: tempered passes made.
        epoch: passes completed.
        seed: of the order of the rows.
    """

    frame: Parameters = field(kw_only=True)
    point: Parameters = field(kw_only=True)
    seen: Tensor = field(kw_only=True)
    optimizer: tuple[Any, ...] = ()
    schedule: tuple[Any, ...] = ()
    row_weight: float = 0.0
    annealed: int = 0
    epoch: int = 0
    seed: int = 0


class AllRows:
    """The blocks of a source, from the start each time."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __iter__(self) -> Iterator[Block]:
        return self._source.blocks()


class Ascent:
    """An optimiser on its way through a pass: what it moves, and what the moves were made of.

    Attributes:
        failed: whether a number was not finite.
    """

    def __init__(
        self,
        state: GradientState,
        leaves: list[Tensor],
        optimizer: Optimizer,
        problem: Problem,
        *,
        size: int | None,  # rows of a whole batch; None where a batch is all rows
        kernel: Kernel,
        beta: float,
        floor: float,
        clip: float | None,
        even: bool,  # as `located` has it
    ) -> None:
        optimizer.load_state_dict(thawed(state.optimizer))
        self._begun, self._leaves, self._optimizer = state, leaves, optimizer
        self._problem = problem
        self._size, self._kernel, self._beta = size, kernel, beta
        self._floor, self._clip, self._even = floor, clip, even
        self._blocks: Iterable[Block] = ()
        self._first, self.failed = True, False
        self._seen, self._row_weight, self._sums = state.seen, state.row_weight, state.sums

    def update(self, blocks: Iterable[Block]) -> None:
        """One step of the optimiser on these rows."""
        self._blocks, self._first = blocks, True
        self._optimizer.step(self._closure)  # type: ignore[arg-type]

    def state(self, position: int) -> GradientState:
        """From which the pass can go on; its parameters are those before the pass."""
        return replace(
            self._begun,
            point=self._point().map(lambda t: t.detach().clone()),
            seen=self._seen,
            optimizer=frozen(self._optimizer.state_dict()),
            row_weight=self._row_weight,
            position=position,
            sums=self._sums,
        )

    def _closure(self) -> Tensor:
        """Minus the mean log-likelihood, tempered or not; its gradient goes to the leaves."""
        at = self._located()
        if at is None:
            self.failed |= self._first  # later ones are trials of a line search
            return self._leaves[0].new_full((), math.inf)
        now = at.map(Tensor.detach)
        moments, level = self._e_step(now)
        if moments is None:
            return level
        weight = moments.rows if self._size is None else self._row_weight * self._size
        tensors = (at.logits, at.means, at.scale)
        outputs = [t / -weight for t in score(moments, now)]
        gradients = torch.autograd.grad(tensors, self._leaves, outputs)
        for leaf, gradient in zip(self._leaves, gradients, strict=True):
            leaf.grad = gradient
        if self._beta < 1:  # wide responsibilities would make all covariances that of all rows
            for leaf in (self._leaves[0], self._leaves[2]):
                leaf.grad = torch.zeros_like(leaf)
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._leaves, self._clip)
        return -level / weight

    def _located(self) -> Parameters | None:
        with torch.enable_grad():
            return located(self._begun.frame, self._point(), self._floor, even=self._even)

    def _point(self) -> Parameters:
        logits, means, scale = self._leaves
        return Parameters(logits, means, scale, self._begun.point.family)

    def _e_step(self, now: Parameters) -> tuple[Moments | None, Tensor]:
        """Moments of the rows, and the log-likelihood that their score is the gradient of."""
        asked, constant = now, torch.zeros_like(now.logits[0])
        if self._beta < 1:
            asked, constant = tempered(now, self._beta)
        moments, rows = None, 0
        for block in self._blocks:
            if len(block.x):
                part = self._kernel.accumulate(block.x, block.w, asked)
                moments = part if moments is None else moments + part
                rows += len(block.x)
        moments, rows = self._problem.summed(moments, rows, asked)
        if moments is None:
            return None, constant
        if self._first and self._beta == 1:
            self._sums = self._sums.e_step(rows, moments)
        else:
            self._sums = replace(self._sums, rows=self._sums.rows + rows)
        if self._first:
            self._first, self.failed = False, not moments.is_finite()
            self._seen = self._seen + moments.weight
            self._row_weight = self._row_weight or float(moments.rows) / rows
        return moments, (moments.log_prob + moments.rows * constant) / self._beta


def leaves_of(point: Parameters) -> list[Tensor]:
    """Tensors for an optimiser to move, at this point."""
    tensors = (point.logits, point.means, point.scale)
    return [t.detach().clone().requires_grad_() for t in tensors]
