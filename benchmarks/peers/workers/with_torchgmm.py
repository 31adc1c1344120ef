"""This project. A step is timed from one report of a finished step to the next (an observer)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from common import Answer, Clock, Job, Start, UnsupportedError, Worker, main

import torchgmm as tg
from torchgmm.errors import InputError
from torchgmm.fitting import Observer


class _Stamps(Observer):
    def __init__(self, clock: Clock, every: int) -> None:
        self.clock, self.every = clock, every

    def on_start(self, problem: Any, method: Any, n_init: int) -> None:
        self.clock.stamp()

    def on_step(self, event: Any) -> None:
        # the first looks at its numbers, the others are told of together
        if event.number == 1:
            self.clock.stamp()
        elif (event.number - 1) % self.every == 0:
            self.clock.stamp(self.every)


class Ours(Worker):
    """`torchgmm.fit` with the kernel named in the options."""

    packages = ("torchgmm", "torch")

    def steps(self, job: Job, x: np.ndarray, start: Start, clock: Clock) -> Any:
        tensors = [torch.from_numpy(a).to(job.device) for a in start]
        begin = tg.Parameters.from_covariances(*tensors, job.family)
        every = int(job.options.get("check_every", 1))
        method = tg.EM(
            max_iter=job.steps,
            reg_covar=job.reg_covar,
            kernel=job.options.get("kernel", "auto"),
            check_every=every,
            cuda_graph=job.options.get("cuda_graph", "auto"),
        )
        mixture = _mixture(job)
        result = tg.fit(
            mixture,
            _rows(job, x),
            method,
            init=begin,
            stop=tg.Tolerance(0),
            observers=[_Stamps(clock, every)],
        )
        return mixture, result

    def fit(self, job: Job, x: np.ndarray, seed: int) -> Any:
        method = tg.EM(max_iter=job.max_iter, reg_covar=job.reg_covar)
        mixture = _mixture(job)
        result = tg.fit(mixture, _rows(job, x), method, stop=tg.Tolerance(job.tol), generator=seed)
        return mixture, result

    def answer(self, job: Job, model: Any) -> Answer:
        mixture, result = model
        found = (mixture.weights, mixture.means, mixture.covariances)
        return Answer(*(t.detach().double().cpu().numpy() for t in found), result.n_steps)

    def note(self, model: Any) -> str:
        """The kernels that ran, in their order, each once."""
        ran = dict.fromkeys(step.kernel for step in model[1].history if step.kernel)
        return " then ".join(ran)


def _mixture(job: Job) -> tg.GaussianMixture:
    kernel = job.options.get("kernel", "auto")
    try:
        tg.EM(kernel=kernel)
    except InputError as error:
        raise UnsupportedError(str(error)) from error
    return tg.GaussianMixture(
        job.n_components,
        covariance=job.family,
        dtype=getattr(torch, job.dtype),
        device=job.device,
    )


def _rows(job: Job, x: np.ndarray) -> torch.Tensor:
    """On the device before the clock starts, unless the way there is what is measured."""
    rows = torch.from_numpy(x)
    return rows if job.options.get("rows") == "host" else rows.to(job.device)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Ours())
