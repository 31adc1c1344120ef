"""What a fit is made of: methods, their state, steps and status, and the rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from ..answers import Answers, guessing
from ..checks import check_count, check_real
from ..collective import Group
from ..covariance import Floor, check_floor
from ..data import Block, Groups, Source
from ..errors import InputError
from ..kernels import Kernel, as_kernel
from ..moments import Moments
from ..parameters import Parameters
from .processes import in_step, summed
from .watch import Watch

__all__ = [
    "BatchStep",
    "Method",
    "Problem",
    "State",
    "Status",
    "Step",
    "StepSums",
    "Tentative",
    "own_state",
]


class Status(Enum):
    """How a fit ended; the value is the sentence that the user reads."""

    CONVERGED = "the stopping rule is met"
    BUDGET_SPENT = "the step budget was spent before the stopping rule was met: raise max_iter"
    STALLED = "the log-likelihood has not risen for many steps: more will not help"
    ENDED = "the stream of rows has ended"
    SINGULAR = "a covariance has lost its spread, and there is no floor: the last good step is kept"
    DIVERGED = (
        "the sums are no longer finite: the last good step is kept; rescale the columns, or, of a "
        "gradient fit, lower lr"
    )


@dataclass(frozen=True)
class Step:
    """One step of a fit.

    Attributes:
        log_likelihood: mean per row (per unit of weight), nats, of the parameters that *entered*
            the step, as scikit-learn's lower bound.
        rows: rows read.
        seconds: duration.
        rescued: components that were replaced.
        collapsed: components whose covariance is nothing but the floor.
        kernel: which kernel ran.
        last: no rows are left for another step.
        n_bytes: what each process gave to be summed over all; 0 in a process alone.
    """

    log_likelihood: float
    rows: int = 0
    seconds: float = 0.0
    rescued: int = 0
    collapsed: int = 0
    kernel: str = ""
    last: bool = False
    n_bytes: int = 0

    @property
    def rows_per_second(self) -> float:
        """How fast rows were read and computed; 0 where no time was taken."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Tentative(Step):
    """A step whose numbers nobody has looked at yet.

    Attributes:
        numbers: `(3,)` log-likelihood, rescued and collapsed, on the device.
    """

    numbers: Tensor = field(kw_only=True)

    def looked_at(self, numbers: list[float], seconds: float) -> Step:
        """The step with its numbers."""
        level, rescued, collapsed = numbers
        return Step(level, self.rows, seconds, int(rescued), int(collapsed), self.kernel)


@dataclass(frozen=True)
class BatchStep(Step):
    """One step of a batch of mixtures: of all together, as in `Step`, and of each, on the CPU.

    Attributes:
        levels: `(B,)` mean log-likelihoods, nats; NaN where sums are not finite.
        rescues: `(B,)` components replaced.
        collapses: `(B,)` components at the floor.
        failed: `(B,)` mixtures with a covariance that has no spread and no floor.
    """

    levels: Tensor = field(kw_only=True)
    rescues: Tensor = field(kw_only=True)
    collapses: Tensor = field(kw_only=True)
    failed: Tensor | None = field(kw_only=True)


@dataclass(frozen=True)
class StepSums:
    """What the E-steps and M-steps of a step under way add up to, for its report."""

    rows: int = 0
    batches: int = 0
    log_prob: float = 0.0
    weight: float = 0.0
    rescued: int = 0
    collapsed: int = 0

    def e_step(self, rows: int, moments: Moments) -> StepSums:
        """With an E-step: how many rows, and their moments."""
        return replace(
            self,
            rows=self.rows + rows,
            batches=self.batches + 1,
            log_prob=self.log_prob + float(moments.log_prob),
            weight=self.weight + float(moments.rows),
        )

    def m_step(self, rescued: Tensor, collapsed: Tensor) -> StepSums:
        """With an M-step: masks of the components that were replaced, and of those collapsed."""
        replaced = self.rescued + int(rescued.sum())
        return replace(self, rescued=replaced, collapsed=int(collapsed.sum()))

    def step(self, kernel: str, *, last: bool = False) -> Step:
        """The report; its log-likelihood is of every batch before its own M-step."""
        mean = self.log_prob / self.weight if self.weight else math.nan
        return Step(mean, self.rows, 0.0, self.rescued, self.collapsed, kernel, last)


@dataclass(frozen=True)
class State:
    """All that the next step needs; nothing is hidden elsewhere.

    It may stand in the middle of a step, which then goes on from there as if it had not been cut.

    Attributes:
        parameters: the mixture, float64.
        step: how many steps were made.
        rescues: how many components were replaced so far; `(B,)` of each mixture of a batch.
        position: blocks or batches of this pass already read.
        sums: of the step under way; empty between two steps.
    """

    parameters: Parameters
    step: int = 0
    rescues: Any = 0
    position: int = 0
    sums: StepSums = StepSums()

    def only(self, index: Tensor) -> Self:
        """That of some mixtures of a batch, between two steps."""
        tensors = {f.name: _only(getattr(self, f.name), index) for f in fields(self)}
        return replace(self, **tensors)


def _only(value: Any, index: Tensor) -> Any:
    if isinstance(value, (Tensor, Parameters, Moments)):
        return value[index]
    if isinstance(value, tuple):
        return tuple(_only(part, index) for part in value)
    return value


