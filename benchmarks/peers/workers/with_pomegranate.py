"""pomegranate. A step is timed from one call of its own `summarize` to the next.

Its tolerance is on the log-likelihood of all rows together: N times the tolerance of the job.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from common import Answer, Clock, Job, Start, UnsupportedError, Worker, hook, main
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel

NAMES = {"full": "full", "diagonal": "diag"}


class Pomegranate(Worker):
    """Defaults but for the start, the number of steps and the tolerance."""

    packages = ("pomegranate", "torch")

    def steps(self, job: Job, x: np.ndarray, start: Start, clock: Clock) -> Any:
        family = _family(job)
        weights, means, covariances = (torch.from_numpy(a).float() for a in start)
        parts = [
            Normal(mean.clone(), covariance.clone(), covariance_type=family)
            for mean, covariance in zip(means, covariances, strict=True)
        ]
        model = GeneralMixtureModel(
            parts, priors=weights / weights.sum(), max_iter=job.steps, tol=-math.inf
        )
        counted = _count(model)
        hook(model, "summarize", clock)
        model.fit(torch.from_numpy(x))
        clock.stamp()
        return model, counted

    def fit(self, job: Job, x: np.ndarray, seed: int) -> Any:
        family = _family(job)
        model = GeneralMixtureModel(
            [Normal(covariance_type=family) for _ in range(job.n_components)],
            max_iter=job.max_iter,
            tol=job.tol * len(x),
            random_state=seed,
        )
        counted = _count(model)
        model.fit(torch.from_numpy(x))
        return model, counted

    def answer(self, job: Job, model: Any) -> Answer:
        fitted, counted = model
        means = torch.stack([part.means for part in fitted.distributions])
        covariances = torch.stack([part.covs for part in fitted.distributions])
        found = (fitted.priors, means, covariances)
        return Answer(*(t.detach().double().numpy() for t in found), len(counted))


def _family(job: Job) -> str:
    if job.family not in NAMES:
        raise UnsupportedError(f"no {job.family} covariances")
    if job.dtype != "float32":
        raise UnsupportedError("float32 only: its weights are always float32")
    return NAMES[job.family]


def _count(model: GeneralMixtureModel) -> list[int]:
    """One entry per M-step: it does not count them itself."""
    counted: list[int] = []
    own = model.from_summaries

    def counting() -> None:
        counted.append(1)
        own()

    model.from_summaries = counting
    return counted


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Pomegranate())
