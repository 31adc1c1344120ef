"""gmmx (JAX). Its loop is one compiled program, in which nothing can be timed.

So two fits from the same start, compiled beforehand, one of a single step and one of many: seconds
per step are the difference over the number of steps between them, the median of several pairs.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import jax
import numpy as np
from common import Answer, Clock, Job, Start, UnsupportedError, Worker, main
from gmmx.fit import EMFitter
from gmmx.gmm import GaussianMixtureModelJax, GaussianMixtureSKLearn
from jax import numpy as jnp

NAMES = {"full": "full", "diagonal": "diag"}
PAIRS, ENOUGH = (3, 21), 2.0  # at least and at most so many pairs; s after which no more begins
LONG, MOST = 0.3, 200  # s that the longer fit should take, and its most steps


class Gmmx(Worker):
    """Defaults but for the start, the number of steps and the tolerance."""

    packages = ("gmmx", "jax")

    def steps(self, job: Job, x: np.ndarray, start: Start, clock: Clock) -> Any:
        family = _family(job)
        rows = jnp.asarray(x)
        weights, means, covariances = (jnp.asarray(a.astype(job.dtype)) for a in start)
        begin = GaussianMixtureModelJax.from_squeezed(
            means=means, covariances=covariances, weights=weights, covariance_type=family
        )
        alone, whole = (_program(job, n, rows, begin) for n in (1, job.steps))
        first, _ = _timed(alone)
        seconds, result = _timed(whole)
        # So short a run would be lost in the noise of the difference: a longer one, only timed.
        each = max((seconds - first) / (job.steps - 1), 1e-5)
        n = job.steps if seconds > LONG else min(MOST, max(job.steps, int(LONG / each)))
        long = whole if n == job.steps else _program(job, n, rows, begin)
        _timed(long)
        started = time.perf_counter()
        while len(clock.seconds) < PAIRS[0] or (
            len(clock.seconds) < PAIRS[1] and time.perf_counter() - started < ENOUGH
        ):
            clock.seconds.append((_timed(long)[0] - _timed(alone)[0]) / (n - 1))
        return result.gmm, int(result.n_iter)

    def fit(self, job: Job, x: np.ndarray, seed: int) -> Any:
        model = GaussianMixtureSKLearn(
            job.n_components,
            covariance_type=_family(job),
            tol=job.tol,
            reg_covar=job.reg_covar,
            max_iter=job.max_iter,
            random_state=seed,
        )
        model.fit(jnp.asarray(x))
        jax.block_until_ready(model._gmm.means)
        return model._gmm, 0

    def answer(self, job: Job, model: Any) -> Answer:
        mixture, n_steps = model
        covariances = mixture.covariances.values_numpy
        return Answer(
            mixture.weights_numpy,
            mixture.means_numpy,
            covariances.reshape(job.n_components, *covariances.shape[-1:] * _axes(job)),
            n_steps,
        )


def _program(job: Job, n: int, rows: jax.Array, begin: GaussianMixtureModelJax) -> Any:
    """A compiled fit of n steps, to be called."""
    fitter = EMFitter(max_iter=n, tol=0.0, reg_covar=job.reg_covar)
    program = EMFitter.fit.lower(fitter, rows, begin).compile()
    return lambda: program(fitter, rows, begin)


def _timed(run: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - began, result


def _axes(job: Job) -> int:
    return 2 if job.family == "full" else 1


def _family(job: Job) -> str:
    if job.family not in NAMES:
        raise UnsupportedError(f"no {job.family} covariances")
    return NAMES[job.family]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Gmmx())
