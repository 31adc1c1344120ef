"""Two mixtures multiplied, and what follows: overlap, L2 distance, Cauchy-Schwarz divergence."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..covariance import Family
from ..mixture import GaussianMixture
from ..parameters import Parameters
from .common import Mixture, kind, lower_factor, made_of, pieces, together, variances

__all__ = ["Product", "cauchy_schwarz_divergence", "l2_distance", "log_overlap", "product"]

# bytes of the (k, K, D, D) matrices of one chunk of pairs
_BUDGET = 64 * 2**20


class Product(NamedTuple):
    """A product of densities, made a density, and what it had to be divided by."""

    mixture: Mixture
    log_normaliser: Tensor  # (*B,), nats


def product(p: Mixture, q: Mixture) -> Product:
    """`p(x) q(x)` as a mixture of `K_p * K_q` components, and `log of its integral`.

    Component `i * K_q + j` comes from i of p and j of q: its precision is the sum of theirs, and
    its weight is in proportion to `pi_i rho_j N(mu_i; nu_j, Sigma_i + S_j)`. Its family is the
    simplest that holds it: that of both where they agree, otherwise the richer one, tied only
    where both are. Memory is `K_p * K_q` covariances: `merge` makes fewer of them.

    Args:
        p: a `GaussianMixture`, or `Parameters`, through which gradients flow.
        q: about the same features; batch axes are broadcast.

    Returns:
        The mixture, `Parameters` only where both are, in the wider of their dtypes, and the
        log of the integral, `(*B,)`, in nats, with gradients in both.

    Raises:
        InputError: different features, devices, or batch axes that do not fit.

    Example:
        >>> import torchgmm as tg
        >>> one = tg.GaussianMixture.from_covariances([1.0], [[0.0]], [1.0], "spherical")
        >>> both, log_normaliser = tg.product(one, one)
        >>> both.covariances.detach(), round(log_normaliser.item(), 4)  # log N(0; 0, 2)
        (tensor([0.5000]), -1.2655)
    """
    one, other = together(p, q)
    tied = one.family.tied and other.family.tied
    family = made_of(max(kind(one.family), kind(other.family)), tied=tied)
    joint = _log_overlaps(one, other)
    multiply = _multiplied_matrices if family.n_axes == 2 else _multiplied_axes
    means, factor = multiply(one, other, family)
    heads = family.heads(joint.shape[-2] * joint.shape[-1])
    if not tied:  # a tied one beside one that is not has a factor too few
        factor = factor.expand(*joint.shape, *factor.shape[-family.n_axes :])
    factor = factor.reshape(*one.batch_shape, heads, *factor.shape[-family.n_axes :])
    flat = joint.flatten(-2)
    found = Parameters(flat, means.flatten(-3, -2), family.unconstrained(factor), family)
    dtype = torch.promote_types(_dtype(p), _dtype(q))
    log_normaliser = flat.logsumexp(-1)
    found = Parameters(flat - log_normaliser.unsqueeze(-1), found.means, found.scale, family)
    mixture: Mixture = found.to(dtype)
    if isinstance(p, GaussianMixture) or isinstance(q, GaussianMixture):
        mixture = GaussianMixture.from_parameters(found, dtype=dtype)
    return Product(mixture, log_normaliser.to(dtype))


def log_overlap(p: Mixture, q: Mixture) -> Tensor:
    """`log of the integral of p(x) q(x)`, `(*B,)`, in nats, in closed form; gradients flow."""
    one, other = together(p, q)
    return _log_overlap(one, other).to(torch.promote_types(_dtype(p), _dtype(q)))


def l2_distance(p: Mixture, q: Mixture, *, log: bool = False) -> Tensor:
    """`sqrt(integral of (p(x) - q(x))^2)`, `(*B,)`, in closed form; gradients flow.

    It has the unit of the root of a density, and densities of many features leave the range of
    floats: `log=True` gives its logarithm, and `cauchy_schwarz_divergence` has no unit. Where the
    mixtures are equal to rounding, the distance is a sum of numbers that cancel: about the root
    of their eps, or zero, with a gradient of zero.

    Args:
        p: a `GaussianMixture` or `Parameters`.
        q: about the same features; batch axes are broadcast.
        log: the natural logarithm of the distance instead.

    Raises:
        InputError: different features, devices, or batch axes that do not fit.

    Example:
        >>> import torchgmm as tg
        >>> one = tg.GaussianMixture.from_covariances([1.0], [[0.0]], [1.0], "spherical")
        >>> far = tg.GaussianMixture.from_covariances([1.0], [[90.0]], [1.0], "spherical")
        >>> round(tg.l2_distance(one, far).item(), 4)  # sqrt(2 N(0; 0, 2))
        0.7511
    """
    one, other = together(p, q)
    own, others, both = (_log_overlap(a, b) for a, b in ((one, one), (other, other), (one, other)))
    top = torch.maximum(own, others).detach()
    square = (own - top).exp() + (others - top).exp() - 2 * (both - top).exp()
    apart = square > 0
    root = torch.where(apart, torch.where(apart, square, 1).log() / 2, -math.inf) + top / 2
    return (root if log else root.exp()).to(torch.promote_types(_dtype(p), _dtype(q)))


def cauchy_schwarz_divergence(p: Mixture, q: Mixture) -> Tensor:
    """`-log( int pq / sqrt(int p^2 int q^2) )`, `(*B,)`, in nats, in closed form; gradients flow.

    At least 0, 0 for equal mixtures alone, the same for (q, p), and unchanged by an invertible
    affine map of both. Source: Jenssen et al. 2006; Kampa, Hasanbelliu & Principe 2011.

    Args:
        p: a `GaussianMixture` or `Parameters`.
        q: about the same features; batch axes are broadcast.

    Raises:
        InputError: different features, devices, or batch axes that do not fit.

    Example:
        >>> import torchgmm as tg
        >>> one = tg.GaussianMixture.from_covariances([1.0], [[0.0]], [1.0], "spherical")
        >>> far = tg.GaussianMixture.from_covariances([1.0], [[4.0]], [1.0], "spherical")
        >>> round(tg.cauchy_schwarz_divergence(one, far).item(), 4)  # 4^2 / (2 * 2)
        4.0
    """
    one, other = together(p, q)
    own, others, both = (_log_overlap(a, b) for a, b in ((one, one), (other, other), (one, other)))
    divergence = (own + others) / 2 - both
    return divergence.to(torch.promote_types(_dtype(p), _dtype(q)))


# inside -----------------------------------------------------------------------------------------


def _dtype(mixture: Mixture) -> torch.dtype:
    return mixture.dtype if isinstance(mixture, GaussianMixture) else mixture.means.dtype


def _log_overlap(p: Parameters, q: Parameters) -> Tensor:
    return _log_overlaps(p, q).flatten(-2).logsumexp(-1)


def _log_overlaps(p: Parameters, q: Parameters) -> Tensor:
    """`log (pi_i rho_j N(mu_i; nu_j, Sigma_i + S_j))`, `(*B, K_p, K_q)`, in nats."""
    matrix = max(p.family.n_axes, q.family.n_axes) == 2
    one, other = (_matrices(m) if matrix else variances(m).sqrt() for m in (p, q))
    of_pairs, n_axes = (_of_matrices, 2) if matrix else (_of_axes, 1)
    if one.shape[-1 - n_axes] == other.shape[-1 - n_axes] == 1:
        joint = of_pairs(p.means, q.means, one, other)
    else:  # a few components of p at a time
        each = one.expand(*p.means.shape, *[p.n_features] * (n_axes - 1))
        size = max(1, _BUDGET // (32 * math.prod(q.means.shape) * p.n_features ** (n_axes - 1)))
        parts = zip(pieces(p.means, size, -2), pieces(each, size, -1 - n_axes), strict=True)
        joint = torch.cat([of_pairs(mu, q.means, some, other) for mu, some in parts], -2)
    joint = joint - p.n_features / 2 * math.log(2 * math.pi)
    return joint + p.log_weights.unsqueeze(-1) + q.log_weights.unsqueeze(-2)


def _of_axes(mu: Tensor, nu: Tensor, one: Tensor, other: Tensor) -> Tensor:
    # standard deviations (*B, H, D), H = 1 or K
    variance = one.square().unsqueeze(-2) + other.square().unsqueeze(-3)
    apart = mu.unsqueeze(-2) - nu.unsqueeze(-3)  # (*B, K_p, K_q, D)
    return -((apart * apart / variance).sum(-1) + variance.log().sum(-1)) / 2


def _of_matrices(mu: Tensor, nu: Tensor, one: Tensor, other: Tensor) -> Tensor:
    # factors (*B, H, D, D), H = 1 or K
    h, g, d = one.shape[-3], other.shape[-3], one.shape[-1]
    batch = one.shape[:-3]
    both = (
        one.unsqueeze(-3).expand(*batch, h, g, d, d),
        other.unsqueeze(-4).expand(*batch, h, g, d, d),
    )
    factor = lower_factor(torch.cat(both, -1))  # (*B, h, g, D, D)  of Sigma_i + S_j
    apart = (mu.unsqueeze(-2) - nu.unsqueeze(-3)).unsqueeze(-1)  # (*B, K_p, K_q, D, 1)
    inverse_times = torch.linalg.solve_triangular(factor, apart, upper=False)
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    square: Tensor = inverse_times.square().sum((-2, -1))
    return -square / 2 - half_log_det


def _matrices(p: Parameters) -> Tensor:
    """Cholesky factors `(*B, H, D, D)`: one where tied."""
    heads = p.family.heads(p.n_components)
    return p.family.dense_tril(p.scale, heads, p.n_features)


def _multiplied_axes(p: Parameters, q: Parameters, family: Family) -> tuple[Tensor, Tensor]:
    one, other = variances(p).unsqueeze(-2), variances(q).unsqueeze(-3)
    share = one / (one + other)  # of the way from mu to nu
    mu, nu = p.means.unsqueeze(-2), q.means.unsqueeze(-3)
    means = mu + share * (nu - mu)
    width = family.factor_shape(p.n_features)[0]
    return means, (share * other)[..., :width].sqrt()


def _multiplied_matrices(p: Parameters, q: Parameters, family: Family) -> tuple[Tensor, Tensor]:
    d = p.n_features
    one, other = (_inverses(m) for m in (p, q))
    h, g, batch = one.shape[-3], other.shape[-3], one.shape[:-3]
    stacked = torch.cat(
        [
            one.unsqueeze(-3).expand(*batch, h, g, d, d),
            other.unsqueeze(-4).expand(*batch, h, g, d, d),
        ],
        -2,
    )
    # The sum of the precisions is stacked^T stacked. Its factor from the last feature to the first
    # has an inverse that is the factor of the covariance from the first to the last.
    backward = lower_factor(stacked.mT.flip(-2))
    eye = torch.eye(d, dtype=one.dtype, device=one.device).expand_as(backward)
    factor = torch.linalg.solve_triangular(backward, eye, upper=False).mT.flip(-2, -1)
    apart = (q.means.unsqueeze(-3) - p.means.unsqueeze(-2)).unsqueeze(-1)  # (*B, K_p, K_q, D, 1)
    pull = other.unsqueeze(-4)
    move = factor @ (factor.mT @ (pull.mT @ (pull @ apart)))
    return p.means.unsqueeze(-2) + move.squeeze(-1), factor


def _inverses(p: Parameters) -> Tensor:
    factor = _matrices(p)
    eye = torch.eye(p.n_features, dtype=factor.dtype, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    return inverse
