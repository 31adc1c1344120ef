"""What every operation on mixtures asks: exact parameters in, an answer of the same kind out."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..checks import check_device
from ..covariance import Family, as_family
from ..errors import InputError
from ..linalg import lower_factor
from ..mixture import GaussianMixture
from ..parameters import Parameters

__all__ = [
    "M",
    "Mixture",
    "answer",
    "exact",
    "feature_list",
    "kind",
    "lower_factor",
    "made_of",
    "pieces",
    "together",
    "variances",
]

Mixture = GaussianMixture | Parameters
M = TypeVar("M", GaussianMixture, Parameters)


def exact(mixture: Mixture) -> Parameters:
    """The mixture's numbers in float64, attached to autograd; `Parameters.unstructured`."""
    if isinstance(mixture, GaussianMixture):
        mixture = mixture.as_parameters()
    if isinstance(mixture, Parameters):
        check_device(mixture.means.device)
        return mixture.to(torch.float64).unstructured()
    raise InputError(
        f"a mixture is needed, a GaussianMixture or Parameters, got {type(mixture).__name__}"
    )


def answer(parameters: Parameters, like: M) -> M:
    """`parameters` as `like` is: in its dtype, and a module where that is one."""
    if isinstance(like, GaussianMixture):
        return GaussianMixture.from_parameters(parameters, dtype=like.dtype)
    return parameters.to(like.means.dtype)


# families ---------------------------------------------------------------------------------------

_SCALAR, _VECTOR, _MATRIX = (1, 1), (1, 2), (2, 2)
_MADE = {
    (_SCALAR, False): "spherical",
    (_SCALAR, True): "tied_spherical",
    (_VECTOR, False): "diagonal",
    (_VECTOR, True): "tied_diagonal",
    (_MATRIX, False): "full",
    (_MATRIX, True): "tied",
}


def kind(family: Family) -> tuple[int, int]:
    """How much a covariance of this family holds; the larger holds what the smaller does."""
    return family.n_axes, family.factor_shape(2)[0]


def made_of(kind: tuple[int, int], *, tied: bool) -> Family:
    """The family of this kind."""
    return as_family(_MADE[kind, tied])


# pairs ------------------------------------------------------------------------------------------


def together(p: Mixture, q: Mixture) -> tuple[Parameters, Parameters]:
    """Both in float64 with one batch shape.

    Raises:
        InputError: they have different features, devices, or batch axes that do not fit.
    """
    one, other = exact(p), exact(q)
    if one.n_features != other.n_features:
        raise InputError(
            f"the mixtures have {one.n_features} and {other.n_features} features: "
            "both must be about the same ones"
        )
    if one.means.device != other.means.device:
        raise InputError(
            f"the mixtures are on {one.means.device} and {other.means.device}: move one"
        )
    try:
        batch: torch.Size = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
            one.batch_shape, other.batch_shape
        )
    except RuntimeError as error:
        raise InputError(
            f"batch shapes {tuple(one.batch_shape)} and {tuple(other.batch_shape)} do not fit"
        ) from error
    return _batched(one, batch), _batched(other, batch)


def _batched(p: Parameters, batch: torch.Size) -> Parameters:
    axes = len(p.batch_shape)
    return p.map(lambda t: t.expand(*batch, *t.shape[axes:]))


# features ---------------------------------------------------------------------------------------


def feature_list(features: Any, n_features: int) -> list[int]:
    """Numbers of features from a number, numbers, a slice, or a mask of D booleans.

    Raises:
        InputError: none, one twice, or one that is not there.
    """
    try:
        wanted: Any = features
        if not isinstance(features, slice):
            wanted = np.asarray(list(features) if isinstance(features, range | set) else features)
            wanted = wanted if wanted.size else wanted.astype(int)
        chosen: list[int] = np.arange(n_features)[wanted].reshape(-1).tolist()
    except (IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"features must be numbers from 0 to {n_features - 1}, a slice, or a mask of "
            f"{n_features} booleans, got {features!r}: {error}"
        ) from error
    if not chosen:
        raise InputError(f"features {features!r} name none of the {n_features}")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"features must be different ones, got {chosen}")
    return chosen


def pieces(x: Tensor, size: int, axis: int) -> list[Tensor]:
    """Views of `size` entries along an axis, the last of what is left."""
    n = x.shape[axis]
    return [x.narrow(axis, start, min(size, n - start)) for start in range(0, n, size)]


def variances(p: Parameters) -> Tensor:
    """Of every feature, `(*B, H, D)`."""
    factor = p.family.factor(p.scale)
    if p.family.n_axes == 2:
        return (factor * factor).sum(-1)
    return (factor * factor).expand(*factor.shape[:-1], p.n_features)
