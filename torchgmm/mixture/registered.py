"""What torch.distributions learns here: the divergence of mixtures of one component."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
    register_kl,
)

__all__: list[str] = []


@register_kl(MixtureSameFamily, MixtureSameFamily)  # type: ignore[no-untyped-call, untyped-decorator]
def _of_mixtures(p: MixtureSameFamily, q: MixtureSameFamily) -> Tensor:
    components = [m.mixture_distribution.param_shape[-1] for m in (p, q)]
    if components != [1, 1]:
        raise NotImplementedError(
            "the Kullback-Leibler divergence of mixtures has no closed form (here of "
            f"{components[0]} and {components[1]} components): torchgmm.kl_divergence(p, q) "
            "estimates it, with its standard error"
        )
    one, other = p.component_distribution, q.component_distribution
    if type(one) is not type(other):
        one, other = _dense(one), _dense(other)
    return kl_divergence(one, other).squeeze(-1)


def _dense(normal: Distribution) -> Distribution:
    if isinstance(normal, Independent) and isinstance(normal.base_dist, Normal):
        spread = normal.base_dist.scale
        return MultivariateNormal(normal.base_dist.loc, scale_tril=spread.diag_embed())
    return normal
