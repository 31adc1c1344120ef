"""Variance-reduced stepwise EM: online steps without their noise, for rows that are revisited."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from ..checks import check_count, check_floor
from ..covariance import Family
from ..data import Block
from ..errors import InputError
from ..kernels import Kernel, as_kernel
from ..moments import Moments
from ..parameters import Parameters
from .base import Method, Problem, State, Step
from .blocks import check_blocks, fixed_blocks, require_replay
from .mstep import StepSums, m_step
from .rescue import Rescue

__all__ = ["ReducedState", "VarianceReducedEM"]


# an estimate that is a difference may look empty for a moment: the next snapshot decides
_LATER = Rescue(empty="keep", collapsed="keep")


@dataclass(frozen=True)
class ReducedState(State):
    """What variance-reduced EM goes on from.

    Attributes:
        blocks: moments of every block at the last snapshot, about one frame; empty before it.
        seed: of the cut into blocks.
    """

    blocks: tuple[Moments, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class VarianceReducedEM(Method):
    """Stochastic EM with variance reduction, sEM-vr (Chen, Zhu, Teh & Zhang 2018).

    Steps alternate. A *snapshot* pass is a step of exact EM that keeps the moments `S_b` of every
    block. In the pass after it, each block b moves the statistics by a constant step size,
    `s <- (1 - rate) s + rate (S + B (S_b(now) - S_b(snapshot)))`, with an M-step after each: the
    noise of the block cancels, so no step size has to fall.

    The source must give the same rows in the same order on every pass. Memory is `n_blocks` times
    that of one set of moments.

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

    max_iter: int = 50
    n_blocks: int = 32
    block_rows: int | None = None
    rate: float = 0.1
    reg_covar: float = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"

    def __post_init__(self) -> None:
        check_count("max_iter", self.max_iter, least=0)
        check_blocks(self.n_blocks, self.block_rows)
        if not 0 < self.rate <= 1:
            raise InputError(f"rate must be above 0 and at most 1, got {self.rate}")
        check_floor(self.reg_covar)
        as_kernel(self.kernel)

    def init(self, parameters: Parameters, problem: Problem) -> ReducedState:
        seed = int(torch.randint(2**62, (), generator=problem.generator))
        return ReducedState(parameters, seed=seed)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        if not isinstance(state, ReducedState):
            raise InputError(
                f"VarianceReducedEM goes on from a ReducedState, got a {type(state).__name__}"
            )
        require_replay(
            problem, "variance-reduced EM reads the same blocks at every step", "use OnlineEM"
        )
        kernel = as_kernel(self.kernel)
        if state.blocks:
            return self._reduced(state, problem, kernel)
        return self._snapshot(state, problem, kernel)

    def _blocks(
        self, state: ReducedState, problem: Problem, *, known: int | None
    ) -> Iterator[tuple[int, Block]]:
        return fixed_blocks(
            problem,
            state.parameters,
            n_blocks=self.n_blocks,
            block_rows=self.block_rows,
            seed=state.seed,
            known=known,
        )

    def _snapshot(
        self, state: ReducedState, problem: Problem, kernel: Kernel
    ) -> tuple[State, Step]:
        sums, blocks = StepSums(), []
        for _, batch in self._blocks(state, problem, known=None):
            blocks.append(kernel.accumulate(batch.x, batch.w, state.parameters))
            sums.add(len(batch.x), blocks[-1])
        total = _total(blocks)
        if not total.is_finite():
            return state, Step(math.nan, sums.rows, kernel=kernel.name)
        after = m_step(
            total,
            state.parameters,
            floor=self.reg_covar,
            rescue=self.rescue,
            spent=state.rescues,
            blocks=problem.source.blocks(),
            kernel=kernel,
        )
        sums.m_step(after)
        # after a rescue the snapshot is of components that are gone: take another
        kept = () if bool(after.rescued.any()) else tuple(blocks)
        state = replace(
            state,
            parameters=after.parameters,
            step=state.step + 1,
            rescues=state.rescues + sums.rescued,
            blocks=kept,
        )
        return state, sums.step(kernel.name)

    def _reduced(self, state: ReducedState, problem: Problem, kernel: Kernel) -> tuple[State, Step]:
        family, parameters = state.parameters.family, state.parameters
        snapshot = running = _total(list(state.blocks))
        frame, sums = snapshot.frame, StepSums()
        for number, batch in self._blocks(state, problem, known=len(state.blocks)):
            old = state.blocks[number]
            found = kernel.accumulate(batch.x, batch.w, parameters)
            if not found.is_finite():
                return state, Step(math.nan, sums.rows, kernel=kernel.name)
            scale = float(snapshot.rows / old.rows)
            change = family.moved(found, frame) + old * -1.0
            target = snapshot + change * scale
            mixed = running * (1 - self.rate) + target * self.rate
            sums.add(len(batch.x), found)
            if not _valid(mixed, family):  # a block too small for the step size: leave this one out
                continue
            running = mixed
            after = m_step(
                running,
                parameters,
                floor=self.reg_covar,
                rescue=_LATER,
                spent=0,
                blocks=(),
                kernel=kernel,
            )
            sums.m_step(after)
            parameters = after.parameters
        state = replace(state, parameters=parameters, step=state.step + 1, blocks=())
        return state, sums.step(kernel.name)


def _total(blocks: list[Moments]) -> Moments:
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
