"""Online (stepwise) EM: an M-step after every batch, on statistics that forget their past."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..checks import check_count
from ..data import Block
from ..errors import InputError
from ..kernels import Kernel, as_kernel
from ..moments import Moments
from ..parameters import Parameters, from_moments, to_moments
from .base import Method, Problem, State, Step
from .mstep import MStep, StepSums, m_step
from .rescue import Rescue

__all__ = ["OnlineEM", "OnlineState"]


@dataclass(frozen=True)
class OnlineState(State):
    """What online EM goes on from.

    Attributes:
        running: the mixture of the last M-step; with averaging `parameters` is another.
        moments: running statistics per row, about the means of `running`: their `rows` is 1.
        average: averaged statistics, about the same means, or None.
        seen: `(K,)` weight that every component has seen.
        rows_seen: weight of all rows so far: the clock of the step sizes.
        epoch: passes completed.
        position: batches of this pass already read.
        seed: of the order of the rows.
    """

    running: Parameters = field(kw_only=True)
    moments: Moments = field(kw_only=True)
    average: Moments | None = field(kw_only=True)
    seen: Tensor = field(kw_only=True)
    rows_seen: float = 0.0
    epoch: int = 0
    position: int = 0
    seed: int = 0


@dataclass(frozen=True)
class OnlineEM(Method):
    """Stepwise EM (Cappe & Moulines 2009; Liang & Klein 2009).

    Statistics per row follow the data, `s <- (1 - g) s + g s(batch)`, and after each batch come
    the parameters that maximise their likelihood: a natural-gradient step of size g. The step
    sizes fall as `(t + offset) ** -exponent`, where t counts *rows*, in units of the rows that
    the mixture needs to be estimated once (`K * min_rows` of the family). So they do not depend
    on how the rows are cut into batches. A component keeps mean and covariance until it has
    seen enough rows for a covariance.

    One step is one pass over the source, or `rows_per_step` rows of it.

    Args:
        max_iter: most steps.
        batch_size: rows between M-steps; the unit of rows above, within 512 and 16,384, if not
            given.
        exponent: how fast step sizes fall, above 0.5 and at most 1.
        offset: of the clock; a larger one trusts the start more.
        average: give the mixture of averaged statistics (Polyak & Juditsky 1992, with weights that
            favour the later ones, Shamir & Zhang 2013): less noise, more lag.
        forget: for streams that drift: rows after which the past has lost most of its weight
            (its share falls by e). The statistics then never settle.
        rows_per_step: rows of one step; a whole pass if not given. Endless streams need it.
        reg_covar: the floor, as in `EM`.
        rescue: the policy for components that empty or collapse; badly explained rows are looked
            for in the current batch.
        kernel: how the E-step is computed.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> x[2000:] += 8
        >>> mixture = tg.GaussianMixture(2)
        >>> result = tg.fit(mixture, x, tg.OnlineEM(max_iter=2), stop=tg.Tolerance(1), generator=0)
        >>> result.n_steps
        2
    """

    max_iter: int = 10
    batch_size: int | None = None
    exponent: float = 0.7
    offset: float = 4.0
    average: bool = False
    forget: float | None = None
    rows_per_step: int | None = None
    reg_covar: float = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"

    def __post_init__(self) -> None:
        check_count("max_iter", self.max_iter, least=0)
        for name in ("batch_size", "rows_per_step"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if not 0.5 < self.exponent <= 1:
            raise InputError(
                f"exponent must be above 0.5 and at most 1 for the fit to settle, got "
                f"{self.exponent}: for data that drift use forget="
            )
        for name in ("offset", "forget"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0, got {value}")
        as_kernel(self.kernel)

    def init(self, parameters: Parameters, problem: Problem) -> OnlineState:
        moments = to_moments(parameters)
        return OnlineState(
            parameters,
            running=parameters,
            moments=moments,
            average=moments if self.average else None,
            seen=torch.zeros_like(moments.weight),
            seed=int(torch.randint(2**62, (), generator=problem.generator)),
        )

    def unit(self, parameters: Parameters) -> int:
        """Rows that this mixture needs to be estimated once: the clock's tick."""
        return parameters.n_components * parameters.family.min_rows(parameters.n_features)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        assert isinstance(state, OnlineState)
        kernel = as_kernel(self.kernel)
        size = self.batch_size or min(max(self.unit(state.parameters), 512), 16_384)
        sums = StepSums()
        for batch in problem.batches(size, state.seed, state.epoch, state.position):
            state, after, moments = self._batch(state, batch, kernel)
            sums.add(len(batch.x), moments, after)
            if self.rows_per_step is not None and sums.rows >= self.rows_per_step:
                break
        else:
            state = replace(state, epoch=state.epoch + 1, position=0)
        last = state.position == 0 and not problem.source.replayable
        if not last and not sums.rows:  # the step before ended exactly at the end of the pass
            return self.step(state, problem)
        state = replace(state, step=state.step + 1, parameters=self._answer(state))
        return state, sums.step(kernel.name, last=last)

    def _batch(
        self, state: OnlineState, batch: Block, kernel: Kernel
    ) -> tuple[OnlineState, MStep, Moments]:
        before = state.running
        moments = kernel.accumulate(batch.x, batch.w, before)
        weight = float(moments.rows)
        gain = self._gain(state.rows_seen, weight, self.unit(before))
        mixed = state.moments * (1 - gain) + moments * (gain / weight)
        seen = state.seen + moments.weight
        wanted = before.family.min_rows(before.n_features)
        after = m_step(
            mixed,
            before,
            floor=self.reg_covar,
            rescue=self.rescue,
            spent=state.rescues,
            blocks=[batch],
            kernel=kernel,
            held=seen < wanted,
        )
        mixed = _restarted(mixed, after)
        clock = state.rows_seen + weight
        average = state.average
        if average is not None:
            share = min(1.0, (_FAVOUR + 1) * weight / (clock + _FAVOUR * weight))
            average = average * (1 - share) + mixed * share
            average = before.family.moved(average, after.parameters.means)
        return (
            replace(
                state,
                running=after.parameters,
                moments=before.family.moved(mixed, after.parameters.means),
                average=average,
                seen=torch.where(after.rescued, 0, seen),
                rows_seen=clock,
                position=state.position + 1,
                rescues=state.rescues + int(after.rescued.sum()),
            ),
            after,
            moments,
        )

    def _gain(self, clock: float, weight: float, unit: int) -> float:
        """The share of the batch: `1 - exp(-integral of (t + offset)^-exponent)` over its rows.

        An integral, so that two halves of a batch forget as much as the whole.
        """
        start, end = clock / unit + self.offset, (clock + weight) / unit + self.offset
        if self.exponent == 1:
            decay = math.log(end / start)
        else:
            rest = 1 - self.exponent
            decay = (end**rest - start**rest) / rest
        if self.forget is not None:
            decay = max(decay, weight / self.forget)
        return -math.expm1(-decay)

    def _answer(self, state: OnlineState) -> Parameters:
        if state.average is None:
            return state.running
        averaged, hopeless = from_moments(state.average, state.running.family, self.reg_covar)
        return state.running if bool(hopeless.any()) else averaged


# weight of later statistics in the average: 0 is the plain mean of all
_FAVOUR = 3.0


def _restarted(moments: Moments, after: MStep) -> Moments:
    """Running statistics in which replaced components start from what they were replaced by."""
    family = after.parameters.family
    if not bool(after.rescued.any()):
        return moments
    fresh = to_moments(after.parameters)
    moved = family.moved(moments, fresh.frame)
    mask = after.rescued
    weight = torch.where(mask, fresh.weight, moved.weight)
    first = torch.where(mask.unsqueeze(-1), 0, moved.first)
    second = moved.second
    if not family.tied:
        second = torch.where(mask.reshape(-1, *[1] * family.n_axes), fresh.second, second)
    share = weight.sum()
    return Moments(
        weight / share,
        first / share,
        second / share if not family.tied else second,
        moved.log_prob,
        moved.rows,
        moved.frame,
    )
