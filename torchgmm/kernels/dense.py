"""The definition: subtract the mean, then whiten, then square. Right on every case, and fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..answers import holds
from ..buffers import room
from ..covariance.base import Family, Whitened
from ..exact import all_reachable, exact, is_near, reachable
from ..linalg import product
from ..moments import Moments
from ..parameters import Parameters
from .base import Kernel, chunk_rows, register, soft_assign
from .costs import by_columns
from .memory import spared

__all__ = [
    "Dense",
    "Prepared",
    "all_rows",
    "in_plain_coordinates",
    "joint_log_prob",
    "prepare",
    "squared_distances",
    "whitened_sums",
]


@dataclass(frozen=True)
class Prepared:
    """Parameters as the inner loop wants them, in the dtype of the rows."""

    centre: Tensor  # (*B, K, 1, D)  the means, rounded
    shift: Tensor | None  # (*B, K, 1, D)  whitened (rounded mean - mean); None where that is zero
    whitener: Tensor  # (*B, H, ...)
    log_norm: Tensor  # (*B, K, 1)     log pi_k - log|L_k| - D/2 log 2 pi

    def to(self, device: torch.device) -> Prepared:
        """The same there; in the dtype that they have, as that device may lack others."""
        shift = None if self.shift is None else self.shift.to(device)
        rest = (self.whitener.to(device), self.log_norm.to(device))
        return Prepared(self.centre.to(device), shift, *rest)


def prepare(p: Parameters, x: Tensor) -> Prepared:
    """Parameters in the form of the inner loop, in the dtype and on the device of the rows."""
    # In float64: the inverse of a float32 factor would lose digits where Sigma is ill-conditioned.
    exact, dtype = p.exact(), x.dtype
    d = p.n_features
    whitener = p.family.whitener(exact.scale)
    log_norm = (
        exact.log_weights - p.family.half_log_det(exact.scale, d) - 0.5 * d * math.log(2 * math.pi)
    ).unsqueeze(-1)
    means = exact.means.unsqueeze(-2)
    centre = means.to(dtype)
    shift = None
    if dtype != torch.float64 and p.means.dtype == torch.float64:
        # x - centre is exact where it matters; what the rounding of the means took comes back here
        rest = centre.to(torch.float64) - means
        shift = p.family.whiten(rest, whitener, None, None).to(dtype)
    made = Prepared(centre, shift, whitener.to(dtype).contiguous(), log_norm.to(dtype))
    return made if centre.device == x.device else made.to(x.device)


class _Workspace:
    """Buffers that are used again for every chunk."""

    def __init__(self, shape: tuple[int, ...], rows: int, like: Tensor, *, turned: bool) -> None:
        self._rows, self._turned, d = rows, turned, like.shape[-1]
        table = (*shape, d, rows) if turned else (*shape, rows, d)
        n = math.prod(table)
        both, flat = torch.split(room((2 * n + n // d,), like), [2 * n, n // d])
        first, second = both.view(2, *table).unbind()
        self._whole = first, second, flat.view(*shape, rows)

    def views(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Two `(*B, K, rows, D)` and one `(*B, K, rows)`.

        Contiguous; the first two feature by feature where they are turned.
        """
        first, second, flat = self._whole
        if rows < self._rows:
            axis = -1 if self._turned else -2
            first, second = _shortened(first, axis, rows), _shortened(second, axis, rows)
            flat = _shortened(flat, -1, rows)
        return (first.mT, second.mT, flat) if self._turned else (first, second, flat)


def _shortened(space: Tensor, axis: int, rows: int) -> Tensor:
    """The first part of a buffer, with so many rows along the axis."""
    shape = list(space.shape)
    shape[axis] = rows
    return space.flatten()[: math.prod(shape)].view(shape)


