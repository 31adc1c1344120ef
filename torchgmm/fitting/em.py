"""Exact expectation-maximisation: every step reads all rows once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from ..covariance import Floor
from ..errors import InputError
from ..kernels import Kernel, as_kernel
from ..moments import Moments
from ..parameters import Parameters
from .base import Method, Problem, State, Step, own_state
from .blocks import require_replay
from .mstep import MStep, m_step, report, with_block, without_lost
from .processes import summed
from .rescue import Rescue

__all__ = ["EM", "EMState"]

# Blocks that each of many processes reads between two sums, some 8 GB: a step of less has one sum.
_TOGETHER = 256


@dataclass(frozen=True)
class EMState(State):
    """What exact EM goes on from.

    Attributes:
        moments: of the blocks of this pass already read, about the means of `parameters`; None
            between two steps.
        places: how many blocks each of many processes has read.
    """

    moments: Moments | None = None
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class EM(Method):
    """Exact EM (Dempster, Laird & Rubin 1977): the likelihood never falls.

    A step sums the moments of all rows about the current means and takes the parameters that
    maximise their likelihood; sums and M-step are in float64 whatever the rows are.

    Args:
        max_iter: most steps.
        reg_covar: floor, added to the diagonal of every covariance; absolute, in squared units of
            the data, as scikit-learn's. Data of another scale want another floor, columns of
            different scales a `RelativeFloor`.
        rescue: the policy for components that empty or collapse.
        kernel: how the E-step is computed: `auto` or a name from `torchgmm.kernels.kernels()`, some
            of them with a precision of products on a GPU after a colon, as `triton:tf32x3`.
        check_every: after how many steps their numbers are looked at, for which a GPU must be
            waited for. The result is the same, bit for bit: what goes beyond the end is dropped,
            and where a step turns out to need a closer look (an emptied component) the steps are
            made again from there. Observers hear of them together. It pays where a step takes
            less than a millisecond; the parameters of so many steps are kept until the look.
            Batches of mixtures and several processes look at every step.
        cuda_graph: whether steps that are not looked at are recorded as a CUDA graph and launched
            as one: `auto` where they are small and `check_every` is above 1, `always` where it is
            possible (with a warning where not), `never`. The rows must lie on the GPU.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> mixture = tg.GaussianMixture(2)
        >>> tg.fit(mixture, x, tg.EM(max_iter=500), stop=tg.Tolerance(1e-6), generator=0).converged
        True
    """

    state_type: ClassVar[type[State]] = EMState
    takes_batches: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = True
    max_iter: int = 100
    reg_covar: Floor = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"
    check_every: int = 1
    cuda_graph: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cuda_graph not in ("auto", "always", "never"):
            raise InputError(f"cuda_graph must be auto, always or never, got {self.cuda_graph!r}")

    def init(self, parameters: Parameters, problem: Problem) -> EMState:
        return EMState(parameters)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        state = own_state(self, state, EMState)
        require_replay(problem, "exact EM reads all rows at every step", "use OnlineEM")
        kernel = as_kernel(self.kernel)
        moments, rows = self._pass(state, problem, kernel)
        if not moments.is_finite():
            if not state.parameters.batch_shape:
                return state, Step(float("nan"), rows, kernel=kernel.ran)
            moments = without_lost(moments, state.parameters)
        after, step = self._maximised(moments, rows, state, problem, kernel)
        rescues = state.rescues
        if not after.sound:
            rescues = rescues + (after.n_rescued if state.parameters.batch_shape else step.rescued)
        return EMState(after.parameters, state.step + 1, rescues), step

    def _maximised(
        self,
        moments: Moments,
        rows: int,
        state: EMState,
        problem: Problem,
        kernel: Kernel,
        at: Parameters | None = None,
    ) -> tuple[MStep, Step]:
        """The M-step after a pass under the current mixture (or `at`), and the report of both."""
        after = m_step(
            moments,
            state.parameters if at is None else at,
            floor=self.reg_covar,
            rescue=self.rescue,
            spent=state.rescues,
            blocks=problem.rows_of(),
            kernel=kernel,
            group=problem.group,
        )
        return after, report(moments, after, rows, kernel.ran)

    def _pass(
        self, state: EMState, problem: Problem, kernel: Kernel, at: Parameters | None = None
    ) -> tuple[Moments, int]:
        """The moments of all rows under the current mixture (or `at`), and how many rows."""
        parameters = state.parameters if at is None else at
        size = problem.group.size
        begun = state.moments is not None
        if begun and len(state.places) != (0 if size == 1 else size):  # by another job
            state = replace(state, moments=None, position=0, sums=replace(state.sums, rows=0))
        if size > 1:
            return _shared_pass(state, problem, kernel, parameters)
        moments, rows = state.moments, state.sums.rows
        for position, block in problem.blocks(state.position):
            moments = with_block(moments, block, parameters, kernel)
            rows += block.n_rows
            # the log-likelihood stays where it was computed: reading it would make a GPU wait
            sums = replace(state.sums, rows=rows)
            problem.reached(replace(state, position=position, sums=sums, moments=moments))
        if moments is None:
            raise InputError("the source gave no rows of positive weight")
        return moments, rows


def _shared_pass(
    state: EMState, problem: Problem, kernel: Kernel, parameters: Parameters
) -> tuple[Moments, int]:
    """The pass of many processes: one sum at its end, and one every so many blocks before.

    After each, all hold the same moments, from which a step that is cut off goes on.
    """
    group = problem.group
    total, rows = state.moments, state.sums.rows
    place = state.places[group.rank] if state.places else 0
    blocks, left = problem.blocks(place), group.size
    while left:
        own, count, read = None, 0, 0
        for position, block in itertools.islice(blocks, _TOGETHER):
            own = with_block(own, block, parameters, kernel)
            place, count, read = position, count + block.n_rows, read + 1
        found, count, left = summed(group, own, count, parameters, more=read == _TOGETHER)
        if found is not None:
            total, rows = found if total is None else total + found, rows + count
        if left:
            each = group.total(*(float(place) * (r == group.rank) for r in range(group.size)))
            sums = replace(state.sums, rows=rows)
            places = tuple(int(place) for place in each)
            problem.reached(replace(state, moments=total, sums=sums, places=places))
    if total is None:
        raise InputError("the source gave no rows of positive weight")
    return total, rows
