"""scikit-learn's GaussianMixture, on NumPy arrays or on torch tensors through the array API.

A step is timed from one call of its own `_e_step` to the next.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
from common import Answer, Clock, Job, Start, Worker, hook, main

os.environ["SCIPY_ARRAY_API"] = "1"  # read when SciPy is imported; without it no dispatch

import sklearn
from sklearn.mixture import GaussianMixture

NAMES = {"full": "full", "diagonal": "diag", "tied": "tied", "spherical": "spherical"}


class ScikitLearn(Worker):
    """Defaults but for the start, the number of steps and the tolerance."""

    packages = ("scikit-learn", "scipy", "torch")

    def steps(self, job: Job, x: np.ndarray, start: Start, clock: Clock) -> Any:
        if job.family in ("diagonal", "spherical"):
            precisions = 1 / start.covariances
        else:
            precisions = np.linalg.inv(start.covariances)
        given = [start.weights, start.means, precisions]
        weights, means, precisions = (_as(job, a.astype(job.dtype)) for a in given)
        model = GaussianMixture(
            job.n_components,
            covariance_type=NAMES[job.family],
            tol=0,
            reg_covar=job.reg_covar,
            max_iter=job.steps,
            # Used for nothing where a start is given, but the array API refuses k-means.
            init_params="random_from_data",
            weights_init=weights,
            means_init=means,
            precisions_init=precisions,
            random_state=0,
        )
        hook(model, "_e_step", clock)
        return _fitted(job, model, x)

    def fit(self, job: Job, x: np.ndarray, seed: int) -> Any:
        model = GaussianMixture(
            job.n_components,
            covariance_type=NAMES[job.family],
            tol=job.tol,
            reg_covar=job.reg_covar,
            max_iter=job.max_iter,
            init_params="random_from_data" if job.options.get("torch") else "kmeans",
            random_state=seed,
        )
        return _fitted(job, model, x)

    def answer(self, job: Job, model: Any) -> Answer:
        found = (model.weights_, model.means_, model.covariances_)
        return Answer(*(_on_host(a) for a in found), model.n_iter_)


def _as(job: Job, array: np.ndarray) -> Any:
    if not job.options.get("torch"):
        return array
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(job.device)


def _on_host(array: Any) -> np.ndarray:
    array = array.cpu() if hasattr(array, "cpu") else array
    return np.asarray(array, dtype=np.float64)


def _fitted(job: Job, model: GaussianMixture, x: np.ndarray) -> GaussianMixture:
    with sklearn.config_context(array_api_dispatch=bool(job.options.get("torch"))):
        return model.fit(_as(job, x))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(ScikitLearn())
