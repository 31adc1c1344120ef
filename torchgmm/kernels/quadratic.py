"""Two matrix products over quadratic features: no differences of rows and means are ever formed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..answers import answer
from ..covariance import Family
from ..errors import InputError
from ..moments import Moments
from ..parameters import Parameters
from .base import PRECISIONS, Kernel, can_launch, checked_precision, one_hot, register, soft_assign
from .chunks import Assign, Chunks
from .costs import dense_cost, quadratic_cost, sharing
from .dense import Dense, all_rows
from .features import Features, Linear, Products, features_of
from .memory import retried, spared
from .turns import turns

__all__ = ["Quadratic", "QuadraticPlan", "nearest_moments"]


@dataclass(frozen=True)
class _Limits:
    """What the rounding of all that cancels (`Features.magnitude`) may come to.

    The contract of float32 rows is 1e-4 for both (tests/contracts/test_precision.py). Measured on
    2 to 64 features and means 1 to 60 deviations apart, errors of means came to at most 0.17 of
    `joint`, those of variances to at most 2.7 of `variance`; those of matrices to 0.7, as long as
    no float32 sum has more than some thousand rows.
    """

    joint: float
    variance: float

    def allow(self, magnitude: Tensor, dtype: torch.dtype, condition: Tensor | None = None) -> bool:
        """Whether a dtype keeps the digits of terms as large as that; of NaN it does not.

        And whether the condition `()` holds, if one is given: a GPU is waited for once.
        """
        eps = torch.finfo(dtype).eps

        def small(joint: Any, variance: Any, *others: Any) -> Any:
            found = (eps * joint <= self.joint) & (eps * variance <= self.variance)
            return functools.reduce(lambda one, other: one & (other > 0), others, found)

        if condition is not None:
            magnitude = torch.cat([magnitude, condition.to(magnitude)[None]])
        return answer(magnitude, small)


_LIMITS = {torch.float32: _Limits(3e-4, 2e-5), torch.float64: _Limits(1e-9, 1e-11)}
_MATRICES = _Limits(3e-4, 1e-4)  # float32, one per component, sums of `layouts._SLAB` rows
_START = _Limits(3e-4, 2e-4)  # of a start, whose variances the first step forgets
_SINGLE = _Limits(1e-10, math.inf)  # of log-probabilities that are handed out, row by row
# variances of constant columns: rounding, where a floor is all there is to see
_AT_REST = 1e-30


def _limits(features: Features, x: Tensor) -> _Limits:
    wide = isinstance(features, Products) and x.dtype == torch.float32 and x.device.type == "cpu"
    return _MATRICES if wide else _LIMITS[x.dtype]


@dataclass(frozen=True)
class QuadraticPlan:
    """What is known before a pass.

    Attributes:
        features: of the mixture.
        dtypes: in which its products may be made, the cheapest first; none where none would do.
    """

    features: Features
    dtypes: tuple[torch.dtype, ...]


@register
class Quadratic(Kernel):
    """`log_joint` as `Theta Phi`, moments as `R Phi^T` (numerics of `features`).

    Costs half of what `dense` does for full covariances, and K D instead of several passes over
    N K D numbers for the others. Float32 products lose digits where means are many standard
    deviations apart: what would be lost is estimated from the parameters before a pass, and from
    the sums after it. Where it is too much the products are made in float64, and where even that
    would not do, `dense` takes over.

    Args:
        budget: bytes of the features and log-probabilities of one chunk. 12 to 24 MiB measured
            best: with fewer rows a chunk is all overhead where there are thousands of features.
        precision: of the products of float32 rows on a GPU, as `Triton` has them; `ieee` is
            float32 itself, and what a CPU takes whatever is asked for.
    """

    name: ClassVar[str] = "quadratic"
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS

    def __init__(self, budget: int | None = None, precision: str = "ieee") -> None:
        self.budget, self.precision = budget, checked_precision(precision)

    @property
    def ran(self) -> str:
        return self.name if self.precision == "ieee" else f"{self.name}:{self.precision}"

    def log_joint(self, x: Tensor, parameters: Parameters) -> Iterator[tuple[slice, Tensor]]:
        features = _about_the_middle(parameters, x)
        # float64 whatever the rows are: single log-probabilities are not averaged over rows
        if not _SINGLE.allow(_expected(features), torch.float64):
            yield from self._dense().log_joint(x, parameters)
            return
        work = Chunks(features, x, torch.float64, self.bytes_for(x))
        rounded: Tensor | None = None
        for part, joint in work:
            if isinstance(features, Linear):
                joint += features.row_term(work.layout.linear)
            if x.dtype == torch.float64:
                yield part, joint
                continue
            if rounded is None or rounded.shape != joint.shape:
                rounded = torch.empty_like(joint, dtype=x.dtype)
            limit = torch.finfo(x.dtype).max / 8
            yield part, rounded.copy_(joint.clamp_(min=-limit))

    def accumulate(self, x: Tensor, w: Tensor | None, parameters: Parameters) -> Moments:
        return self.planned(x, w, parameters, self.plan(x, parameters))

    def plan(self, x: Tensor, parameters: Parameters) -> QuadraticPlan:
        """The features, and the dtypes in which products are expected to keep the rows' digits."""
        features = _about_the_middle(parameters, x)
        limits, expected = _limits(features, x), _expected(features)
        both = dict.fromkeys((x.dtype, torch.float64))
        dtypes = tuple(dtype for dtype in both if limits.allow(expected, dtype))
        return QuadraticPlan(features, dtypes)

    @spared
    def planned(
        self, x: Tensor, w: Tensor | None, parameters: Parameters, plan: QuadraticPlan
    ) -> Moments:
        """`accumulate` with a plan at hand."""
        for dtype in plan.dtypes:
            found = _sums(self._chunks(plan.features, x, dtype), x, w, _limits(plan.features, x))
            if found is not None:
                return found
        return self._dense().accumulate(x, w, parameters)

    def _chunks(self, features: Features, x: Tensor, dtype: torch.dtype) -> Chunks:
        exact = dtype != torch.float32 or not can_launch(x.device)
        return Chunks(features, x, dtype, self.bytes_for(x), "ieee" if exact else self.precision)

    def _dense(self) -> Kernel:
        return Dense(self.budget)


