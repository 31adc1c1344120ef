"""Cheap upper bounds of `log pi_k N(x; k)`, by which most pairs of row and component are dismissed.

The factor of a covariance is lower triangular, so the first p whitened coordinates need only its
leading block, and what they leave out only lowers the density. Rows are turned to the principal
axes of the mixture first, those that tell the components apart best in front: a linear map of the
rows that all components share changes no responsibility.

A bound is linear in quadratic features of p coordinates, hence one small matrix product for all
pairs. It holds for the numbers that the product gives, not only for those it should give: the
rounding of every step is bounded by terms of the same features, which are added to the
coefficients (Higham & Mary, SIAM J. Sci. Comput. 41, 2019: with probability next to one a product
of P terms is off by less than 4 sqrt(P) rounding units of the sum of their sizes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import linalg
from ..covariance import Family
from ..parameters import Parameters
from .features import Features, Products, features_of
from .layouts import Columns, Layout

__all__ = ["Screen", "Turned", "turned"]

# what one axis says about two components counts no further than this: it tells them apart
_ENOUGH = 40.0
_MOST_COMPARED = 128


@dataclass(frozen=True)
class Turned:
    """A mixture in coordinates `y = (x - centre) @ axes`; everything in float64.

    Attributes:
        parameters: of the rows y; matrix families are full here.
        centre: `(D,)`.
        axes: `(D, D)`, or None where y is x - centre.
    """

    parameters: Parameters
    centre: Tensor
    axes: Tensor | None
    log_det: float = 0.0  # of the axes: what log N(y) lacks of log N(x)
    trace: float = 0.0  # the mean of |x - centre|^2


def turned(parameters: Parameters, dtype: torch.dtype) -> Turned:
    """The mixture in its own principal axes, of unit variance, the most telling ones first."""
    exact = parameters.to(torch.float64).unstructured()
    weights = exact.log_weights.exp()
    centre = (weights.unsqueeze(-1) * exact.means).sum(-2).to(dtype).double()
    offset = exact.means - centre
    if exact.family.n_axes == 1:
        return Turned(Parameters(exact.logits, offset, exact.scale, exact.family), centre, None)
    factor = exact.family.factor(exact.scale)
    within = torch.einsum("k,kij,klj->il", weights, factor, factor)
    between = torch.einsum("k,ki,kj->ij", weights, offset, offset)
    values, vectors = torch.linalg.eigh(linalg.symmetric(within + between))
    least = values[-1] * torch.finfo(torch.float64).eps * len(values)
    values = values.clamp_min(least)
    axes = vectors / values.sqrt()
    means = offset @ axes
    spread = (axes.mT @ factor).square().sum(-1)  # (K, D) variances along the axes
    order = _telling(weights, means, spread).argsort(descending=True)
    axes, means = axes[:, order], means[:, order]
    # the triangular factor of A^T L L^T A, without squaring its condition
    upper = torch.linalg.qr((axes.mT @ factor).mT).R
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper)
    scale = linalg.to_log_cholesky((upper * sign.unsqueeze(-1)).mT)
    parameters = Parameters(exact.logits, means, scale, exact.family)
    log_det = -0.5 * float(values.log().sum())
    return Turned(parameters, centre, axes, log_det, float(values.sum()))


def _telling(weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """How far two components are apart along each axis, on average `(D,)`: Kullback-Leibler."""
    top = weights.topk(min(len(weights), _MOST_COMPARED)).indices
    w, m, v = weights[top], means[top], variances[top]
    ratio = v.unsqueeze(1) / v
    distance = (m.unsqueeze(1) - m).square() / v
    nats = 0.5 * (ratio + distance - 1 - ratio.log())
    return torch.einsum("k,l,kld->d", w, w, nats.clamp_max(_ENOUGH))


class Screen:
    """Upper bounds from the first `p` coordinates, in the dtype of the rows.

    Args:
        mixture: from `turned`.
        p: how many coordinates; all for families along the axes.
        dtype: of the rows.
    """

    def __init__(self, mixture: Turned, p: int, dtype: torch.dtype) -> None:
        self.p = p
        reduced = _leading(mixture.parameters, p)
        self._features: Features = features_of(reduced, torch.zeros_like(reduced.means[0]))
        self._axes = None if mixture.axes is None else mixture.axes[:, :p]
        missing = mixture.parameters.family.half_log_det(
            mixture.parameters.scale, mixture.parameters.n_features
        ) - reduced.family.half_log_det(reduced.scale, p)
        theta = self._features.coefficients()
        rest = mixture.parameters.n_features - p
        theta[:, -1] += mixture.log_det - missing - 0.5 * rest * math.log(2 * math.pi)
        unit = torch.finfo(dtype).eps / 2
        theta = _raised(theta, self._features, self._axes, mixture.trace, unit)
        self._theta = theta.to(dtype)  # (K, P), or (K, P + 1) where rows were turned
        # components so tight that their coefficients overflow cannot be bounded
        limit = torch.finfo(dtype).max ** 0.5
        self.usable = bool((theta.nan_to_num(nan=math.inf, neginf=0).abs() < limit).all())
        self._centre = mixture.centre.to(dtype)
        if self._axes is not None:
            self._axes = self._axes.to(dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """`(K, D)`."""
        return len(self._theta), len(self._centre)

    @property
    def size(self) -> int:
        """P, the length of a product."""
        return self._theta.shape[-1]

    def layout(self, rows: int, like: Tensor) -> Layout:
        """Buffers for `bounds` of at most `rows` rows."""
        if self._axes is None:
            return self._features.layout(rows, like)
        return Columns((), self.p, self._features.n_second, rows, like, extra=True)

    def bounds(self, x: Tensor, layout: Any, out: Tensor) -> Tensor:
        """Upper bounds `(K, n)` into `out`, for rows `x (n, D)`."""
        room = layout.room(x)
        if self._axes is None:
            torch.sub(x, self._centre, out=room)
            layout.square()
        else:
            y = x - self._centre
            torch.mm(self._axes.mT, y.mT, out=room)
            layout.multiply()
            torch.sum(y.square_(), -1, out=layout.phi[-1])
        return layout.joint(self._theta, out)  # type: ignore[no-any-return]


def _leading(parameters: Parameters, p: int) -> Parameters:
    """The first p coordinates: for lower-triangular factors these are the leading blocks."""
    family: Family = parameters.family
    scale = parameters.scale[..., :p, :p] if family.n_axes == 2 else parameters.scale
    return Parameters(parameters.logits, parameters.means[..., :p], scale, family)


def _raised(
    theta: Tensor, features: Features, axes: Tensor | None, trace: float, unit: float
) -> Tensor:
    """Coefficients that bound the log-density in spite of rounding, one more with `axes`.

    The last feature with `axes` is |x - c|^2: turning a row is off by a multiple of its length.
    """
    s, d = features.n_second, features.d
    gamma = (3 + 4 * features.size**0.5) * unit
    squares, linear = theta[:, :s], theta[:, s:-1]
    offset = features.offset
    # the constant is a difference of sums of this size
    constant = theta[:, -1].abs() + (linear * offset).sum(-1).abs()
    constant = torch.where(constant.isinf(), 0, constant)  # a component of weight 0 keeps -inf
    raised = theta.clone()
    if axes is None:
        # |theta_j y_j| <= P_j y_j^2 / 2 + theta_j^2 / (2 P_j), all of them squares at hand
        precision = -2 * squares
        raised[:, :s] += gamma * precision
        raised[:, -1] += gamma * (constant + 0.5 * (linear * offset).sum(-1))
        return raised
    matrix = _dense(features, squares).abs()
    largest = matrix.sum(-1).amax(-1)  # bounds |y|^T |Theta| |y| / |y|^2
    length = axes.norm(dim=0)  # of what a coordinate of y is made of, per unit of |x - c|
    turning = (3 + 4 * len(axes) ** 0.5) * unit
    stretched = matrix * length
    mixed = 2 * turning * (stretched.sum(-1).amax(-1) * stretched.sum(-2).amax(-1)).sqrt()
    flat = gamma * linear.norm(dim=-1)
    sloped = turning * (linear.abs() * length).norm(dim=-1)
    # |a b| <= (t a^2 + b^2 / t) / 2 with a t that makes both terms alike on usual rows
    y_size, x_size = d**0.5, max(trace, torch.finfo(torch.float64).tiny) ** 0.5
    on_diagonal = gamma * largest + mixed * x_size / y_size / 2 + flat / y_size / 2
    raised[:, _diagonal_places(d, theta.device)] += on_diagonal.unsqueeze(-1)
    raised[:, -1] += gamma * constant + flat * y_size / 2 + sloped * x_size / 2
    rest = mixed * y_size / x_size / 2 + sloped / x_size / 2
    return torch.cat([raised, rest.unsqueeze(-1)], -1)


def _dense(features: Features, squares: Tensor) -> Tensor:
    assert isinstance(features, Products)
    full = features.second(squares)
    off = ~torch.eye(features.d, dtype=torch.bool, device=full.device)
    return torch.where(off, full / 2, full)


def _diagonal_places(d: int, device: torch.device) -> Tensor:
    """Where `y_i^2` stands among the products `y_i y_j, i <= j`."""
    i = torch.arange(d, device=device)
    return i * d - i * (i - 1) // 2
