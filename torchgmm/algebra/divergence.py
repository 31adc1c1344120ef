"""The Kullback-Leibler divergence: in closed form for one component, by Monte Carlo for more."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..kernels import joint_log_prob
from ..kernels.base import chunk_rows
from ..mixture import Estimate, GaussianMixture
from ..mixture.drawing import draw
from ..mixture.implicit import follow
from ..parameters import Parameters
from .chunks import by_chunk
from .common import Mixture, together

__all__ = ["kl_divergence"]

# bytes of one (K, chunk, D) buffer
_BUDGET = 16 * 2**20


def kl_divergence(
    p: Mixture,
    q: Mixture,
    *,
    n_samples: int = 10_000,
    generator: torch.Generator | int | None = None,
) -> Estimate:
    """`KL(p || q) = E_p log(p(x) / q(x))` in nats, with its standard error.

    Between single components it is the closed form, with a standard error of 0, which
    `torch.distributions.kl_divergence` gives for `as_distribution()` too. Otherwise it is the mean
    over rows drawn from p: unbiased, so that it may fall below 0 where the mixtures hardly
    differ, and equal to 0 where they do not. Gradients flow into both mixtures, into p by
    implicit reparameterisation (`GaussianMixture.rsample`).

    Args:
        p: a `GaussianMixture` or `Parameters`.
        q: about the same features; batch axes are broadcast.
        n_samples: how many rows are drawn; the error falls with its root.
        generator: for the rows, on the mixtures' device, or a seed; torch's global one if not
            given.

    Raises:
        InputError: different features, devices, or batch axes that do not fit.

    Example:
        >>> import torchgmm as tg
        >>> one = tg.GaussianMixture.from_covariances([1.0], [[0.0]], [1.0], "spherical")
        >>> wide = tg.GaussianMixture.from_covariances([1.0], [[1.0]], [4.0], "spherical")
        >>> value, error = tg.kl_divergence(one, wide)
        >>> round(value.item(), 4), error.item()  # log 2 + (1 + 1) / 8 - 1/2
        (0.4431, 0.0)
    """
    checks.check_count("n_samples", n_samples, least=2)
    one, other = together(p, q)
    if one.n_components == other.n_components == 1:
        value = _closed_form(one, other)
        error = torch.zeros_like(value)
    else:
        ratio = _log_ratio(one, other, n_samples, generator)
        value, error = ratio.mean(-1), ratio.std(-1) / n_samples**0.5
    dtypes = [m.dtype if isinstance(m, GaussianMixture) else m.means.dtype for m in (p, q)]
    dtype = torch.promote_types(*dtypes)
    return Estimate(value.to(dtype), error.detach().to(dtype))


def _closed_form(p: Parameters, q: Parameters) -> Tensor:
    one, other = (m.family.dense_tril(m.scale, 1, m.n_features).squeeze(-3) for m in (p, q))
    relative = torch.linalg.solve_triangular(other, one, upper=False)  # (*B, D, D)
    apart = (p.means - q.means).mT  # (*B, D, 1)
    distance = torch.linalg.solve_triangular(other, apart, upper=False)
    log_det = relative.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    square = (relative**2).sum((-2, -1)) + (distance**2).sum((-2, -1))
    value: Tensor = (square - p.n_features) / 2 - log_det
    return value


def _log_ratio(
    p: Parameters, q: Parameters, n_samples: int, generator: torch.Generator | int | None
) -> Tensor:
    """`log p(x) - log q(x)` of rows drawn from p, `(*B, n)`, a chunk at a time."""
    x = follow(draw(p, n_samples, generator)[0], p)
    count = max(p.logits.numel(), q.logits.numel())
    size = chunk_rows(count, p.n_features, x.dtype, _BUDGET)

    def replaced(m: Parameters, logits: Tensor, means: Tensor, scale: Tensor) -> Parameters:
        return Parameters(logits, means, scale, m.family)

    def of_rows(rows: Tensor, *tensors: Tensor) -> Tensor:
        one, other = replaced(p, *tensors[:3]), replaced(q, *tensors[3:])
        ratio = joint_log_prob(rows, one).logsumexp(-1) - joint_log_prob(rows, other).logsumexp(-1)
        return ratio.unsqueeze(-1)

    tensors = (p.logits, p.means, p.scale, q.logits, q.means, q.scale)
    return by_chunk(of_rows, size, _BUDGET, x, *tensors).squeeze(-1)
