"""Online (stepwise) EM: an M-step after every batch, on statistics that forget their past."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..checks import check_count
from ..covariance import Floor
from ..data import Block, Source
from ..errors import InputError
from ..kernels import Kernel, as_kernel
from ..moments import Moments
from ..parameters import Parameters, from_moments, to_moments
from .base import Method, Problem, State, Step, StepSums, own_state
from .mstep import m_step, restarted
from .rescue import Rescue

__all__ = ["OnlineEM", "OnlineState"]


@dataclass(frozen=True)
class OnlineState(State):
    """What online EM goes on from.

    Attributes:
        running: the mixture of the last M-step; with averaging `parameters` is another.
        moments: running statistics per row, about the means of `running`: their `rows` is 1.
        average: averaged statistics, about the same means.
        lead: by how many nats per row the averaged mixture was the better one lately; a draw
            is its win.
        seen: `(K,)` rows that every component has seen.
        rows_seen: all rows so far: the clock of the step sizes.
        row_weight: the weight that counts as one row, the mean of the first batch: only the ratios
            of weights matter.
        epoch: passes completed.
        seed: of the order of the rows.
    """

    running: Parameters = field(kw_only=True)
    moments: Moments = field(kw_only=True)
    average: Moments = field(kw_only=True)
    seen: Tensor = field(kw_only=True)
    lead: float = -math.inf
    rows_seen: float = 0.0
    row_weight: float = 0.0
    epoch: int = 0
    seed: int = 0


@dataclass(frozen=True)
class OnlineEM(Method):
    """Stepwise EM (Cappe & Moulines 2009; Liang & Klein 2009).

    Statistics per row follow the data, `s <- (1 - g) s + g s(batch)`, and after each batch come
    the parameters that maximise their likelihood: a natural-gradient step of size g. The step
    sizes fall as `(t + offset) ** -exponent`, where t counts *rows*, in units of half the rows
    that the mixture needs to be estimated once (`K * min_rows` of the family). So they do not
    depend on how the rows are cut into batches. The defaults are the best compromise of a study
    (`benchmarks/online_defaults.py`). A component keeps mean and covariance until it has
    seen enough rows for a covariance.

    One step is one pass over the source, or `rows_per_step` rows of it. Rows that arrive over days
    are learnt with `fit(..., state=)`: the statistics and the clock go on from the day before.

    Args:
        max_iter: most steps.
        batch_size: rows between M-steps; half that unit, within 1,024 and 16,384, if not given, and
            of a step of more than 262,144 rows its 256th part up to the same limit: an M-step has
            a fixed cost, and so many of them are enough. Not where rows are forgotten.
        exponent: how fast step sizes fall, above 0.5 and at most 1.
        offset: of the clock; a larger one trusts the start more.
        average: whether the answer is the mixture of averaged statistics (Polyak & Juditsky 1992,
            with weights that favour the later ones, Shamir & Zhang 2013): less noise, more lag.
            `auto` asks now and then which of the two explains the next batch better.
        forget: for streams that drift: rows after which the past has lost most of its weight
            (its share falls by e). Rows are then learnt in the order of the source, and the
            statistics never settle.
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

        Rows that arrive over days, each day's read once; the state is kept in a file between:

        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> mixture = tg.GaussianMixture(2)
        >>> for day in x[torch.randperm(4000)].split(1000):
        ...     state = tg.load_state(file) if file.exists() else None
        ...     result = tg.fit(mixture, iter([day]), tg.OnlineEM(), state=state, generator=0)
        ...     tg.save_state(result.state, file)
        >>> result.state.rows_seen
        4000.0
    """

    state_type: ClassVar[type[State]] = OnlineState
    max_iter: int = 10
    batch_size: int | None = None
    exponent: float = 0.65
    offset: float = 0.5
    average: Literal["auto", "always", "never"] = "auto"
    forget: float | None = None
    rows_per_step: int | None = None
    reg_covar: Floor = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
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
        if self.average not in ("auto", "always", "never"):
            raise InputError(f"average must be auto, always or never, got {self.average!r}")

    def init(self, parameters: Parameters, problem: Problem) -> OnlineState:
        moments = to_moments(parameters)
        return OnlineState(
            parameters,
            running=parameters,
            moments=moments,
            average=moments,
            seen=torch.zeros_like(moments.weight),
            seed=int(torch.randint(2**62, (), generator=problem.generator)),
        )

    def unit(self, parameters: Parameters) -> int:
        """The clock's tick: half the rows that this mixture needs to be estimated once."""
        needed = parameters.n_components * parameters.family.min_rows(parameters.n_features)
        return max(1, needed // 2)

    def _batch_rows(self, parameters: Parameters, source: Source) -> int:
        enough = 0 if self.forget else (self.rows_of_step(source) or 0) // _M_STEPS
        return self.batch_size or min(max(self.unit(parameters) // 2, 1024, enough), 16_384)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        state = own_state(self, state, OnlineState)
        kernel = as_kernel(self.kernel)
        size = self._batch_rows(state.running, problem.source)
        mid_pass, ordered = state.position > 0, self.forget is not None
        for position, batch in problem.batches(
            size, state.seed, state.epoch, state.position, ordered=ordered
        ):
            moments, rows = problem.e_step(kernel, batch, state.running)
            if not moments.is_finite():
                return state, Step(math.nan, state.sums.rows, kernel=kernel.ran)
            state = self._learn(state, problem, batch, moments, rows, kernel)
            state = replace(state, position=position)
            if self.rows_per_step is not None and state.sums.rows >= self.rows_per_step:
                break
            problem.reached(state)
        else:
            state = replace(state, epoch=state.epoch + 1, position=0)
        if not state.rows_seen:
            raise InputError("the source gave no rows of positive weight")
        last = state.position == 0 and not problem.source.replayable
        if mid_pass and not state.sums.rows and not last:  # the one before ended where the pass did
            return self.step(state, problem)
        step = state.sums.step(kernel.ran, last=last)
        answer = self._answer(state)
        return replace(state, step=state.step + 1, parameters=answer, sums=StepSums()), step

    def renewed(self, state: State, problem: Problem) -> OnlineState:
        """The same statistics and clock, at the beginning of other rows."""
        state = own_state(self, state, OnlineState)
        epoch = state.epoch + (state.position > 0)
        return replace(state, epoch=epoch, position=0, sums=StepSums())

    def rows_of_step(self, source: Source) -> int | None:
        known = [rows for rows in (source.n_rows, self.rows_per_step) if rows is not None]
        return min(known, default=None)

    def _learn(
        self,
        state: OnlineState,
        problem: Problem,
        batch: Block,
        moments: Moments,
        n_rows: int,
        kernel: Kernel,
    ) -> OnlineState:
        before = state.running
        weight = float(moments.rows)
        row_weight = state.row_weight or weight / n_rows
        rows = weight / row_weight
        gain = self._gain(state.rows_seen, rows, self.unit(before))
        mixed = state.moments * (1 - gain) + moments * (gain / weight)
        seen = state.seen + moments.weight / row_weight
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
            group=problem.group,
        )
        mixed = restarted(mixed, after)
        clock = state.rows_seen + rows
        share = min(1.0, (_FAVOUR + 1) * rows / (clock + _FAVOUR * rows))
        average = restarted(state.average, after) * (1 - share) + mixed * share
        means = after.parameters.means
        sums = state.sums.e_step(n_rows, moments)
        return replace(
            state,
            running=after.parameters,
            moments=before.family.moved(mixed, means),
            average=before.family.moved(average, means),
            lead=self._lead(state, problem, batch, moments, n_rows, kernel),
            seen=torch.where(after.rescued, 0, seen),
            rows_seen=clock,
            row_weight=row_weight,
            rescues=state.rescues + int(after.rescued.sum()),
            sums=sums.m_step(after.rescued, after.collapsed),
        )

    def _lead(
        self,
        state: OnlineState,
        problem: Problem,
        batch: Block,
        moments: Moments,
        rows: int,
        kernel: Kernel,
    ) -> float:
        """How the averaged mixture fares on a batch that neither has learnt from yet."""
        number = 1 + round(state.rows_seen / rows)  # of the batch, in all passes
        asked = number in (2, 4) or number % _EVERY == 0
        usual = self._batch_rows(state.running, problem.source)
        enough = 2 * rows >= usual  # the last of a pass may be 1
        if self.average != "auto" or not (asked and enough):
            return state.lead
        averaged, _ = problem.e_step(kernel, batch, self._averaged(state))
        lead = float(averaged.mean_log_prob - moments.mean_log_prob) + _DRAW / rows
        return lead if math.isinf(state.lead) else 0.7 * state.lead + 0.3 * lead

    def _gain(self, clock: float, rows: float, unit: int) -> float:
        """The share of the batch: `1 - exp(-integral of (t + offset)^-exponent)` over its rows.

        An integral, so that two halves of a batch forget as much as the whole. With `forget` the
        integrand is at least `unit / forget`, which it comes down to at some time.
        """
        start, end = clock / unit + self.offset, (clock + rows) / unit + self.offset
        if self.forget is None:
            return -math.expm1(-self._fallen(start, end))
        least = unit / self.forget
        turn = min(max(start, least ** (-1 / self.exponent)), end)
        return -math.expm1(-self._fallen(start, turn) - (end - turn) * least)

    def _fallen(self, start: float, end: float) -> float:
        """The integral of `t ** -exponent`."""
        if self.exponent == 1:
            return math.log(end / start)
        rest = 1 - self.exponent
        return float(end**rest - start**rest) / rest

    def _answer(self, state: OnlineState) -> Parameters:
        favoured = self.average == "always" or (self.average == "auto" and state.lead > 0)
        return self._averaged(state) if favoured else state.running

    def _averaged(self, state: OnlineState) -> Parameters:
        averaged, hopeless = from_moments(
            state.average, state.running.family, self.reg_covar, before=state.running
        )
        return state.running if bool(hopeless.any()) else averaged


# M-steps of a step over many rows: as good as sixteen times as many, in a third of the time where
# a batch of few components and features costs no more than its M-step
_M_STEPS = 256
# weight of later statistics in the average: 0 is the plain mean of all
_FAVOUR = 3.0
# the averaged mixture is tried on the second batch, the fourth, and then on one in so many
_EVERY = 8
# Two mixtures whose log-likelihoods differ by d nats differ by sqrt(2 d / n) by chance on n rows
# (the variance of log p / q is twice their divergence). Below two such deviations it is a draw,
# that is below 8 / n; some six batches count in the smoothed lead.
_DRAW = 1.4
