"""tgmm. A step is timed from one call of its own `_e_step` to the next.

Its stopping rule is relative to the level of the log-likelihood, which would be another tolerance
on every data set: here it is replaced by the absolute change that the others use.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from common import Answer, Clock, Job, Start, Worker, hook, main
from tgmm import GaussianMixture

NAMES = {"full": "full", "diagonal": "diag", "tied": "tied_full", "spherical": "spherical"}


class Tgmm(Worker):
    """Defaults but for the start, the number of steps and the tolerance."""

    packages = ("tgmm", "torch")

    def steps(self, job: Job, x: np.ndarray, start: Start, clock: Clock) -> Any:
        dtype = getattr(torch, job.dtype)
        weights, means, covariances = (torch.from_numpy(a).to(job.device, dtype) for a in start)
        model = GaussianMixture(
            job.n_components,
            covariance_type=NAMES[job.family],
            max_iter=job.steps,
            reg_covar=job.reg_covar,
            init_means=means,
            init_weights=weights,
            init_covariances=covariances,
            device=job.device,
        )
        model._check_convergence = lambda *levels: False
        hook(model, "_e_step", clock)
        model.fit(torch.from_numpy(x).to(job.device))
        return model

    def fit(self, job: Job, x: np.ndarray, seed: int) -> Any:
        model = GaussianMixture(
            job.n_components,
            covariance_type=NAMES[job.family],
            max_iter=job.max_iter,
            reg_covar=job.reg_covar,
            random_state=seed,
            device=job.device,
        )
        model._check_convergence = lambda now, before, *rest: abs(now - before) < job.tol
        model.fit(torch.from_numpy(x).to(job.device))
        return model

    def answer(self, job: Job, model: Any) -> Answer:
        found = (model.weights_, model.means_, model.covariances_)
        return Answer(*(t.detach().double().cpu().numpy() for t in found), model.n_iter_ + 1)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Tgmm())
