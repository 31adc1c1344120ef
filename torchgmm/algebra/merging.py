"""Fewer components by moment matching: which to merge, greedily, and what they become."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from ..covariance import Family, as_family
from ..errors import InputError
from ..moments import Moments
from ..parameters import Parameters
from .common import M, answer, exact, kind, made_of, variances

__all__ = ["merge"]

_TINY = torch.finfo(torch.float64).tiny


def merge(mixture: M, n_components: int, *, covariance: str | Family = "full") -> M:
    """The mixture with components merged, two by two, until `n_components` are left.

    A merged component has the weight, mean and covariance of those it stands for together, so the
    mean and covariance of the whole mixture stay what they were. The pair to merge is that of the
    least

        B(i, j) = 1/2 ((w_i + w_j) log|P_ij| - w_i log|P_i| - w_j log|P_j|),

    an upper bound, in nats, on the Kullback-Leibler divergence from the mixture before to the one
    after (Runnalls, IEEE Trans. AES 43, 2007). It takes K^2 factorisations, and memory of K.

    Args:
        mixture: a `GaussianMixture`, or `Parameters`. Through these gradients flow, with the
            choice of pairs held fixed.
        n_components: 1 to K. The components keep the order of the first of those they stand for.
        covariance: the family of the answer. Merging leaves every family but "full"; another one
            keeps of every merged covariance what it can hold, which is then its best
            approximation in that family, and only that much of the whole covariance stays.

    Raises:
        InputError: `n_components` out of range, covariances that rounding cannot tell from
            singular ones.

    Example:
        >>> import torchgmm as tg
        >>> mixture = tg.GaussianMixture.from_covariances(
        ...     [0.25, 0.25, 0.5], [[-1.0], [1.0], [9.0]], [1.0, 1.0, 1.0], "spherical")
        >>> fewer = tg.merge(mixture, 2)
        >>> fewer.means.flatten().tolist(), fewer.covariances.flatten().round(decimals=4).tolist()
        ([0.0, 9.0], [2.0, 1.0])
    """
    p, family = exact(mixture), as_family(covariance)
    wanted = checks.check_count("n_components", n_components)
    module = isinstance(mixture, torch.nn.Module)
    if family.coupled and p.scale.requires_grad and not module:
        raise InputError(
            f"gradients do not flow through the search for {family.name} covariances: detach the "
            "mixture, or merge into another family"
        )
    if wanted > p.n_components:
        raise InputError(
            f"n_components={wanted} is more than the {p.n_components} that there are: "
            "merging makes fewer"
        )
    flat = p.flat()
    held = made_of(kind(family), tied=False)  # tied ones are pooled at the end
    with torch.no_grad():
        labels = _Greedy(flat, held).labels(wanted)
    weights, means, second = _pooled(flat, labels, wanted, held)
    if family.tied:
        share = weights.reshape(*weights.shape, *[1] * family.n_axes)
        second = (share * second).sum(-1 - family.n_axes, keepdim=True)
    scale = _scale(weights, means, second, family)
    found = Parameters(weights.log(), means, scale, family)
    return answer(found.map(lambda t: t.reshape(*p.batch_shape, *t.shape[1:])), mixture)


def _scale(weights: Tensor, means: Tensor, second: Tensor, family: Family) -> Tensor:
    factor = _factor(second, family)
    if not family.coupled:
        return family.unconstrained(factor)
    w = weights.clamp_min(_TINY**0.5)  # a covariance of weight 0 must not be 0 / 0
    nothing = w.new_zeros(w.shape[:-1])
    sums = w.reshape(*w.shape, *[1] * family.n_axes) * second
    seen = Moments(w, torch.zeros_like(means), sums, nothing, nothing, means)
    return family.estimate(seen, 0.0)[0]


class _Greedy:
    """Merges the cheapest pair again and again, in all mixtures `(M, K)` of a batch at once."""

    def __init__(self, p: Parameters, family: Family) -> None:
        self._family, self._d = family, p.n_features
        self._weight = p.log_weights.exp()  # (M, K)
        self._means = p.means.clone()  # (M, K, D)
        self._second = _covariances(p, family).clone()  # (M, K, ...)
        self._log_det = _log_det(self._second, family, self._d)
        self._each = torch.arange(len(self._means), device=p.means.device)

    def labels(self, wanted: int) -> Tensor:
        """For every component the number of the one it becomes part of, `(M, K)`."""
        m, k = self._weight.shape
        place = torch.arange(k, device=self._each.device).expand(m, k).clone()
        cost = torch.stack(
            [self._cost(torch.full_like(self._each, i)) for i in range(k)], 1
        )  # (M, K, K)
        cost.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
        for _ in range(k - wanted):
            cheapest = cost.flatten(1).argmin(-1)
            one, other = cheapest // k, cheapest % k
            i, j = torch.minimum(one, other), torch.maximum(one, other)
            self._join(i, j)
            place = torch.where(place == j.unsqueeze(-1), i.unsqueeze(-1), place)
            cost[self._each, j], cost[self._each, :, j] = math.inf, math.inf
            gone = torch.isinf(cost[self._each, i])
            own = self._cost(i).masked_fill(gone, math.inf)
            own[self._each, i] = math.inf
            cost[self._each, i], cost[self._each, :, i] = own, own
        # from the numbers of those that stay to 0 ... wanted - 1
        stays = torch.zeros_like(place, dtype=torch.bool).scatter_(-1, place, True)
        return (stays.cumsum(-1) - 1).gather(-1, place)

    def _union(self, i: Tensor, second: slice | Tensor) -> tuple[Tensor, ...]:
        """Weight, share of i, mean and covariance of `i (M,)` with some components, `(M, K')`."""
        at = (self._each, i)
        w, mu, own = (t[at].unsqueeze(1) for t in (self._weight, self._means, self._second))
        some = (self._each, second) if isinstance(second, Tensor) else (slice(None), second)
        w2, mu2, own2 = (t[some] for t in (self._weight, self._means, self._second))
        if isinstance(second, Tensor):
            w2, mu2, own2 = w2.unsqueeze(1), mu2.unsqueeze(1), own2.unsqueeze(1)
        weight = w + w2
        a = w / weight.clamp_min(_TINY)
        d = mu2 - mu
        wide = a.reshape(*a.shape, *[1] * self._family.n_axes)
        spread = _outer(d, self._family)
        covariance = wide * own + (1 - wide) * own2 + wide * (1 - wide) * spread
        return weight, mu + (1 - a).unsqueeze(-1) * d, covariance

    def _cost(self, i: Tensor) -> Tensor:
        """`B(i, j)` for one i per mixture and all j, `(M, K)`."""
        weight, _, covariance = self._union(i, slice(None))
        joined = weight * _log_det(covariance, self._family, self._d)
        own = (self._weight * self._log_det)[self._each, i].unsqueeze(1)
        return (joined - own - self._weight * self._log_det) / 2

    def _join(self, i: Tensor, j: Tensor) -> None:
        weight, mean, covariance = (t.squeeze(1) for t in self._union(i, j))
        at = (self._each, i)
        self._weight[at], self._means[at], self._second[at] = weight, mean, covariance
        self._log_det[at] = _log_det(covariance, self._family, self._d)


def _pooled(
    p: Parameters, labels: Tensor, wanted: int, family: Family
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `(M, m)`, means `(M, m, D)` and covariances of groups of components."""
    member = torch.nn.functional.one_hot(labels, wanted).mT.to(torch.float64)  # (M, m, K)
    w = member * p.log_weights.exp().unsqueeze(-2)
    weights = w.sum(-1)
    # components without weight have no say, unless there is nobody else in the group
    nobody = (weights <= 0).unsqueeze(-1)
    share = torch.where(nobody, member, w)
    share = share / share.sum(-1, keepdim=True)
    means = share @ p.means
    own = means.gather(1, labels.unsqueeze(-1).expand_as(p.means))
    covariances = _covariances(p, family) + _outer(p.means - own, family)
    second = (share @ covariances.flatten(2)).reshape(*weights.shape, *covariances.shape[2:])
    return weights, means, second


# what a family without ties holds of a covariance: the matrix, its diagonal, the mean of that ----


def _covariances(p: Parameters, family: Family) -> Tensor:
    if family.n_axes == 2:
        factor = p.family.dense_tril(p.scale, p.n_components, p.n_features)
        return factor @ factor.mT
    own = variances(p).expand_as(p.means)
    return own if kind(family) == (1, 2) else own.mean(-1, keepdim=True)


def _outer(d: Tensor, family: Family) -> Tensor:
    if family.n_axes == 2:
        return d.unsqueeze(-1) * d.unsqueeze(-2)
    square = d * d
    return square if kind(family) == (1, 2) else square.mean(-1, keepdim=True)


def _factor(second: Tensor, family: Family) -> Tensor:
    if family.n_axes == 1:
        return second.sqrt()
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(second)
    if bool((info != 0).any()):
        raise InputError(
            f"{int((info != 0).sum())} covariance(s) cannot be told from singular ones in float64: "
            "add a small multiple of the identity to them first"
        )
    return factor


def _log_det(second: Tensor, family: Family, n_features: int) -> Tensor:
    factor = _factor(second, family)
    if family.n_axes == 2:
        return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 2 * factor.log().sum(-1) * (n_features / factor.shape[-1])
