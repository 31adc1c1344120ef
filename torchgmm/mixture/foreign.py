"""Mixtures as torch.distributions has them: written, and read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from ..covariance import as_family
from ..errors import InputError
from ..parameters import Parameters

__all__ = ["distribution_of", "parameters_of"]


def distribution_of(p: Parameters) -> MixtureSameFamily:
    """The mixture as an object of torch.distributions, on the same tensors."""
    components: Distribution
    if p.family.n_axes == 2:
        factor = p.family.dense_tril(p.scale, *p.means.shape[-2:])
        components = MultivariateNormal(p.means, scale_tril=factor)
    else:
        components = Independent(Normal(p.means, p.family.factor(p.scale).expand_as(p.means)), 1)
    return MixtureSameFamily(Categorical(logits=p.logits), components)


@torch.no_grad()
def parameters_of(distribution: Distribution) -> Parameters:
    """The parameters of a mixture of normals, or of one normal as a mixture of one.

    Raises:
        InputError: it is neither.
    """
    if isinstance(distribution, MixtureSameFamily):
        means, factor = _normal(distribution.component_distribution)
        logits = distribution.mixture_distribution.logits.to(means)
    else:
        axis = len(distribution.batch_shape)
        means, factor = (t.unsqueeze(axis) for t in _normal(distribution))
        logits = means.new_zeros(means.shape[:-1])
    family = as_family("full" if factor.dim() > means.dim() else "diagonal")
    return Parameters(logits, means, family.unconstrained(factor), family)


def _normal(normal: Distribution) -> tuple[Tensor, Tensor]:
    """Means `(..., D)` and factors, `(..., D)` or `(..., D, D)`."""
    if isinstance(normal, Normal):
        return normal.loc.unsqueeze(-1), normal.scale.unsqueeze(-1)
    if isinstance(normal, (MultivariateNormal, LowRankMultivariateNormal)):
        return normal.loc, normal.scale_tril
    inner = normal.base_dist if isinstance(normal, Independent) else None
    if isinstance(inner, Normal) and len(normal.event_shape) == 1:
        return inner.loc, inner.scale
    raise InputError(
        f"a mixture of normals is needed, got {normal}: give a MixtureSameFamily of Normal, "
        "Independent(Normal, 1) or MultivariateNormal, or one of these three"
    )