def _about_the_middle(parameters: Parameters, x: Tensor) -> Features:
    exact = parameters.to(torch.float64)
    centre = (exact.logits.softmax(-1).unsqueeze(-1) * exact.means).sum(-2)
    if sharing(exact, x) > 1:
        centre = centre.reshape(-1, centre.shape[-1]).mean(0)
    # a number that the rows could hold: then x - c is exact where the digits are
    return features_of(exact, centre.to(x.dtype).double())


def nearest_moments(
    x: Tensor,  # (N, D) or (B, N, D)
    w: Tensor | None,  # (N,) or (B, N)
    centres: Tensor,  # (B, K, D), float64
    family: Family,
) -> Moments:
    """Moments about the centres, of rows that each belong to the nearest one.

    An E-step of components of equal weight and unit covariance, made hard; in float64 where the
    rows' own dtype would lose digits.
    """
    b, k, d = centres.shape
    scale = centres.new_zeros(b, *family.scale_shape(k, d))  # unit covariances
    unit = Parameters(torch.zeros_like(centres[..., 0]), centres, scale, family)

    def each() -> list[Moments]:
        return [_nearest_of(rows, own, some) for _, some, rows, (own,) in turns(unit, x, w)]

    return Moments.cat(retried(Quadratic().bytes_for, x, each))


def _nearest_of(x: Tensor, w: Tensor | None, unit: Parameters) -> Moments:
    if dense_cost(unit, torch.float64) < quadratic_cost(unit, torch.float64, sharing(unit, x)):
        weights = None if w is None else w.double()
        found = Dense()._whitened_moments(x.double(), weights, unit, None, _hard_assign)
        return replace(found, frame=unit.means)
    features, size = _about_the_middle(unit, x), Quadratic().bytes_for(x)
    sums: Moments | None = None
    if x.dtype != torch.float64:
        sums = _sums(Chunks(features, x, x.dtype, size), x, w, _START, _hard_assign)
    if sums is None:
        sums = _sums(Chunks(features, x, torch.float64, size), x, w, None, _hard_assign)
    if sums is None:
        raise InputError("the sums of these rows are not finite: rescale the columns")
    return sums


