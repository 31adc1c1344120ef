"""Some features of a mixture: alone, given the others, and predicted from the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..kernels import joint_log_prob
from ..mixture import GaussianMixture
from ..mixture.tensors import as_tensor
from ..parameters import Parameters
from .chunks import by_chunk
from .common import M, Mixture, exact, feature_list, lower_factor, variances
from .common import answer as as_given

__all__ = ["Regression", "condition", "marginal", "regress"]

# bytes of one (rows, K, features) buffer of a regression
_BUDGET = 8 * 2**20


def marginal(mixture: M, features: Any) -> M:
    """The mixture of some of the features, the others integrated out.

    Every family stays what it is; but features of common axes have none, and become full.

    Args:
        mixture: a `GaussianMixture`, or `Parameters`, through which gradients flow.
        features: a number, numbers in any order, a slice, or a mask of D booleans.

    Raises:
        InputError: features that are not there, none at all, or one twice.

    Example:
        >>> import torchgmm as tg
        >>> mixture = tg.GaussianMixture.from_covariances(
        ...     [0.3, 0.7], [[0.0, 1.0], [5.0, 2.0]], [[1.0, 4.0], [1.0, 9.0]], "diagonal")
        >>> tg.marginal(mixture, [1]).covariances.round(decimals=4).tolist()
        [[4.0], [9.0]]
    """
    p = exact(mixture)
    return as_given(_marginal(p, feature_list(features, p.n_features)), mixture)


def condition(mixture: M, observed: Any, values: Any) -> M:
    """The mixture of the features that are left, given the values of the observed ones.

    Of every component remains `N(mu_h + S_ho S_oo^-1 (v - mu_o), S_hh - S_ho S_oo^-1 S_oh)`, with
    its weight times the density it gives to the values. Families stay what they are, as in
    `marginal`. The left features keep their order.

    Args:
        mixture: a `GaussianMixture`, or `Parameters`, through which gradients flow.
        observed: which features are known, as `marginal` takes them; not all of them.
        values: of those features in that order: `(O,)` gives one mixture (of the batch axes that
            `mixture` has), `(N, O)` or `(*B, N, O)` a batch `(*B, N)` of them, one per row.

    Returns:
        The covariances do not depend on the values: in `Parameters` all rows share the memory of
        one `scale`, while a `GaussianMixture` holds a copy per row. For many rows take
        `mixture.as_parameters()`, or `regress`, whose memory is bounded.

    Raises:
        InputError: features or values that cannot be used.

    Example:
        >>> import torchgmm as tg
        >>> mixture = tg.GaussianMixture.from_covariances(
        ...     [1.0], [[0.0, 0.0]], [[[1.0, 0.8], [0.8, 1.0]]])
        >>> given = tg.condition(mixture, [0], [2.0])
        >>> given.means.detach().round(decimals=4), given.covariances.detach().round(decimals=4)
        (tensor([[1.6000]]), tensor([[[0.3600]]]))
    """
    p = exact(mixture)
    split = _split(p, feature_list(observed, p.n_features))
    x = _checked_values(values, split, p)
    rows = x.unsqueeze(-2) if x.dim() == 1 else x
    joint, means = _given(rows, split)
    joint = joint.log_softmax(-1)  # in float64: float32 could not tell large ones apart
    if x.dim() == 1:
        return as_given(
            Parameters(joint.squeeze(-2), means.squeeze(-3), split.scale, p.family), mixture
        )
    scale = _shared(split.scale, len(p.batch_shape), joint.shape[-2])
    return as_given(Parameters(joint, means, scale, p.family), mixture)


class Regression(NamedTuple):
    """What the observed features say about the left ones, `(*B, N, D - O)` each."""

    mean: Tensor
    variance: Tensor


def regress(mixture: Mixture, observed: Any, values: Any) -> Regression:
    """Gaussian mixture regression: mean and variance of the left features for every row.

    Those of `condition(mixture, observed, values)`, without ever holding it: memory is that of a
    chunk of rows and of the answer, also in the backward pass, which computes every chunk again
    (and can be differentiated again only where a single chunk holds all rows: a few thousand).

    Source: Ghahramani & Jordan, NIPS 1993; Sung, Gaussian mixture regression (2004).

    Args:
        mixture: a `GaussianMixture` or `Parameters`; gradients flow through both.
        observed: which features are known, as `marginal` takes them; not all of them.
        values: rows of those features, `(N, O)` or `(*B, N, O)`; gradients flow.

    Raises:
        InputError: features or values that cannot be used.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.linspace(0, 1, 200).unsqueeze(-1)
        >>> mixture = tg.GaussianMixture(1)
        >>> result = mixture.fit(torch.cat([x, 3 * x], -1))
        >>> tg.regress(mixture, [0], torch.tensor([[0.5]])).mean.detach().round(decimals=3)
        tensor([[1.5000]])
    """
    p = exact(mixture)
    split = _split(p, feature_list(observed, p.n_features))
    x = _checked_values(values, split, p)
    checks.check_rows(tuple(x.shape), None, len(p.batch_shape))
    own = mixture.dtype if isinstance(mixture, GaussianMixture) else mixture.means.dtype
    dtype = checks.compute_dtype(x.dtype, own)
    wide = max(split.seen.n_features, split.means.shape[-1]) * p.logits.numel()
    size = max(16, min(65_536, _BUDGET // (8 * wide)))
    seen = split.seen
    given = [seen.logits, seen.means, seen.scale, split.means, split.variances]
    if split.gain is not None:
        given.append(split.gain)

    def of_rows(rows: Tensor, *own: Tensor) -> Tensor:
        logits, means, scale, left, spread, *gain = own
        now = replace(
            split,
            seen=Parameters(logits, means, scale, p.family),
            means=left,
            gain=gain[0] if gain else None,
        )
        return torch.cat(_mean_and_variance(*_given(rows, now), spread), -1).to(dtype)

    found = by_chunk(of_rows, size, _BUDGET, x.to(p.means.device), *given)
    mean, variance = found.chunk(2, -1)
    return Regression(mean, variance)


# inside -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Split:
    """A mixture cut in two: the observed features alone, and what they say about the left ones."""

    seen: Parameters
    means: Tensor  # (*B, K, h)
    gain: Tensor | None  # (*B, H, h, o)  S_ho S_oo^-1; None where features are independent
    scale: Tensor  # (*B, H, ...)   of the left features given the observed ones
    variances: Tensor  # (*B, H, h)


def _marginal(p: Parameters, chosen: list[int]) -> Parameters:
    factor = p.family.factor(p.scale)
    if p.family.n_axes == 2:
        part = lower_factor(factor[..., chosen, :])
    else:
        part = factor.expand(*factor.shape[:-1], p.n_features)[..., chosen]
        part = part[..., : p.family.factor_shape(len(chosen))[0]]
    return Parameters(p.logits, p.means[..., chosen], p.family.unconstrained(part), p.family)


def _split(p: Parameters, observed: list[int]) -> _Split:
    left = [i for i in range(p.n_features) if i not in observed]
    if not left:
        raise InputError(f"all {p.n_features} features are observed: nothing is left to be said")
    if p.family.n_axes == 1:
        rest = _marginal(p, left)
        return _Split(_marginal(p, observed), rest.means, None, rest.scale, variances(rest))
    # the observed ones first: the factor of that order has all the parts, and no inverse of S_oo
    factor = lower_factor(p.family.factor(p.scale)[..., observed + left, :])
    o = len(observed)
    first, across, last = factor[..., :o, :o], factor[..., o:, :o], factor[..., o:, o:]
    gain = torch.linalg.solve_triangular(first, across, upper=False, left=False)
    seen = Parameters(p.logits, p.means[..., observed], p.family.unconstrained(first), p.family)
    scale = p.family.unconstrained(last)
    return _Split(seen, p.means[..., left], gain, scale, (last * last).sum(-1))


def _given(x: Tensor, split: _Split) -> tuple[Tensor, Tensor]:
    """Log-weights `(*B, n, K)`, not normalised, and means `(*B, n, K, h)`, in float64."""
    x = x.to(device=split.means.device, dtype=torch.float64)
    joint = joint_log_prob(x, split.seen)
    means = split.means.unsqueeze(-2)  # (*B, K, 1, h)
    if split.gain is not None:
        d = x.unsqueeze(-3) - split.seen.means.unsqueeze(-2)  # (*B, K, n, o)
        means = means + d @ split.gain.mT
    means = means.expand(*joint.mT.shape, means.shape[-1])
    return joint, means.transpose(-2, -3)


def _shared(scale: Tensor, axis: int, n_rows: int) -> Tensor:
    """The same memory for every row."""
    return scale.unsqueeze(axis).expand(*scale.shape[:axis], n_rows, *scale.shape[axis:])


def _mean_and_variance(joint: Tensor, means: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    r = joint.softmax(-1).unsqueeze(-1)  # (*B, n, K, 1)
    mean = (r * means).sum(-2)
    apart = means - mean.unsqueeze(-2)
    return mean, (r * (own.unsqueeze(-3) + apart * apart)).sum(-2)


def _checked_values(values: Any, split: _Split, p: Parameters) -> Tensor:
    x = as_tensor(values)
    n = split.seen.n_features
    if x.dim() == 0 or x.shape[-1] != n:
        raise InputError(
            f"values must have one column for each of the {n} observed features, "
            f"got shape {tuple(x.shape)}"
        )
    if x.dim() > 1:
        checks.check_rows(tuple(x.shape), n, len(p.batch_shape))
    if x.device != p.means.device and x.device.type != "cpu":
        raise InputError(f"values are on {x.device}, the mixture on {p.means.device}: move one")
    dtype = checks.compute_dtype(x.dtype, torch.float64)
    checks.check_finite(x.unsqueeze(0) if x.dim() == 1 else x, dtype, what="values")
    return x
