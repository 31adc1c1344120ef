"""EM that looks ahead: every third step starts from an extrapolation of the two before it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..kernels import as_kernel
from ..parameters import Parameters
from .base import Problem, State, Step, StepSums, own_state
from .blocks import require_replay
from .em import EM, EMState
from .mstep import MStep

__all__ = ["SQUAREM", "SquaremState"]

_FIRST, _SECOND, _TRIAL = 0, 1, 2
# How the longest stride changes after one that was taken in full, and after one that failed.
_GROWTH = 4.0


@dataclass(frozen=True)
class SquaremState(EMState):
    """What SQUAREM goes on from.

    Attributes:
        stage: 0 at the start of a cycle, 1 after its first step, 2 at an extrapolation.
        earlier: the parameters one step before, at stage 1.
        ahead: the extrapolation, at stage 2; `parameters` are those of two plain steps then.
        level: the log-likelihood that an extrapolation must reach, mean per row.
        stride: of the extrapolation; 1 would be two plain steps.
        longest: no stride is longer than this.
    """

    stage: int = _FIRST
    earlier: Parameters | None = None
    ahead: Parameters | None = None
    level: float = -math.inf
    stride: float = 1.0
    longest: float = _GROWTH


@dataclass(frozen=True)
class SQUAREM(EM):
    """Exact EM, accelerated by squared extrapolation (Varadhan & Roland 2008, their scheme S3).

    Two plain steps `t0 -> t1 -> t2` give `r = t1 - t0` and `v = (t2 - t1) - r`; the third starts
    from `t0 + 2 a r + a^2 v` with the stride `a = |r| / |v|`, at least 1 (which would be t2). Where
    that has a lower likelihood than t1, the step goes on from t2 instead and reads the rows once
    more, so the likelihood never falls. `t` are logits, means and log-Cholesky factors, so every
    extrapolation is a valid mixture. Lengths are measured in standard deviations.

    Worth it where components overlap and plain EM creeps; where they are apart both are done after
    a few steps. The settings are those of `EM`, except that every step looks at its numbers.

    Example:
        >>> import torch, torchgmm as tg
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(2000, 2, generator=g) + 2 * torch.randint(2, (2000, 1), generator=g)
        >>> stop, plain, fast = tg.Tolerance(1e-7), tg.GaussianMixture(2), tg.GaussianMixture(2)
        >>> slow = plain.fit(x, tg.EM(max_iter=2000), stop=stop, generator=0)
        >>> quick = fast.fit(x, tg.SQUAREM(max_iter=2000), stop=stop, generator=0)
        >>> sum(s.rows for s in quick.history) < 0.75 * sum(s.rows for s in slow.history)
        True
    """

    state_type: ClassVar[type[State]] = SquaremState
    takes_batches: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.check_every != 1 or self.cuda_graph == "always":
            raise InputError(
                "SQUAREM looks at every step and decides how to go on: leave check_every and "
                "cuda_graph out, or use EM"
            )

    def init(self, parameters: Parameters, problem: Problem) -> SquaremState:
        return SquaremState(parameters)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        given = state = own_state(self, state, SquaremState)
        require_replay(problem, "SQUAREM reads all rows at every step", "use OnlineEM")
        kernel = as_kernel(self.kernel)
        moments, rows = self._pass(state, problem, kernel, state.ahead)
        if state.ahead is not None and not float(moments.mean_log_prob) >= state.level:
            state = _fallen_back(state, rows)
            moments, rows = self._pass(state, problem, kernel)
        if not moments.is_finite():
            return given, Step(math.nan, rows, kernel=kernel.ran)
        after, step = self._maximised(moments, rows, state, problem, kernel, state.ahead)
        return _next(state, after, step), step


def _fallen_back(state: SquaremState, rows: int) -> SquaremState:
    """At the start of a cycle from where plain EM would be, with `rows` read in vain."""
    return SquaremState(
        state.parameters,
        state.step,
        state.rescues,
        sums=StepSums(rows=rows),
        longest=max(1.0, state.longest / _GROWTH),
    )


def _next(state: SquaremState, after: MStep, step: Step) -> SquaremState:
    """The state after a step: on within the cycle, or at the start of the next."""
    plain = SquaremState(
        after.parameters, state.step + 1, state.rescues + step.rescued, longest=state.longest
    )
    if step.rescued:  # a component that was replaced has no direction
        return plain
    if state.stage == _FIRST:
        return replace(plain, stage=_SECOND, earlier=state.parameters)
    if state.stage == _TRIAL:
        taken_in_full = state.stride >= state.longest
        return replace(plain, longest=state.longest * (_GROWTH if taken_in_full else 1))
    assert state.earlier is not None
    ahead, stride = _extrapolated(state.earlier, state.parameters, after.parameters, state.longest)
    if stride <= 1:
        # with the longest stride at 1 nothing would ever be tried again
        return replace(plain, longest=max(state.longest, _GROWTH))
    return replace(
        plain,
        stage=_TRIAL,
        ahead=ahead,
        level=step.log_likelihood,
        stride=stride,
    )


def _extrapolated(
    first: Parameters, second: Parameters, third: Parameters, longest: float
) -> tuple[Parameters, float]:
    """`t0 + 2 a r + a^2 v` and its stride a; the third parameters and 1 where a would be less."""
    r = _difference(second, first)
    v = [b - a for a, b in zip(r, _difference(third, second), strict=True)]
    spread = _spread(first)
    bend = _length(v, spread, first)
    stride = min(_length(r, spread, first) / bend, longest) if bend > 0 else 1.0
    if not stride > 1:
        return third, 1.0
    start = (first.log_weights, first.means, first.scale)
    logits, means, scale = (
        t + 2 * stride * a + stride**2 * b for t, a, b in zip(start, r, v, strict=True)
    )
    ahead = Parameters(logits, means, scale, first.family)
    return (ahead, stride) if ahead.is_finite() else (third, 1.0)


def _difference(a: Parameters, b: Parameters) -> list[Tensor]:
    # a component of weight 0 stays what it is: -inf - -inf is no direction
    logits = (a.log_weights - b.log_weights).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return [logits, a.means - b.means, a.scale - b.scale]


def _spread(p: Parameters) -> Tensor:
    """Standard deviations within the components `(D,)`: the unit of means and factors."""
    family = p.family
    weights = p.log_weights.exp()
    unit = family.unit_second(weights, p.n_features)
    second = family.diagonal(family.colour_second(unit, family.factor(p.scale)))
    variance = second.sum(-2) * (second.shape[-1] / p.n_features)
    return variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt().expand(p.n_features)


def _length(parts: list[Tensor], spread: Tensor, p: Parameters) -> float:
    """Euclidean length of a change of the parameters, in standard deviations."""
    logits, means, scale = parts
    pieces = (logits, means / spread, p.family.unitless(scale, spread))
    return math.sqrt(sum(float(piece.square().sum()) for piece in pieces))