def _hard_assign(log_joint: Tensor) -> tuple[Tensor, Tensor]:
    top = log_joint.amax(-2, keepdim=True)
    return one_hot(log_joint, top), top.squeeze(-2)


def _sums(
    work: Chunks,
    x: Tensor,
    w: Tensor | None,
    limits: _Limits | None,
    assign: Assign = soft_assign,
) -> Moments | None:
    """One pass; None where the rows turn out to lie so that the dtype lost more than `limits`."""
    features, dtype = work.features, work.dtype
    sums = log_prob = scatter = torch.zeros((), dtype=torch.float64, device=x.device)
    for part, joint in work:
        chunk_w = None if w is None else w[..., part].to(dtype)
        row_log_prob, found = work.sums(joint, chunk_w, assign)
        if isinstance(features, Linear):
            z = work.layout.linear
            row_log_prob = row_log_prob + features.row_term(z).squeeze(-2)
            scatter = scatter + features.scatter(z, chunk_w).double()
        if chunk_w is None:
            log_prob = log_prob + row_log_prob.double().sum(-1)
        else:
            log_prob = log_prob + (row_log_prob.double() * chunk_w).sum(-1)
        sums = sums + found.double()
    rows = all_rows(x, w, log_prob)
    return _moments(features, sums, scatter, log_prob, rows, dtype, limits)


def _moments(
    features: Features,
    sums: Tensor,
    scatter: Tensor,
    log_prob: Tensor,
    rows: Tensor,
    dtype: torch.dtype,
    limits: _Limits | None,
) -> Moments | None:
    family, p = features.family, features.parameters
    second = (
        scatter if isinstance(features, Linear) else features.second(sums[..., : features.n_second])
    )
    first = sums[..., features.n_second : -1]
    seen = Moments(sums[..., -1], first, second, log_prob, rows, torch.zeros_like(first))
    if not seen.is_finite() or not (limits is None or _held(features, seen, dtype, limits)):
        return None
    if isinstance(features, Linear):
        found = family.moved(seen, features.whitened)
        factor = family.factor(p.scale)
        first = family.colour(found.first, factor)
        second = family.colour_second(found.second, factor)
        return Moments(found.weight, first, second, log_prob, rows, p.means)
    found = family.moved(seen, features.offset)
    return Moments(found.weight, found.first, found.second, log_prob, rows, p.means)


def _expected(features: Features) -> Tensor:
    """The largest `Features.magnitude` of a component if the rows lie where the parameters say."""
    return _largest(features, features.spread())


def _held(features: Features, seen: Moments, dtype: torch.dtype, limits: _Limits) -> bool:
    """The same for the rows as they turned out to lie about the centre, `seen`."""
    family = features.family
    present = seen.weight >= family.min_rows(features.d)
    n = seen.present.unsqueeze(-1)
    about, mean = family.diagonal(seen.second), seen.mean
    left = about - family.squares(seen.first, mean)
    # of a component that shares its covariance no more is known than its mean
    if family.tied:
        spread = mean.abs() + 1
    else:  # a mean of variances where only a sum is known
        variance = left if left.shape[-1] == features.d else left / features.d
        spread = (variance.clamp_min(0) / n + mean.square()).sqrt()
    largest = _largest(features, spread, present)
    # and whether what is left about the new means stands out of the rounding of what it came from
    lost = torch.finfo(dtype).eps / limits.variance * about
    stands_out = lost <= left
    if limits.allow(largest, dtype, stands_out.all()):
        return True
    heads = present.any(-1, keepdim=True) if family.tied else present
    at_rest = limits.variance * lost <= _AT_REST * family.pool(seen.weight, 0).unsqueeze(-1)
    stands_out = stands_out | at_rest | ~heads.unsqueeze(-1)
    return limits.allow(largest, dtype, stands_out.all())


def _largest(features: Features, spread: Tensor, present: Tensor | None = None) -> Tensor:
    """`(2,)`: of all components that are there."""
    joint, variance = features.magnitude(spread)
    both = (joint,) if joint is variance else (joint, variance)
    largest = [(t if present is None else t.where(present, 0)).amax() for t in both]
    return torch.stack([largest[0], largest[-1]])
