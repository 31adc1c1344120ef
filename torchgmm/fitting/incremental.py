"""Incremental EM: keep each block's moments, replace them one by one, no step size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from ..checks import check_count, check_floor
from ..errors import InputError
from ..kernels import as_kernel
from ..moments import Moments
from ..parameters import Parameters, to_moments
from .base import Method, Problem, State, Step
from .blocks import check_blocks, fixed_blocks, require_replay
from .mstep import StepSums, m_step
from .rescue import Rescue

__all__ = ["IncrementalEM", "IncrementalState"]


@dataclass(frozen=True)
class IncrementalState(State):
    """What incremental EM goes on from.

    Attributes:
        blocks: the moments of every block at its last E-step, all about one frame.
        start: what is left of the start's own moments, about the same frame; zero once every
            block was seen.
        seed: of the cut into blocks.
    """

    blocks: tuple[Moments, ...] = ()
    start: Moments = field(kw_only=True)
    seed: int = 0


@dataclass(frozen=True)
class IncrementalEM(Method):
    """Incremental EM (Neal & Hinton 1998): `S <- S - S_b(old) + S_b(new)`, M-step after each block.

    No step size and no noise at the end: the free energy never falls once every block was seen,
    and a fixed point is one of exact EM. One step is one pass. In the first pass, the start stands
    for the rows not seen yet, with the weight of a few blocks at most.

    The source must give the same rows in the same order on every pass (arrays and files do; a
    loader that shuffles on its own does not). Memory is `n_blocks` times that of one set of
    moments.

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

    max_iter: int = 50
    n_blocks: int = 32
    block_rows: int | None = None
    reg_covar: float = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"

    def __post_init__(self) -> None:
        check_count("max_iter", self.max_iter, least=0)
        check_blocks(self.n_blocks, self.block_rows)
        check_floor(self.reg_covar)
        as_kernel(self.kernel)

    def init(self, parameters: Parameters, problem: Problem) -> IncrementalState:
        seed = int(torch.randint(2**62, (), generator=problem.generator))
        return IncrementalState(parameters, start=to_moments(parameters), seed=seed)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        if not isinstance(state, IncrementalState):
            raise InputError(
                f"IncrementalEM goes on from an IncrementalState, got a {type(state).__name__}"
            )
        require_replay(
            problem, "incremental EM reads the same blocks at every step", "use OnlineEM"
        )
        kernel = as_kernel(self.kernel)
        state = _reframed(state)
        frame = state.start.frame
        family = state.parameters.family
        parameters, rescues, blocks = state.parameters, state.rescues, list(state.blocks)
        total = state.start * 0.0
        for block in blocks:
            total = total + block
        sums = StepSums()
        fresh = not blocks
        for number, batch in fixed_blocks(
            problem,
            parameters,
            n_blocks=self.n_blocks,
            block_rows=self.block_rows,
            seed=state.seed,
            known=None if fresh else len(blocks),
        ):
            found = kernel.accumulate(batch.x, batch.w, parameters)
            if not found.is_finite():
                return state, Step(math.nan, sums.rows, kernel=kernel.name)
            sums.add(len(batch.x), found)
            found = family.moved(found, frame)
            if fresh:
                total = total + found
                blocks.append(found)
            else:
                total = total + found + blocks[number] * -1.0
                blocks[number] = found
            mixed = total
            if fresh:
                mixed = total + state.start * self._start_weight(parameters, float(total.rows))
            after = m_step(
                mixed,
                parameters,
                floor=self.reg_covar,
                rescue=self.rescue,
                spent=rescues,
                blocks=[batch],
                kernel=kernel,
            )
            sums.m_step(after)
            parameters = after.parameters
            rescues += int(after.rescued.sum())
        state = replace(
            state,
            parameters=parameters,
            step=state.step + 1,
            rescues=rescues,
            blocks=tuple(blocks),
        )
        return state, sums.step(kernel.name)

    def _start_weight(self, parameters: Parameters, seen: float) -> float:
        """Rows that the start counts for: enough to keep every covariance well posed."""
        unit = parameters.n_components * parameters.family.min_rows(parameters.n_features)
        return unit * unit / (unit + seen)


def _reframed(state: IncrementalState) -> IncrementalState:
    """All moments about the current means, so that sums about them keep their digits."""
    family, frame = state.parameters.family, state.parameters.to(torch.float64).means
    blocks = tuple(family.moved(block, frame) for block in state.blocks)
    return replace(state, blocks=blocks, start=family.moved(state.start, frame))