def _joint(seen: Whitened, log_norm: Tensor, out: Tensor | None = None) -> Tensor:
    # The clamp keeps a row at an absurd distance finite, so that -inf - -inf never makes a NaN.
    # In place where the answer overwrites what was squared anyway.
    limit = torch.finfo(log_norm.dtype).max / 8
    near = seen.mahalanobis
    near = near.clamp(max=limit) if out is None else near.clamp_(max=limit)
    return torch.add(log_norm, near, alpha=-0.5, out=out)


def _cancels(seen: Moments, family: Family, dtype: torch.dtype) -> bool:
    """Whether rows lie so far from their frame that rounding the distance is felt in their spread.

    So it is after a start outside the data: one more pass, about the rows' own means, mends it.
    Components with too few rows for a covariance have no spread that could be spoilt.
    """
    d = seen.first.shape[-1]
    most = 1 + 1e5 * torch.finfo(dtype).eps
    second = family.diagonal(seen.second)
    distance = family.squares(seen.first, seen.mean)
    if not holds((distance * most > second).any()):
        return False  # as nearly always
    present = (seen.weight >= family.min_rows(d)).unsqueeze(-1)
    first, mean = (torch.where(present, t, 0) for t in (seen.first, seen.mean))
    distance = family.squares(first, mean)
    # a constant column at rest is no such case
    least = 1e-6 * family.diagonal(family.unit_second(seen.weight, d))
    return holds(((distance * most > second) & (distance > least)).any())


def in_plain_coordinates(
    whitened_moments: Callable[[Tensor | None], Moments],
    parameters: Parameters,
    dtype: torch.dtype,
) -> Moments:
    """Moments about the means from a pass that sums whitened rows about a centre it is given."""
    family = parameters.family
    seen = whitened_moments(None)
    if _cancels(seen, family, dtype):
        seen = family.moved(whitened_moments(seen.mean.to(dtype)), seen.frame)
    exact = parameters.exact()
    factor = family.factor(exact.scale)
    return Moments(
        seen.weight,
        family.colour(seen.first, factor),
        family.colour_second(seen.second, factor),
        seen.log_prob,
        seen.rows,
        exact.means,
    )


