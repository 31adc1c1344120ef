"""Between scikit-learn's fitted mixtures and torchgmm's: the same numbers, both ways."""

from __future__ import annotations

import math
from typing import Any

import sklearn.mixture
import torch
from sklearn.utils.validation import check_is_fitted

from ..covariance import as_family
from ..errors import InputError
from ..mixture import GaussianMixture
from ..parameters import Parameters
from .attributes import attributes_of, parameters_of
from .questions import Questions
from .rows import dtype_of

__all__ = ["from_sklearn", "to_sklearn"]

# scikit-learn's names of our families; any other is full to it
_THEIRS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}
_REPORT = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "feature_names_in_")


def from_sklearn(estimator: Any, *, dtype: torch.dtype | None = None) -> GaussianMixture:
    """The torchgmm module of a fitted estimator, scikit-learn's or ours.

    Args:
        estimator: a fitted `sklearn.mixture.GaussianMixture` or `torchgmm.sklearn`'s.
        dtype: of the module; that of the estimator's means if not given.

    Raises:
        InputError: another estimator; a variational one has no such parameters.
        NotFittedError: not fitted yet.

    Example:
        >>> import numpy as np, sklearn.mixture
        >>> from torchgmm.sklearn import from_sklearn
        >>> X = np.random.default_rng(0).normal(size=(100, 2))
        >>> theirs = sklearn.mixture.GaussianMixture(2, random_state=0).fit(X)
        >>> mixture = from_sklearn(theirs)
        >>> bool(np.allclose(mixture.log_prob(X).detach(), theirs.score_samples(X)))
        True
    """
    if not isinstance(estimator, (sklearn.mixture.GaussianMixture, Questions)):
        raise InputError(
            "from_sklearn takes a fitted GaussianMixture of scikit-learn or of torchgmm.sklearn, "
            f"got a {type(estimator).__name__}"
        )
    check_is_fitted(estimator)
    family = as_family(estimator.covariance_type)
    parameters = parameters_of(
        estimator.weights_, estimator.means_, estimator.precisions_cholesky_, family
    )
    return GaussianMixture.from_parameters(parameters, dtype=dtype or dtype_of(estimator.means_))


def to_sklearn(mixture: Any) -> Any:
    """A fitted `sklearn.mixture.GaussianMixture` that gives the same answers.

    Families that scikit-learn does not know become `full` there: the same density, though its
    `bic` counts more parameters.

    Args:
        mixture: a torchgmm module without batch axes, or a fitted `torchgmm.sklearn` estimator,
            whose report (`converged_`, `n_iter_`, `lower_bound_`, names of features) goes along.

    Raises:
        InputError: anything else.

    Example:
        >>> import torchgmm as tg
        >>> from torchgmm.sklearn import to_sklearn
        >>> mixture = tg.GaussianMixture.from_covariances([0.5, 0.5], [[0.0], [5.0]], [1.0, 4.0],
        ...     "spherical")
        >>> to_sklearn(mixture).predict([[0.1], [6.0]])
        array([0, 1])
    """
    report: dict[str, Any] = {
        "converged_": True, "n_iter_": 0, "lower_bound_": math.nan, "lower_bounds_": []
    }  # fmt: skip
    params: dict[str, Any] = {}
    if isinstance(mixture, Questions):
        report |= {name: getattr(mixture, name) for name in _REPORT if hasattr(mixture, name)}
        params = _shared_params(mixture)
        mixture = mixture.mixture_
    if not isinstance(mixture, GaussianMixture):
        raise InputError(f"to_sklearn takes a torchgmm mixture, got a {type(mixture).__name__}")
    if mixture.batch_shape:
        raise InputError(
            f"scikit-learn knows one mixture, this is a batch of shape {tuple(mixture.batch_shape)}"
        )
    dtype = mixture.dtype
    p = mixture.as_parameters().map(lambda t: t.detach().cpu().double())
    kind = _THEIRS.get(p.family.name)
    if kind is None:
        p, kind = _as_full(p), "full"
    params |= {"n_components": p.n_components, "covariance_type": kind}
    theirs = sklearn.mixture.GaussianMixture(**params)
    for name, value in {**attributes_of(p), **report}.items():
        is_tensor = isinstance(value, torch.Tensor)
        setattr(theirs, name, value.to(dtype).numpy().copy() if is_tensor else value)
    theirs.n_features_in_ = p.n_features
    return theirs


def _as_full(p: Parameters) -> Parameters:
    full = as_family("full")
    factor = p.family.dense_tril(p.scale, p.n_components, p.n_features)
    return Parameters(p.logits, p.means, full.unconstrained(factor), full)


def _shared_params(estimator: Any) -> dict[str, Any]:
    names = sklearn.mixture.GaussianMixture().get_params()
    return {k: v for k, v in estimator.get_params().items() if k in names}
