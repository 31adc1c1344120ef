"""Mixtures as plain tensors: densities whose parameters a network gives, row by row or by batch.

Shapes as everywhere: `logits (*B, K)`, `means (*B, K, D)`, `scale (*B, H, ...)` in the
unconstrained form of the family (`scale_shape`): any real numbers are a valid mixture. The answers
are `(*B, N)` and `(*B, N, K)` for rows `(N, D)`, shared by all mixtures, or `(*B, N, D)`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks
from .covariance import Family, as_family
from .errors import InputError
from .kernels import full_precision, is_traced, joint_log_prob
from .kernels import log_prob as differentiable_log_prob
from .parameters import Parameters, check_shapes, one_each

__all__ = [
    "MixtureTensors",
    "log_joint",
    "log_prob",
    "n_outputs",
    "responsibilities",
    "scale_shape",
    "split_outputs",
]


class MixtureTensors(NamedTuple):
    """The tensors of mixtures: `logits (*B, K)`, `means (*B, K, D)`, `scale (*B, H, ...)`."""

    logits: Tensor
    means: Tensor
    scale: Tensor


def log_prob(
    x: Tensor,  # (N, D) or (*B, N, D)
    logits: Tensor,  # (*B, K)
    means: Tensor,  # (*B, K, D)
    scale: Tensor,  # (*B, H, ...)
    covariance: str | Family = "full",
) -> Tensor:
    """Log-density of every row under every mixture, `(*B, N)`, in nats.

    Differentiable in all tensors, in memory O(chunk + parameters), under `torch.func`,
    `torch.compile` and autocast as well: what `GaussianMixture.log_prob` is made of. The
    computation is in torch's promotion of all dtypes, in float32 at least.

    A mixture density network (Bishop 1994) gives each row a mixture of its own: B is the rows,
    and `x (*B, 1, D)` has one row for each.

    Args:
        x: rows.
        logits: unnormalised log-weights.
        means: the means.
        scale: the factors of the covariances in unconstrained form: strictly lower triangles as
            they are (what stands above them is not read), diagonals and standard deviations as
            their logs. For `common_axes` the triangles, or their mean where they differ, are
            Cayley's form of the axes, and the diagonals are along these.
        covariance: the family.

    Raises:
        InputError: shapes that do not fit together, rows that are not finite.

    Example:
        A network that learns both branches of y = +-sqrt(x):

        >>> import torch
        >>> from torchgmm import functional
        >>> _ = torch.manual_seed(0)
        >>> x = torch.rand(512, 1)
        >>> y = x.sqrt() * torch.randn(512, 1).sign() + 0.05 * torch.randn(512, 1)
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Linear(1, 32),
        ...     torch.nn.Tanh(),
        ...     torch.nn.Linear(32, functional.n_outputs(2, 1)),
        ... )
        >>> optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        >>> for _ in range(150):
        ...     mixture = functional.split_outputs(network(x), 2, 1)
        ...     loss = -functional.log_prob(y.unsqueeze(-2), *mixture).mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> found = functional.split_outputs(network(torch.tensor([0.25])), 2, 1)
        >>> low, high = found.means.sort(0).values
        >>> abs(float(low) + 0.5) < 0.1, abs(float(high) - 0.5) < 0.1
        (True, True)
    """
    rows, parameters = _checked(x, logits, means, scale, covariance)
    return differentiable_log_prob(rows, parameters)


def log_joint(
    x: Tensor,  # (N, D) or (*B, N, D)
    logits: Tensor,  # (*B, K)
    means: Tensor,  # (*B, K, D)
    scale: Tensor,  # (*B, H, ...)
    covariance: str | Family = "full",
) -> Tensor:
    """`log pi_k + log N(x_n; mu_k, Sigma_k)`, `(*B, N, K)`, in nats; arguments as `log_prob`'s.

    Differentiable by plain autograd, whose memory is O(N K D).
    """
    rows, parameters = _checked(x, logits, means, scale, covariance)
    with full_precision(rows.device):
        return joint_log_prob(rows, parameters)


def responsibilities(
    x: Tensor,  # (N, D) or (*B, N, D)
    logits: Tensor,  # (*B, K)
    means: Tensor,  # (*B, K, D)
    scale: Tensor,  # (*B, H, ...)
    covariance: str | Family = "full",
) -> Tensor:
    """Posterior probability of each component, `(*B, N, K)`; arguments as `log_prob`'s."""
    return log_joint(x, logits, means, scale, covariance).softmax(-1)


def scale_shape(
    n_components: int, n_features: int, covariance: str | Family = "full"
) -> tuple[int, ...]:
    """Shape of one mixture's `scale`.

    Example:
        >>> from torchgmm import functional
        >>> functional.scale_shape(5, 3, "full"), functional.scale_shape(5, 3, "tied_diagonal")
        ((5, 3, 3), (1, 3))
    """
    k = checks.check_count("n_components", n_components)
    return as_family(covariance).scale_shape(k, checks.check_count("n_features", n_features))


def n_outputs(n_components: int, n_features: int, covariance: str | Family = "full") -> int:
    """How many numbers `split_outputs` makes a mixture of: the width of a network's last layer."""
    shape = scale_shape(n_components, n_features, covariance)
    return n_components * (1 + n_features) + math.prod(shape)


def split_outputs(
    outputs: Tensor,  # (*B, n_outputs)
    n_components: int,
    n_features: int,
    covariance: str | Family = "full",
) -> MixtureTensors:
    """The outputs of a network as the tensors of one mixture per row.

    Raises:
        InputError: the last axis is not `n_outputs(...)` wide.
    """
    shape = scale_shape(n_components, n_features, covariance)
    wanted = n_outputs(n_components, n_features, covariance)
    if outputs.shape[-1] != wanted:
        raise InputError(
            f"{n_components} {as_family(covariance).name} component(s) in {n_features} dimension(s)"
            f" need {wanted} outputs, got shape {tuple(outputs.shape)}: make the last layer "
            "n_outputs(...) wide"
        )
    widths = [n_components, n_components * n_features, math.prod(shape)]
    logits, means, scale = torch.split(outputs, widths, -1)
    batch = outputs.shape[:-1]
    return MixtureTensors(
        logits, means.reshape(*batch, n_components, n_features), scale.reshape(*batch, *shape)
    )


def _checked(
    x: Any, logits: Tensor, means: Tensor, scale: Tensor, covariance: str | Family
) -> tuple[Tensor, Parameters]:
    family = as_family(covariance)
    check_shapes(means, family, logits=(logits, one_each), scale=(scale, family.scale_shape))
    *batch, _, d = means.shape
    checks.check_rows(tuple(x.shape), d, len(batch), none=True)
    if x.dim() > 2 and tuple(x.shape[:-2]) != tuple(batch):
        raise InputError(
            f"rows must be (N, D) or (*B, N, D) with batch axes {tuple(batch)}, got shape "
            f"{tuple(x.shape)}"
        )
    dtype = x.dtype
    for t in (logits, means, scale):
        dtype = checks.compute_dtype(dtype, t.dtype, x.device)
    if not is_traced():
        checks.check_finite(x, dtype)
    parameters = Parameters(logits, means, scale, family)
    return x.to(dtype), parameters.map(lambda t: t if t.dtype == torch.float64 else t.to(dtype))
