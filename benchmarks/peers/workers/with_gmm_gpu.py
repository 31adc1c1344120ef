"""gmm-gpu with a batch of one. Timed from one call of its own `_m_step` to the next.

It runs its k-means even where a start is given; that is before the first step and not counted.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from common import Answer, Clock, Job, Start, UnsupportedError, Worker, hook, main
from gmm_gpu.gmm import GMM


class GmmGpu(Worker):
    """Defaults but for the start, the number of steps and the tolerance."""

    packages = ("gmm-gpu", "torch")

    def steps(self, job: Job, x: np.ndarray, start: Start, clock: Clock) -> Any:
        _check(job)
        weights, means = (torch.from_numpy(a).float().to(job.device) for a in start[:2])
        precisions = torch.linalg.inv(torch.from_numpy(start.covariances)).float().to(job.device)
        model = GMM(
            job.n_components,
            max_iter=job.steps,
            device=job.device,
            tol=-1.0,
            reg_covar=job.reg_covar,
            means_init=means.unsqueeze(0),
            weights_init=weights.unsqueeze(0),
            precisions_init=precisions.unsqueeze(0),
            random_seed=1,
        )
        counted = Clock()
        hook(model, "_m_step", clock)
        hook(model, "_m_step", counted)
        model.fit(torch.from_numpy(x).to(job.device).unsqueeze(0))
        return model, len(counted.seconds) + 1

    def fit(self, job: Job, x: np.ndarray, seed: int) -> Any:
        _check(job)
        model = GMM(
            job.n_components,
            max_iter=job.max_iter,
            device=job.device,
            tol=job.tol,
            reg_covar=job.reg_covar,
            random_seed=seed + 1,  # a seed of 0 counts as none
        )
        model.fit(torch.from_numpy(x).to(job.device).unsqueeze(0))
        steps = int(model.convergence_iters[0])
        return model, steps if steps > 0 else job.max_iter

    def answer(self, job: Job, model: Any) -> Answer:
        fitted, n_steps = model
        parts = (fitted._pi, fitted.means, fitted.covs)
        return Answer(*(torch.stack(list(p))[:, 0].double().cpu().numpy() for p in parts), n_steps)


def _check(job: Job) -> None:
    if job.family != "full":
        raise UnsupportedError("full covariances only")
    if job.dtype != "float32":
        raise UnsupportedError("float32 only: parts of it are always float32")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(GmmGpu())
