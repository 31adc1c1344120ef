"""Incremental EM: keep each block's moments, replace them one by one, no step size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from ..covariance import Floor
from ..data import Block
from ..kernels import Kernel, as_kernel
from ..moments import Moments
from ..parameters import Parameters, to_moments
from .base import Method, Problem, State, Step, StepSums, own_state
from .blocks import check_blocks, fixed_blocks, require_same_blocks
from .mstep import m_step
from .rescue import Rescue

__all__ = ["IncrementalEM", "IncrementalState"]


@dataclass(frozen=True)
class IncrementalState(State):
    """What incremental EM goes on from.

    Attributes:
        blocks: the moments of every block at its last E-step, all about one frame.
        start: the start's own moments, about the same frame.
        whole: whether every block was seen before this pass, so that the start counts no more.
        total: the sum of `blocks` as they are now; None between two steps.
        seed: of the cut into blocks.
    """

    blocks: tuple[Moments, ...] = ()
    start: Moments = field(kw_only=True)
    whole: bool = False
    total: Moments | None = None
    seed: int = 0


@dataclass(frozen=True)
class IncrementalEM(Method):
    """Incremental EM (Neal & Hinton 1998): `S <- S - S_b(old) + S_b(new)`, M-step after each block.

    No step size and no noise at the end: the free energy never falls once every block was seen,
    and a fixed point is one of exact EM. One step is one pass. In the first pass, the start stands
    for the rows not seen yet, with the weight of a few blocks at most.

    The source must give the same rows in the same order on every pass (arrays and files do; a
    loader that shuffles on its own does not, and is refused). Memory is `n_blocks` times that of
    one set of moments.

    Args:
        max_iter: most steps, that is passes.
        n_blocks: into how many blocks the rows are cut, if their number is known.
        block_rows: rows of a block; from `n_blocks` if not given.
        reg_covar: the floor, as in `EM`.
        rescue: the policy for components that empty or collapse.
        kernel: how the E-step is computed.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> x[2000:] += 8
        >>> mixture = tg.GaussianMixture(2)
        >>> tg.fit(mixture, x, tg.IncrementalEM(n_blocks=8), generator=0).status.name
        'CONVERGED'
    """

    state_type: ClassVar[type[State]] = IncrementalState
    max_iter: int = 50
    n_blocks: int = 32
    block_rows: int | None = None
    reg_covar: Floor = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks(self.n_blocks, self.block_rows)

    def init(self, parameters: Parameters, problem: Problem) -> IncrementalState:
        seed = int(torch.randint(2**62, (), generator=problem.generator))
        return IncrementalState(parameters, start=to_moments(parameters), seed=seed)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        state = given = own_state(self, state, IncrementalState)
        require_same_blocks(problem, "incremental EM reads the same blocks at every step")
        kernel = as_kernel(self.kernel)
        if state.total is None:
            state = _begun(state)
        for position, number, batch in fixed_blocks(
            problem,
            state,
            n_blocks=self.n_blocks,
            block_rows=self.block_rows,
            seed=state.seed,
            known=len(state.blocks) if state.whole else None,
        ):
            found, rows = problem.e_step(kernel, batch, state.parameters)
            if not found.is_finite():
                return given, Step(math.nan, state.sums.rows, kernel=kernel.ran)
            state = replace(state, sums=state.sums.e_step(rows, found), position=position)
            state = self._learn(state, problem, number, batch, found, kernel)
            problem.reached(state)
        step = state.sums.step(kernel.ran)
        state = replace(state, step=state.step + 1, total=None, position=0, sums=StepSums())
        return state, step

    def _learn(
        self,
        state: IncrementalState,
        problem: Problem,
        number: int,
        batch: Block,
        found: Moments,
        kernel: Kernel,
    ) -> IncrementalState:
        """Put the moments of a block in the place of its old ones; M-step."""
        assert state.total is not None
        before = state.parameters
        found = before.family.moved(found, state.start.frame)
        total, blocks = state.total + found, list(state.blocks)
        if state.whole:
            total = total + blocks[number] * -1.0
            blocks[number] = found
            mixed = total
        else:
            blocks.append(found)
            mixed = total + state.start * self._start_weight(before, float(total.rows))
        after = m_step(
            mixed,
            before,
            floor=self.reg_covar,
            rescue=self.rescue,
            spent=state.rescues,
            blocks=[batch],
            kernel=kernel,
            group=problem.group,
        )
        return replace(
            state,
            parameters=after.parameters,
            rescues=state.rescues + int(after.rescued.sum()),
            sums=state.sums.m_step(after.rescued, after.collapsed),
            blocks=tuple(blocks),
            total=total,
        )

    def _start_weight(self, parameters: Parameters, seen: float) -> float:
        """Rows that the start counts for: enough to keep every covariance well posed."""
        unit = parameters.n_components * parameters.family.min_rows(parameters.n_features)
        return unit * unit / (unit + seen)


def _begun(state: IncrementalState) -> IncrementalState:
    """All moments about the current means, so that sums about them keep their digits."""
    family, frame = state.parameters.family, state.parameters.to(torch.float64).means
    blocks = tuple(family.moved(block, frame) for block in state.blocks)
    start = family.moved(state.start, frame)
    total = start * 0.0
    for block in blocks:
        total = total + block
    return replace(state, blocks=blocks, start=start, whole=bool(blocks), total=total)
