"""Orthogonal matrices that several covariances share: how they are written, how they are found.

A rotation is written by Cayley's transform of a strictly lower triangle, `D (D - 1) / 2` numbers
without bounds. `common_axes` finds Flury's common principal components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..answers import guessing

__all__ = ["common_axes", "from_lower", "objective", "pulled_to_lower", "signs", "to_lower"]

# Entries of Cayley's form beyond which columns of Q are turned round. The signs that are found then
# leave few entries above 1, so that what was turned stays so.
_LARGEST = 4.0


# Cayley's form --------------------------------------------------------------------------------


def from_lower(lower: Tensor) -> Tensor:
    """The rotation `(I - A) (I + A)^-1` with `A = lower - lower^T`, for `lower (..., D, D)`.

    Every real triangle is one, and no matrix is more harmless to invert: `I + A` never shrinks a
    vector, so an error in the triangle is at most doubled.
    """
    skew, eye = _skew(lower)
    rotation: Tensor = torch.linalg.solve_ex(eye + skew, eye - skew).result  # never singular
    return rotation


def to_lower(rotation: Tensor) -> Tensor:
    """The triangle of orthogonal matrices `(..., D, D)`, of columns known up to their signs.

    Columns keep their signs where that makes no large entries, so that neighbours have triangles
    that are neighbours. Otherwise they get those that the elimination of `Q + S` finds, whose
    pivots are at least 1 (Ballard et al., "Reconstructing Householder vectors from TSQR", 2014).
    """
    lower, largest = _lower_of(rotation)
    turned = ~(largest <= _LARGEST)
    if not guessing() and not bool(turned.any()):
        return lower
    sign = torch.where(turned.unsqueeze(-1), signs(rotation), 1.0)
    return _lower_of(rotation * sign.unsqueeze(-2))[0]


def pulled_to_lower(gradient: Tensor, lower: Tensor) -> Tensor:
    """The gradient in the triangle from that in Q, as `dQ = -2 (I + A)^-1 dA (I + A)^-1`."""
    skew, eye = _skew(lower)
    inverse = torch.linalg.solve(eye + skew, eye.expand_as(skew)).mT
    by_skew = -2 * inverse @ gradient @ inverse
    lower_part: Tensor = (by_skew - by_skew.mT).tril(-1)
    return lower_part


def _skew(lower: Tensor) -> tuple[Tensor, Tensor]:
    lower = lower.tril(-1)
    return lower - lower.mT, torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)


def _lower_of(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """The triangle, and the largest entry `(...)` of the solution, infinite if there is none."""
    eye = torch.eye(rotation.shape[-1], dtype=rotation.dtype, device=rotation.device)
    skew, info = torch.linalg.solve_ex(eye + rotation, eye - rotation)
    # of the solution itself: where I + Q is singular to rounding that is no longer skew
    largest = skew.detach().abs().amax((-1, -2)).masked_fill(info != 0, math.inf)
    return ((skew - skew.mT) / 2).tril(-1), largest


def signs(rotation: Tensor) -> Tensor:
    """Signs `(..., D)` of columns, whatever they have, that keep `I + Q` far from singular."""
    rest = rotation.detach().clone()
    found = []
    for i in range(rest.shape[-1]):
        pivot = rest[..., i, i]
        sign = torch.where(pivot < 0, -1.0, 1.0).to(rest)
        found.append(sign)
        column = rest[..., i + 1 :, i] / (pivot + sign).unsqueeze(-1)
        rest[..., i + 1 :, i + 1 :] -= column.unsqueeze(-1) * rest[..., i, None, i + 1 :]
    return torch.stack(found, -1)


# common principal components ---------------------------------------------------------------------


def objective(covariances: Tensor, weights: Tensor, rotation: Tensor) -> Tensor:
    """`sum_k w_k log det diag(Q^T S_k Q)`, `(...)`: the less, the more the axes are shared."""
    variances = _seen(covariances, rotation).diagonal(dim1=-2, dim2=-1)
    return (weights * variances.log().sum(-1)).sum(-1)


@torch.no_grad()
def common_axes(
    covariances: Tensor,  # (*B, K, D, D), positive definite
    weights: Tensor,  # (*B, K), at least 0
    start: Tensor | None = None,  # (*B, D, D), orthogonal
    *,
    steps: int = 200,
    tolerance: float = 1e-20,
) -> Tensor:
    """The orthogonal matrix `(*B, D, D)` whose columns are the common principal components.

    They maximise the likelihood of Gaussian rows whose covariances have one set of axes: they
    minimise `objective` (Flury, "Common principal components in k groups", JASA 79, 1984). The
    answer is never worse than `start`, so that an EM step with few steps of this still climbs.

    Every pair of columns turns at once. The angle of a pair is Newton's for the pair alone, or,
    where that sees no minimum, that of the bound `log s <= s / s_0 + log s_0 - 1` on the product
    of its variances, which for one covariance is Jacobi's angle (compare Flury & Gautschi's FG
    algorithm, 1986, and Browne & McNicholas, 2014). These angles, made conjugate, are the direction
    of a line search, so a step costs O(K D^3) in products of matrices, for a whole batch together.

    Args:
        covariances: not changed by their units: each is divided by its mean variance.
        weights: of the covariances, as the rows that they are estimated from.
        start: where to begin if that is better than the eigenvectors of their mean, and of some
            with large weights. If not given, all of these are followed and the best end is taken.
        steps: at most.
        tolerance: the decrease that is left, in nats per unit of weight, to first order.
    """
    batch, (k, d) = covariances.shape[:-3], covariances.shape[-3:-1]
    s = covariances.reshape(-1, k, d, d)
    w = weights.reshape(-1, k)
    w = w / w.sum(-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    size = s.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(s.dtype).tiny)
    s = s / size[..., None, None]
    tried = _starts(s, w)
    if start is None:  # there are several minima: every start is followed to its own
        count = tried.shape[-3]
        each, own = s.repeat_interleave(count, 0), w.repeat_interleave(count, 0)
        tried = _descent(each, own, tried.flatten(0, 1), steps, tolerance).view_as(tried)
        found = _best(s, w, tried)
    else:
        tried = torch.cat([start.reshape(-1, 1, d, d), tried], -3)
        found = _descent(s, w, _best(s, w, tried), steps, tolerance)
    return found.reshape(*batch, d, d)


_LOOKED_AT = 4  # components whose own axes are tried as a start


def _starts(s: Tensor, w: Tensor) -> Tensor:
    """The eigenvectors of the mean, and of the heaviest covariances, `(M, C, D, D)`."""
    mean = (w[..., None, None] * s).sum(-3, keepdim=True)
    heavy = w.topk(min(_LOOKED_AT, w.shape[-1])).indices[..., None, None]
    own = s.gather(-3, heavy.expand(*heavy.shape[:-2], *s.shape[-2:]))
    tried: Tensor = torch.linalg.eigh(torch.cat([mean, own], -3)).eigenvectors
    return tried


def _best(s: Tensor, w: Tensor, tried: Tensor) -> Tensor:
    """Those `(M, D, D)` of the orthogonal matrices `(M, C, D, D)` that fit best."""
    levels = torch.stack([objective(s, w, q) for q in tried.unbind(-3)], -1)
    # such as are equal but for rounding: always the same ones
    levels[..., 0] -= 1e-12 * s.shape[-1]
    best = levels.nan_to_num(nan=math.inf).argmin(-1)
    best = best[..., None, None, None].expand(-1, 1, *tried.shape[-2:])
    found: Tensor = tried.gather(-3, best).squeeze(-3)
    return found


@dataclass(frozen=True)
class _Place:
    """A rotation and what its surroundings look like."""

    rotation: Tensor  # (M, D, D)
    level: Tensor  # (M,)
    slope: Tensor  # (M, D, D)  by the angle of every pair, antisymmetric
    angles: Tensor  # (M, D, D)  that each pair would turn by, antisymmetric
    gain: Tensor  # (M,)       decrease that the angles promise to first order

    def where(self, mask: Tensor, other: _Place) -> _Place:
        wide = mask[:, None, None]
        return _Place(
            torch.where(wide, self.rotation, other.rotation),
            torch.where(mask, self.level, other.level),
            torch.where(wide, self.slope, other.slope),
            torch.where(wide, self.angles, other.angles),
            torch.where(mask, self.gain, other.gain),
        )


_AT_ROUNDING = 1e-10  # gains below which levels cannot be told apart well enough to judge by them


def _descent(s: Tensor, w: Tensor, start: Tensor, steps: int, tolerance: float) -> Tensor:
    """Preconditioned conjugate gradients (Polak & Ribiere), each of a batch with its own length."""
    at = _look(s, w, start)
    way, length = at.angles, torch.ones_like(at.level)
    going = at.gain > tolerance
    for _ in range(steps):
        if not guessing() and not bool(going.any()):
            break  # nothing would change any more
        steep = _inner(at.slope, way)
        way = torch.where((steep < 0)[:, None, None], way, at.angles)
        steep = torch.where(steep < 0, steep, -at.gain)
        turned = at.rotation @ from_lower((length[:, None, None] * way).tril(-1) / 2)
        there = _look(s, w, turned)
        near = at.gain < _AT_ROUNDING
        better = there.level <= at.level + 1e-4 * length * steep
        better = going & torch.where(near, there.gain < at.gain, better)
        going = going & (better | ~near | (length > 0.5))
        # the length at which the slope along the way would have vanished
        bend = 1 - _inner(there.slope, way) / steep
        ideal = torch.where(bend > 0, length / bend.clamp_min(1e-3), 3 * length)
        conjugate = _inner(there.slope, there.angles) - _inner(at.slope, there.angles)
        share = (conjugate / -at.gain.clamp_min(torch.finfo(s.dtype).tiny)).clamp_min(0)
        onward = there.angles + share[:, None, None] * way
        way = torch.where(better[:, None, None], onward, at.angles)
        longer = ideal.clamp(0.3 * length, 3 * length).clamp_max(4.0)
        length = torch.where(better, longer, length / 4)
        at = there.where(better, at)
        going = going & (at.gain > tolerance) & (length > 1e-9)
    return _orthonormal(at.rotation)


def _look(s: Tensor, w: Tensor, rotation: Tensor) -> _Place:
    seen = _seen(s, rotation)
    least = torch.finfo(s.dtype).tiny ** 0.5
    v = seen.diagonal(dim1=-2, dim2=-1).clamp_min(least)  # rounding may leave -1e-17 of a zero
    one, other = v.unsqueeze(-1), v.unsqueeze(-2)
    # turning a pair by half an angle u makes its variances m +- (half cos u + across sin u)
    half, across = (one - other) / 2, seen
    weight = w[..., None, None] / (one * other)
    mixed = (weight * half * across).sum(-3)
    apart = (weight * half.square()).sum(-3) - (weight * across.square()).sum(-3)
    slope = -4 * mixed
    bound = 8 * apart
    curvature = bound - 16 * (weight / (one * other) * (half * across).square()).sum(-3)
    newton = curvature > 0.25 * bound.abs()
    angle = torch.where(
        newton, -slope / torch.where(newton, curvature, 1.0), torch.atan2(2 * mixed, apart) / 4
    )
    angle = angle.clamp(-math.pi / 4, math.pi / 4).triu(1)
    angle = angle - angle.mT
    level = (w * v.log().sum(-1)).sum(-1)
    return _Place(rotation, level, slope, angle, -_inner(slope, angle))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-1, -2)) / 2


def _seen(covariances: Tensor, rotation: Tensor) -> Tensor:
    """`Q^T S_k Q (..., K, D, D)`."""
    q = rotation.unsqueeze(-3)
    return q.mT @ covariances @ q


def _orthonormal(rotation: Tensor) -> Tensor:
    """What some hundred products took from orthogonality, put back (one step of Newton-Schulz)."""
    eye = torch.eye(rotation.shape[-1], dtype=rotation.dtype, device=rotation.device)
    return rotation @ (1.5 * eye - 0.5 * rotation.mT @ rotation)
