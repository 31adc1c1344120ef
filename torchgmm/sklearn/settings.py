"""What the estimators have in common: settings, their checks, the mixture that these describe."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from sklearn.utils._param_validation import Interval, StrOptions

from ..checks import compute_dtype
from ..covariance import families
from ..mixture import GaussianMixture
from .rows import Rows

__all__ = ["AT_LEAST_ONE", "SHARED", "unfitted"]

AT_LEAST_ONE = Interval(Integral, 1, None, closed="left")
_NOT_NEGATIVE = Interval(Real, 0.0, None, closed="left")

# In scikit-learn's own form, for the `_parameter_constraints` of every estimator.
SHARED: dict[str, list[Any]] = {
    "n_components": [AT_LEAST_ONE],
    "covariance_type": [StrOptions({"full", "tied", "diag", "spherical", *families()})],
    "tol": [_NOT_NEGATIVE],
    "reg_covar": [_NOT_NEGATIVE],
    "max_iter": [Interval(Integral, 0, None, closed="left")],
    "n_init": [AT_LEAST_ONE],
    "init_params": [StrOptions({"kmeans", "random", "random_from_data", "k-means++"})],
    "random_state": ["random_state"],
    "device": [str, torch.device, None],
    "batch_size": [AT_LEAST_ONE, None],
}


def unfitted(estimator: Any, rows: Rows, batch_shape: Sequence[int] = ()) -> GaussianMixture:
    """The mixture that an estimator's settings describe, for these rows.

    Args:
        estimator: with `n_components`, `covariance_type` and `device`.
        rows: say the features, the dtype and, where the estimator names none, the device.
        batch_shape: of many mixtures.
    """
    device = torch.device(rows.device if estimator.device is None else estimator.device)
    return GaussianMixture(
        estimator.n_components,
        rows.n_features,
        estimator.covariance_type,
        batch_shape=batch_shape,
        dtype=compute_dtype(rows.dtype, torch.float32, device),
        device=device,
    )