@register
class Dense(Kernel):
    """Whitened and framed: all components of a chunk of rows in one batched product.

    Memory is two `(K, chunk, D)` buffers of `budget` bytes each, whatever N is.

    Args:
        budget: bytes of one buffer. 16 MiB measured best on two AVX-512 cores: it stays near the
            last-level cache. More on a GPU, where a launch wants work.
    """

    name: ClassVar[str] = "dense"
    needs_float64: ClassVar[bool] = False

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget

    def log_joint(self, x: Tensor, parameters: Parameters) -> Iterator[tuple[slice, Tensor]]:
        prepared = prepare(parameters, x)
        for rows, seen, buffer in self._chunks(x, parameters, prepared):
            yield rows, _joint(seen, prepared.log_norm, out=buffer)

    def distances(self, x: Tensor, parameters: Parameters) -> Iterator[tuple[slice, Tensor]]:
        """Squared Mahalanobis distances as `log_joint` gives log-probabilities, `(*B, K, n)`."""
        prepared = prepare(parameters, x)
        for rows, seen, _ in self._chunks(x, parameters, prepared):
            yield rows, seen.mahalanobis

    @spared
    def accumulate(self, x: Tensor, w: Tensor | None, parameters: Parameters) -> Moments:
        def moments(centre: Tensor | None) -> Moments:
            return self._whitened_moments(x, w, parameters, centre)

        return in_plain_coordinates(moments, parameters, x.dtype)

    def _whitened_moments(
        self,
        x: Tensor,
        w: Tensor | None,
        parameters: Parameters,
        centre: Tensor | None,  # (*B, K, D), in whitened coordinates; the origin if None
        assign: Callable[[Tensor], tuple[Tensor, Tensor]] = soft_assign,
    ) -> Moments:
        """Moments of z about `centre`: chunk sums in the dtype of the rows, totals in float64."""
        family = parameters.family
        prepared = prepare(parameters, x)
        sums: list[Tensor] = []
        for rows, seen, buffer in self._chunks(x, parameters, prepared):
            r, row_log_prob = assign(_joint(seen, prepared.log_norm, out=buffer))
            if w is not None:
                chunk_w = w[..., rows]
                r.mul_(chunk_w.unsqueeze(-2))
                row_log_prob = exact(row_log_prob) * reachable(chunk_w)
            if centre is not None:
                seen.z.sub_(centre.to(x.device).unsqueeze(-2))
                torch.mul(seen.z, seen.z, out=seen.squares)
            part = whitened_sums(seen, r, family)
            part.append(reachable(row_log_prob).sum(-1, dtype=torch.float64))
            sums = [a.add_(b) for a, b in zip(sums, part, strict=True)] if sums else part
        weight, first, second, log_prob = sums
        frame = torch.zeros_like(first) if centre is None else centre.double()
        return Moments(weight, first, second, log_prob, all_rows(x, w, log_prob), frame)

    def _chunks(
        self, x: Tensor, parameters: Parameters, prepared: Prepared
    ) -> Iterator[tuple[slice, Whitened, Tensor]]:
        shape = (*parameters.batch_shape, parameters.n_components)
        n_rows = x.shape[-2]
        rows = min(n_rows, chunk_rows(math.prod(shape), x.shape[-1], x.dtype, self.bytes_for(x)))
        # the order of a cache; and answers into strided views are where a young device errs
        turned = by_columns(parameters.n_features, parameters.family) and is_near(x)
        space = _Workspace(shape, rows, x, turned=turned)
        for start in range(0, n_rows, rows):
            part = slice(start, min(start + rows, n_rows))
            d, z, flat = space.views(part.stop - start)
            chunk = x if rows == n_rows else x[..., part, :]  # read K times
            chunk = chunk.mT.contiguous().mT if turned else chunk.contiguous()
            torch.sub(chunk.unsqueeze(-3), prepared.centre, out=d)
            parameters.family.whiten(d, prepared.whitener, prepared.shift, z)
            squares = torch.mul(z, z, out=d)
            yield part, Whitened(z, squares, torch.sum(squares, -1, out=flat)), flat


def whitened_sums(seen: Whitened, r: Tensor, family: Family) -> list[Tensor]:
    """Weight, first and second moments of a chunk under `r (*B, K, n)`, in float64 where that is.

    Overwrites `seen.squares`.
    """
    first = product(r.unsqueeze(-2), seen.z).squeeze(-2)
    return [t.double() for t in all_reachable((r.sum(-1), first, family.scatter(seen, r)))]


def all_rows(x: Tensor, w: Tensor | None, like: Tensor) -> Tensor:
    """The weight of all rows of each mixture, in the shape of `like (*B,)`."""
    if w is None:
        return torch.full_like(like, float(x.shape[-2]))
    return reachable(w).sum(-1, dtype=torch.float64).expand(like.shape)


def joint_log_prob(x: Tensor, parameters: Parameters) -> Tensor:
    """`log pi_k N(x_n; k)` as `(*B, N, K)`, in nats, differentiable in rows and parameters.

    The same formula as `Dense`, in one piece and on fresh tensors, for autograd.

    Args:
        x: `(N, D)` or `(*B, N, D)`.
        parameters: tensors that may require gradients.
    """
    prepared = prepare(parameters, x)
    return _joint(_seen(x, parameters, prepared), prepared.log_norm).mT


def squared_distances(x: Tensor, parameters: Parameters) -> Tensor:
    """Squared Mahalanobis distances `(*B, N, K)`, differentiable, in one piece."""
    return _seen(x, parameters, prepare(parameters, x)).mahalanobis.mT


def _seen(x: Tensor, parameters: Parameters, prepared: Prepared) -> Whitened:
    d = x.unsqueeze(-3) - prepared.centre
    z = parameters.family.whiten(d, prepared.whitener, prepared.shift, None)
    squares = z * z
    return Whitened(z, squares, squares.sum(-1))