@dataclass(frozen=True)
class Problem:
    """What stays the same during a fit: the rows, and a generator for the methods that draw."""

    source: Source
    generator: torch.Generator
    watch: Watch = field(default_factory=Watch, repr=False)
    answers: Answers = field(default_factory=Answers, repr=False)
    graphs: dict[Any, Any] = field(default_factory=dict, repr=False)  # see the module
    _readers: dict[tuple[int, ...], Iterator[Block]] = field(default_factory=dict, repr=False)

    @property
    def group(self) -> Group:
        """The processes that share the rows."""
        return self.source.group

    def reached(self, state: State) -> None:
        """Name a state from which the step under way can go on: after each block.

        Only where a reader finds its place again are states in the middle of a pass of any use.
        """
        if guessing():
            return
        if self.source.stable and not (self.source.own and self.group.size > 1):
            self.watch.state = state

    def summed(
        self, moments: Moments | None, rows: int, parameters: Parameters
    ) -> tuple[Moments | None, int]:
        """Moments and number of the rows of all processes, from those of this one.

        The one place where a fit meets the other processes. None where there are no rows.
        """
        if self.group.size == 1:
            return moments, rows
        moments, rows, _ = summed(self.group, moments, rows, parameters)
        return moments, rows

    def e_step(self, kernel: Kernel, batch: Block, parameters: Parameters) -> tuple[Moments, int]:
        """Moments of a batch and its number of rows, whichever processes have them."""
        own = kernel.accumulate(batch.x, batch.w, parameters) if len(batch.x) else None
        moments, rows = self.summed(own, len(batch.x), parameters)
        if moments is None or rows != (rows if batch.whole is None else batch.whole):
            raise InputError(
                f"the processes read {rows} of {batch.whole} rows of a batch: the source gives "
                "them in another order in some"
            )
        return moments, rows

    def only(self, index: Tensor) -> Problem:
        """The rows of some mixtures of a batch."""
        assert isinstance(self.source, Groups)
        return replace(self, source=self.source.only(index))

    def rows_of(self) -> Any:
        """Where an M-step finds rows again: blocks, or for a batch those of each mixture."""
        source = self.source
        if isinstance(source, Groups):
            return lambda mixture: source.of(mixture).blocks()
        return source.blocks()

    def blocks(self, position: int) -> Iterator[tuple[int, Block]]:
        """All rows in their own order from `position` on: the position after it, and a block."""
        for block in self.source.blocks(skip=position):
            position = _after(position, block)
            yield position, block

    def batches(
        self, rows: int, seed: int, epoch: int, position: int, *, ordered: bool = False
    ) -> Iterator[tuple[int, Block]]:
        """Random batches of this epoch, or batches in the rows' own order, from `position` on.

        Each comes with the position after it.

        A reader that stands there already goes on; otherwise one is opened and skips. So a step
        may end in the middle of a pass at no cost, and a resumed one finds its place.
        """
        reader = self._readers.pop((rows, seed, epoch, position), None)
        self._readers.clear()
        if reader is None:
            skip = position if self.source.replayable else 0
            if ordered:
                reader = self.source.ordered_batches(rows, skip=skip)
            else:
                reader = self.source.batches(rows, seed=seed, epoch=epoch, skip=skip)
        for batch in in_step(reader, self.source, position):
            position = _after(position, batch)
            self._readers.clear()
            self._readers[rows, seed, epoch, position] = reader
            yield position, batch


def _after(position: int, block: Block) -> int:
    """The place behind a block; blocks without a row of positive weight may lie before it."""
    return max(position, block.number) + 1


class Method(ABC):
    """How one step of a fit is made. Its fields are its configuration.

    Attributes:
        state_type: the class of its states; those of other methods are refused.
        max_iter: the step budget.
        takes_batches: whether a step moves all mixtures of a batch.
        looks_ahead: whether steps can be made before their numbers are looked at (`ahead`).
        check_every: after how many steps they are, then.
        reg_covar: the floor, added to the diagonal of every covariance, in squared units of the
            data (scikit-learn's meaning), or relative to the variance of each feature
            (`RelativeFloor`).
    """

    state_type: ClassVar[type[State]] = State
    takes_batches: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    check_every: int = 1
    max_iter: int
    reg_covar: Floor

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing, as far as all methods have them."""
        settings: dict[str, Any] = getattr(self, "__dataclass_fields__", {})
        for name, setting in settings.items():
            value = getattr(self, name)
            if setting.type in ("float", "float | None") and value is not None:
                check_real(name, value)
        check_count("max_iter", self.max_iter, least=0)
        check_floor(self.reg_covar)
        check_count("check_every", self.check_every)
        as_kernel(getattr(self, "kernel", "auto"))

    @abstractmethod
    def init(self, parameters: Parameters, problem: Problem) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        """One step; the state given is left as it is."""

    def renewed(self, state: State, problem: Problem) -> State:
        """The state from which a fit to *other* rows goes on.

        Here: only the parameters are kept, since all else is of the rows before.
        """
        return self.init(state.parameters, problem)

    def rows_of_step(self, source: Source) -> int | None:
        """How many rows a step reads; None where only reading would tell."""
        return source.n_rows


S = TypeVar("S", bound=State)


def own_state(method: Method, state: State, kind: type[S]) -> S:
    """`state`, if it is one of this method.

    Raises:
        InputError: it is of another method.
    """
    if not isinstance(state, kind):
        raise InputError(
            f"{type(method).__name__} goes on from {_one(kind)}, got {_one(type(state))}: give "
            "the method of the fit that it comes from, or start from its parameters, "
            "init=state.parameters"
        )
    return state


def _one(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} {kind.__name__}"
