"""Variance-reduced stepwise EM: online steps without their noise, for rows that are revisited."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from ..covariance import Family, Floor
from ..data import Block
from ..errors import InputError
from ..kernels import Kernel, as_kernel
from ..moments import Moments
from ..parameters import Parameters
from .base import Method, Problem, State, Step, own_state
from .blocks import check_blocks, fixed_blocks, require_same_blocks
from .mstep import m_step
from .rescue import Rescue

__all__ = ["ReducedState", "VarianceReducedEM"]


# an estimate that is a difference may look empty for a moment: the next snapshot decides
_LATER = Rescue(empty="keep", collapsed="keep")


@dataclass(frozen=True)
class ReducedState(State):
    """What variance-reduced EM goes on from.

    Attributes:
        blocks: moments of every block at the last snapshot, about one frame; of those read so far
            while one is taken.
        whole: whether the snapshot was taken before this pass, which is one of reduced steps.
        running: the statistics in such a pass; None before its first block.
        seed: of the cut into blocks.
    """

    blocks: tuple[Moments, ...] = ()
    whole: bool = False
    running: Moments | None = None
    seed: int = 0


@dataclass(frozen=True)
class VarianceReducedEM(Method):
    """Stochastic EM with variance reduction, sEM-vr (Chen, Zhu, Teh & Zhang 2018).

    Steps alternate. A *snapshot* pass is a step of exact EM that keeps the moments `S_b` of every
    block. In the pass after it, each block b moves the statistics by a constant step size,
    `s <- (1 - rate) s + rate (S + B (S_b(now) - S_b(snapshot)))`, with an M-step after each: the
    noise of the block cancels, so no step size has to fall.

    The source must give the same rows in the same order on every pass, so a loader that shuffles is
    refused. Memory is `n_blocks` times that of one set of moments.

    Args:
        max_iter: most steps, that is passes.
        n_blocks: into how many blocks B the rows are cut, if their number is known.
        block_rows: rows of a block; from `n_blocks` if not given.
        rate: the constant step size, above 0 and at most 1.
        reg_covar: the floor, as in `EM`.
        rescue: the policy for components that empty or collapse.
        kernel: how the E-step is computed.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> x[2000:] += 8
        >>> mixture = tg.GaussianMixture(2)
        >>> tg.fit(mixture, x, tg.VarianceReducedEM(n_blocks=8), generator=0).status.name
        'CONVERGED'
    """

    state_type: ClassVar[type[State]] = ReducedState
    max_iter: int = 50
    n_blocks: int = 32
    block_rows: int | None = None
    rate: float = 0.1
    reg_covar: Floor = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks(self.n_blocks, self.block_rows)
        if not 0 < self.rate <= 1:
            raise InputError(f"rate must be above 0 and at most 1, got {self.rate}")

    def init(self, parameters: Parameters, problem: Problem) -> ReducedState:
        seed = int(torch.randint(2**62, (), generator=problem.generator))
        return ReducedState(parameters, seed=seed)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        state = own_state(self, state, ReducedState)
        require_same_blocks(problem, "variance-reduced EM reads the same blocks at every step")
        kernel = as_kernel(self.kernel)
        if not state.position:
            state = replace(state, whole=bool(state.blocks))
        if state.whole:
            return self._reduced(state, problem, kernel)
        return self._snapshot(state, problem, kernel)

    def _blocks(
        self, state: ReducedState, problem: Problem, *, known: int | None
    ) -> Iterator[tuple[int, int, Block]]:
        return fixed_blocks(
            problem,
            state,
            n_blocks=self.n_blocks,
            block_rows=self.block_rows,
            seed=state.seed,
            known=known,
        )

    def _snapshot(
        self, state: ReducedState, problem: Problem, kernel: Kernel
    ) -> tuple[State, Step]:
        given = state
        for position, _, batch in self._blocks(state, problem, known=None):
            found, rows = problem.e_step(kernel, batch, state.parameters)
            state = replace(
                state,
                blocks=(*state.blocks, found),
                sums=state.sums.e_step(rows, found),
                position=position,
            )
            problem.reached(state)
        total = _total(state.blocks)
        if not total.is_finite():
            return given, Step(math.nan, state.sums.rows, kernel=kernel.ran)
        after = m_step(
            total,
            state.parameters,
            floor=self.reg_covar,
            rescue=self.rescue,
            spent=state.rescues,
            blocks=problem.source.blocks(),
            kernel=kernel,
            group=problem.group,
        )
        sums = state.sums.m_step(after.rescued, after.collapsed)
        # after a rescue the snapshot is of components that are gone: take another
        kept = () if bool(after.rescued.any()) else state.blocks
        state = ReducedState(
            after.parameters,
            state.step + 1,
            state.rescues + sums.rescued,
            blocks=kept,
            seed=state.seed,
        )
        return state, sums.step(kernel.ran)

    def _reduced(self, state: ReducedState, problem: Problem, kernel: Kernel) -> tuple[State, Step]:
        given, snapshot = state, _total(state.blocks)
        for position, number, batch in self._blocks(state, problem, known=len(state.blocks)):
            found, rows = problem.e_step(kernel, batch, state.parameters)
            if not found.is_finite():
                return given, Step(math.nan, state.sums.rows, kernel=kernel.ran)
            state = replace(state, sums=state.sums.e_step(rows, found), position=position)
            state = self._learn(state, snapshot, number, found, kernel)
            problem.reached(state)
        step = state.sums.step(kernel.ran)
        parameters, rescues, seed = state.parameters, state.rescues, state.seed
        return ReducedState(parameters, state.step + 1, rescues, seed=seed), step

    def _learn(
        self,
        state: ReducedState,
        snapshot: Moments,
        number: int,
        found: Moments,
        kernel: Kernel,
    ) -> ReducedState:
        """Move the statistics by what a block says beyond what it said at the snapshot; M-step."""
        family, old = state.parameters.family, state.blocks[number]
        scale = float(snapshot.rows / old.rows)
        change = family.moved(found, snapshot.frame) + old * -1.0
        target = snapshot + change * scale
        running = snapshot if state.running is None else state.running
        mixed = running * (1 - self.rate) + target * self.rate
        if not _valid(mixed, family):  # a block too small for the step size: leave this one out
            return replace(state, running=running)
        after = m_step(
            mixed,
            state.parameters,
            floor=self.reg_covar,
            rescue=_LATER,
            spent=0,
            blocks=(),
            kernel=kernel,
        )
        sums = state.sums.m_step(after.rescued, after.collapsed)
        return replace(state, parameters=after.parameters, running=mixed, sums=sums)


def _total(blocks: tuple[Moments, ...]) -> Moments:
    total = blocks[0]
    for block in blocks[1:]:
        total = total + block
    return total


def _valid(moments: Moments, family: Family) -> bool:
    """Whether these can be moments of rows: differences need not be."""
    spread = family.central(moments)
    if not bool((moments.weight >= 0).all() and torch.isfinite(spread).all()):
        return False
    if family.n_axes == 1:
        return bool((spread >= 0).all())
    diagonal = spread.diagonal(dim1=-2, dim2=-1)
    slack = 1e-12 * diagonal.mean(-1, keepdim=True) + torch.finfo(spread.dtype).tiny
    info = torch.linalg.cholesky_ex(spread + torch.diag_embed(slack.expand_as(diagonal))).info
    return not bool(info.any())
