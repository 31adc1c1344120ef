"""Where gradients walk: unitless coordinates of a mixture that never go below the floor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..moments import Moments
from ..parameters import Parameters

__all__ = ["located", "moments_above_floor", "placed", "tempered"]

# A variance that is nothing but the floor starts at so small a share of it above the floor.
_LEAST = 1e-7


def placed(parameters: Parameters, floor: float) -> tuple[Parameters, Parameters]:
    """A mixture as a frame and a point in it, at first the origin.

    `log pi = log pi_0 + a`, `mu = mu_0 + L_0 m` and `Sigma = (L_0 l)(L_0 l)^T + floor I`, with l
    in unconstrained form: the frame `(log pi_0, mu_0, L_0)` stays; the point `(a, m, l)` is what an
    optimiser moves. So a step means as much in every direction and for data of any unit.
    """
    p = parameters
    frame = Parameters(p.log_weights, p.means, _above_floor(p, floor), p.family)
    return frame, frame.map(torch.zeros_like)


def located(
    frame: Parameters, point: Parameters, floor: float, *, even: bool = False
) -> Parameters | None:
    """The mixture at a point, differentiable by the point; None if it is not finite.

    Args:
        frame: from `placed`.
        point: the coordinates.
        floor: that no covariance goes below.
        even: divide the coordinates of each component by `sqrt(K pi_k)`. Their Fisher information
            at the frame is then nearly a multiple of the identity, which is what a second-order
            method would like to start from.
    """
    family = frame.family
    if even:
        weights = frame.logits.exp()
        each, shared = _stretch(weights), _stretch(family.pool(weights, 0))
        scale = shared.reshape(-1, *[1] * family.n_axes) * point.scale
        means = each.unsqueeze(-1) * point.means
        point = Parameters(each * point.logits, means, scale, family)
    means = frame.means + family.colour(point.means, family.factor(frame.scale))
    scale = family.walked(frame.scale, point.scale)
    if floor > 0 and bool(torch.isfinite(scale.sum())):  # eigenvalues of no number are an error
        scale = family.raised(scale, 0.0, floor)
    found = Parameters(frame.logits + point.logits, means, scale, family)
    return found if found.map(Tensor.detach).is_finite() else None


def _stretch(weights: Tensor) -> Tensor:
    """Units of the coordinates of each component; bounded, for those that have no rows."""
    return (weights * weights.shape[-1]).clamp_min(0.01).rsqrt()


def moments_above_floor(parameters: Parameters, seen: Tensor, floor: float) -> Moments:
    """What components have seen, `(K,)`, as rows spread as they are without the floor."""
    p, family = parameters, parameters.family
    second = family.unit_second(seen, p.n_features)
    second = family.colour_second(second, family.factor(_above_floor(p, floor)))
    total = seen.sum()
    nothing = torch.zeros_like(total)
    return Moments(seen, torch.zeros_like(p.means), second, nothing, total, p.means)


def _above_floor(parameters: Parameters, floor: float) -> Tensor:
    """`scale` of what the covariances have above the floor."""
    if floor == 0:
        return parameters.scale
    return parameters.family.raised(parameters.scale, (1 + _LEAST) * floor, _LEAST * floor)


def tempered(parameters: Parameters, beta: float) -> tuple[Parameters, Tensor]:
    """The mixture whose responsibilities are those of `(pi_k N_k) ** beta`, normalised.

    `N(x; mu, Sigma) ** beta` is `N(x; mu, Sigma / beta)` up to a constant of the component, which
    goes to its weight.

    Returns:
        The mixture, and `c` so that `log sum_k (pi_k N_k) ** beta` is its log-density plus `c`.
    """
    p, d = parameters, parameters.n_features
    family = p.family
    logits = beta * p.log_weights + (1 - beta) * family.half_log_det(p.scale, d)
    scale = family.unconstrained(family.factor(p.scale) / math.sqrt(beta))
    constant = 0.5 * d * ((1 - beta) * math.log(2 * math.pi) - math.log(beta))
    return Parameters(logits, p.means, scale, family), logits.logsumexp(-1) + constant
