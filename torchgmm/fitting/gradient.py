"""Gradient ascent: any optimiser of torch on the log-likelihood, whose gradient is an E-step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..checks import check_count
from ..covariance import Floor, RelativeFloor
from ..data import Block, Source
from ..errors import InputError
from ..kernels import Kernel, as_kernel
from ..parameters import Parameters
from .ascent import AllRows, Ascent, GradientState, leaves_of
from .base import Method, Problem, State, Step, StepSums, own_state
from .blocks import require_replay
from .coordinates import located, moments_above_floor, placed
from .optimizers import frozen, make_optimizer, make_schedule, optimizer_class, thawed
from .rescue import Rescue, reseeded

__all__ = ["Gradient", "GradientState"]

# Rows of an update: enough that its noise is less than what the next one mends.
_BATCH = 1024
_LR = 0.02
_LOOK = 10  # times the rows that a mixture needs: who saw none of them is lost


@dataclass(frozen=True)
class Gradient(Method):
    """Gradient ascent on the mean log-likelihood with any optimiser of `torch.optim`.

    The gradient of a batch is one E-step: by Fisher's identity it is that of the expected complete
    log-likelihood, a function of the same moments as EM's. Natural-gradient steps are what
    `OnlineEM` does, with less to choose; this method is for optimisers with momentum, for
    second-order ones (LBFGS), and for what is trained by the same optimiser elsewhere.

    The optimiser moves unitless coordinates about the start: `logits`; the means in standard
    deviations of the start; the Cholesky factors relative to the start's, `Sigma = L L^T +
    reg_covar I` with the diagonal of L as its log. So any values are a mixture, no covariance is
    ever below the floor (where EM adds the floor to each estimate, here it bounds the covariance),
    and `lr` needs no thought about the units of the data.

    One step is one pass over the source, or `rows_per_step` rows of it.

    Args:
        max_iter: most steps.
        optimizer: a class of torch.optim, its name, or the path of another, "package.Class".
        lr: learning rate; 0.02, and 1 for LBFGS, if not given.
        optimizer_options: other arguments of the optimiser, such as `{"betas": [0.9, 0.99]}`.
        batch_size: rows of an update, or "all"; 1,024, and all for LBFGS, if not given. LBFGS asks
            for several passes in one update, each of which is counted in the step's rows.
        scheduler: a class of torch.optim.lr_scheduler, its name or a path, stepped once per step.
        scheduler_options: its arguments; `T_max` and `total_steps` are `max_iter` if not given.
        clip: the greatest norm of a gradient per row; longer ones are shortened.
        annealing: tempered passes before the first, within the first step: only the means move,
            under responsibilities of `(pi_k N_k) ** beta` with beta rising to 1 (Ueda & Nakano
            1998). At first every component is drawn to all rows, which then share them out: for
            random starts (`init="random_from_data"`), so that they do without k-means.
        first_beta: beta of the first tempered pass.
        rows_per_step: rows of one step; a whole pass if not given. Endless streams need it.
        reg_covar: the floor.
        rescue: the policy for components that empty or collapse, looked for after each pass.
        kernel: how the E-step is computed.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> x[2000:] += 8
        >>> mixture = tg.GaussianMixture(2)
        >>> method = tg.Gradient(optimizer="LBFGS")
        >>> tg.fit(mixture, x, method, stop=tg.Tolerance(1e-6), generator=0).status.name
        'CONVERGED'
    """

    state_type: ClassVar[type[State]] = GradientState
    max_iter: int = 100
    optimizer: str | type[Optimizer] = "Adam"
    lr: float | None = None
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    batch_size: int | Literal["all"] | None = None
    scheduler: str | type[LRScheduler] | None = None
    scheduler_options: dict[str, Any] = field(default_factory=dict)
    clip: float | None = None
    annealing: int = 0
    first_beta: float = 0.1
    rows_per_step: int | None = None
    reg_covar: Floor = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"

    @property
    def _floor(self) -> float:
        return cast(float, self.reg_covar)  # as others are refused at the door

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.reg_covar, RelativeFloor):
            raise InputError(
                "a relative floor follows the moments of all rows, which gradients do not sum: "
                "give reg_covar a number, in units of the scaled columns, or use EM or OnlineEM"
            )
        check_count("annealing", self.annealing, least=0)
        for name, value in ("batch_size", self.batch_size), ("rows_per_step", self.rows_per_step):
            if value is not None and (name, value) != ("batch_size", "all"):
                check_count(name, value)
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0, got {value}")
        if not 0 < self.first_beta <= 1:
            raise InputError(f"first_beta must be above 0 and at most 1, got {self.first_beta}")
        # what the classes refuse is refused here, not after the rows were read
        self._machine([torch.zeros(1, requires_grad=True)])

    def init(self, parameters: Parameters, problem: Problem) -> GradientState:
        frame, point = placed(parameters, self._floor)
        optimizer, schedule = self._machine(leaves_of(point))
        return GradientState(
            parameters,
            frame=frame,
            point=point,
            seen=torch.zeros_like(point.logits),
            optimizer=frozen(optimizer.state_dict()),
            schedule=frozen(schedule.state_dict()) if schedule else (),
            seed=int(torch.randint(2**62, (), generator=problem.generator)),
        )

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        given = state = own_state(self, state, GradientState)
        kernel = as_kernel(self.kernel)
        if self._whole:
            require_replay(problem, "each update is by all rows", "a batch_size")
        if self.annealing:
            require_replay(problem, "annealing reads the rows several times", "annealing=0")
        mid_pass, ended = state.position > 0, False
        while not ended:
            warming = state.annealed < self.annealing
            walked, latest = self._walk(state, problem, kernel)
            if walked is None:
                return given, Step(math.nan, state.sums.rows, kernel=kernel.ran)
            if not walked.row_weight:
                raise InputError("the source gave no rows of positive weight")
            state = self._rescued(walked, problem, latest, kernel)
            ended = not warming
            if warming:
                state = replace(state, annealed=state.annealed + 1)
        last = state.position == 0 and not problem.source.replayable
        if mid_pass and not state.sums.rows and not last:  # the one before ended where the pass did
            return self.step(state, problem)
        step = state.sums.step(kernel.ran, last=last)
        if state.sums.rows:
            state = self._scheduled(state, step)
        return replace(state, step=state.step + 1, sums=StepSums()), step

    def renewed(self, state: State, problem: Problem) -> GradientState:
        """The same optimiser, at the beginning of other rows."""
        state = own_state(self, state, GradientState)
        epoch = state.epoch + (state.position > 0)
        return replace(state, epoch=epoch, position=0, sums=StepSums())

    def rows_of_step(self, source: Source) -> int | None:
        known = [rows for rows in (source.n_rows, self.rows_per_step) if rows is not None]
        return min(known, default=None)

    # the optimiser --------------------------------------------------------------------------------

    @property
    def _whole(self) -> bool:
        """Whether an update is by all rows."""
        return self._second_order if self.batch_size is None else self.batch_size == "all"

    @property
    def _second_order(self) -> bool:
        """Whether the optimiser guesses curvatures."""
        return issubclass(optimizer_class(self.optimizer), LBFGS)

    def _machine(self, leaves: list[Tensor]) -> tuple[Optimizer, LRScheduler | None]:
        lr = _LR if self.lr is None and not self._second_order else self.lr
        optimizer = make_optimizer(self.optimizer, leaves, lr, self.optimizer_options)
        if self.scheduler is None:
            return optimizer, None
        options = self.scheduler_options
        return optimizer, make_schedule(self.scheduler, optimizer, options, self.max_iter)

    def _scheduled(self, state: GradientState, step: Step) -> GradientState:
        optimizer, schedule = self._machine(leaves_of(state.point))
        if schedule is None:
            return state
        optimizer.load_state_dict(thawed(state.optimizer))
        schedule.load_state_dict(thawed(state.schedule))
        with warnings.catch_warnings():  # it cannot know of the updates made before
            warnings.simplefilter("ignore", UserWarning)
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(-step.log_likelihood)
            else:
                schedule.step()
        kept = frozen(optimizer.state_dict())
        return replace(state, optimizer=kept, schedule=frozen(schedule.state_dict()))

    # a pass ---------------------------------------------------------------------------------------

    def _walk(
        self, state: GradientState, problem: Problem, kernel: Kernel
    ) -> tuple[GradientState | None, Iterable[Block]]:
        """Updates to the end of the pass, or of the step, and the rows of the last.

        The state is None where numbers are not finite.
        """
        latest: Iterable[Block] = ()
        size = self._batch_rows(problem.source)
        leaves = leaves_of(state.point)
        optimizer, _ = self._machine(leaves)
        ascent = Ascent(
            state,
            leaves,
            optimizer,
            problem,
            size=size,
            kernel=kernel,
            beta=self._beta(state),
            floor=self._floor,
            clip=self.clip,
            even=self._second_order,
        )
        limit = math.inf if self.rows_per_step is None else self.rows_per_step
        for position, latest in self._updates(state, problem, size):
            ascent.update(latest)
            if ascent.failed:
                return None, latest
            state = ascent.state(position)
            if state.sums.rows >= limit and state.annealed >= self.annealing:
                return self._reached(state), latest
            problem.reached(state)
        return self._reached(replace(state, epoch=state.epoch + 1, position=0)), latest

    def _reached(self, state: GradientState) -> GradientState | None:
        """With the parameters at its point, if they are finite.

        LBFGS starts anew from there, in a frame in which its first guess, that all curvatures are
        equal, is nearly right (patches: 172.3 nats per row after 100 passes, without it 165.3).
        """
        parameters = located(state.frame, state.point, self._floor, even=self._second_order)
        if parameters is None or not self._second_order:
            return None if parameters is None else replace(state, parameters=parameters)
        return self._anew(state, parameters)

    def _anew(self, state: GradientState, parameters: Parameters) -> GradientState:
        """In a frame of these parameters; the optimiser forgets what it knew of the old one."""
        frame, point = placed(parameters, self._floor)
        optimizer = frozen(thawed(state.optimizer) | {"state": {}})
        return replace(state, parameters=parameters, frame=frame, point=point, optimizer=optimizer)

    def _batch_rows(self, source: Source) -> int | None:
        """Rows of an update; None for all."""
        if self._whole:
            return None
        size = self.batch_size if isinstance(self.batch_size, int) else _BATCH
        return size if source.n_rows is None else min(size, source.n_rows)

    def _updates(
        self, state: GradientState, problem: Problem, size: int | None
    ) -> Iterator[tuple[int, Iterable[Block]]]:
        """The position after each update, and its rows, which can be read again and again."""
        if size is None:
            if not state.position:
                yield 1, AllRows(problem.source)
            return
        for position, batch in problem.batches(size, state.seed, state.epoch, state.position):
            yield position, (batch,)

    def _beta(self, state: GradientState) -> float:
        """The power of the responsibilities in the pass that comes."""
        if state.annealed >= self.annealing:
            return 1.0
        return float(self.first_beta ** (1 - state.annealed / self.annealing))

    def _rescued(
        self, state: GradientState, problem: Problem, latest: Iterable[Block], kernel: Kernel
    ) -> GradientState:
        """Replace what was lost since the last look; the optimiser forgets what it knew then."""
        p = state.parameters
        wanted = _LOOK * p.n_components * p.family.min_rows(p.n_features) * state.row_weight
        if state.position and float(state.seen.sum()) < wanted:
            return state  # in the middle of a pass, too few to tell
        moments = moments_above_floor(p, state.seen, self._floor)
        central = p.family.central(moments)
        empty, collapsed = self.rescue.find(moments, central, p.family, self._floor)
        self.rescue.check(empty, collapsed)
        chosen = self.rescue.chosen(empty, collapsed, state.rescues)
        sums = state.sums.m_step(chosen, collapsed)
        state = replace(state, sums=sums, seen=torch.zeros_like(state.seen))
        if not bool(chosen.any()):
            return state
        p = reseeded(p, chosen, moments, latest, kernel, self._floor, problem.group)
        return self._anew(replace(state, rescues=state.rescues + int(chosen.sum())), p)
