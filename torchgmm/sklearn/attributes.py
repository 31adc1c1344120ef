"""A fitted estimator's attributes, in scikit-learn's shapes, to and from parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import linalg
from ..covariance import Family
from ..data import arrays
from ..errors import InputError
from ..exact import exact
from ..parameters import Parameters

__all__ = ["attributes_of", "parameters_of", "scale_from_cholesky"]


def attributes_of(parameters: Parameters) -> dict[str, Tensor]:
    """`weights_`, `means_` and what scikit-learn keeps of the covariances, in float64."""
    p = parameters.exact()
    return {
        "weights_": p.log_weights.exp(),
        "means_": p.means,
        "covariances_": p.family.covariances(p.scale),
        "precisions_": p.family.precisions(p.scale),
        "precisions_cholesky_": _precisions_cholesky(p),
    }


def parameters_of(weights: Any, means: Any, precisions_cholesky: Any, family: Family) -> Parameters:
    """The mixture that these attributes describe, in float64.

    Raises:
        InputError: shapes that do not fit together.
    """
    pi, mu, cholesky = (_as_float64(t) for t in (weights, means, precisions_cholesky))
    if mu.dim() != 2 or pi.shape != mu.shape[:1]:
        raise InputError(
            f"weights_ must be (K,) and means_ (K, D), got {tuple(pi.shape)} and {tuple(mu.shape)}"
        )
    wanted = tuple(family.covariance_shape(*mu.shape))
    if tuple(cholesky.shape) != wanted:
        raise InputError(
            f"precisions_cholesky_ must have shape {wanted} to go with means_ {tuple(mu.shape)} "
            f"and {family.name} covariances, got {tuple(cholesky.shape)}"
        )
    return Parameters(pi.log(), mu, scale_from_cholesky(cholesky, family, mu.shape[1]), family)


def scale_from_cholesky(cholesky: Tensor, family: Family, n_features: int) -> Tensor:
    """`scale` from the factors P of the precisions, `P P^T`; no product is made on the way.

    P is upper triangular, the transposed inverse of the covariance's factor; along the axes it is
    the inverse standard deviation.
    """
    if family.n_axes == 2:
        factor = linalg.inverse_tril(cholesky.mT)
        return family.from_tril(factor.unsqueeze(-3) if family.tied else factor)
    return family.from_covariances(cholesky**-2, n_features)


def _precisions_cholesky(p: Parameters) -> Tensor:
    if p.family.n_axes == 2:
        heads = p.family.heads(p.n_components)
        inverse = linalg.inverse_tril(p.family.dense_tril(p.scale, heads, p.n_features)).mT
        return inverse.squeeze(-3) if p.family.tied else inverse
    return p.family.precisions(p.scale).sqrt()


def _as_float64(values: Any) -> Tensor:
    return exact(arrays.as_tensor(arrays.as_table(values)))
