"""The PyPI project `torchgmm`, another author's, in an environment where this project is not.

Its estimator takes no covariances or weights to start from. So the steps are made by its own
Lightning module and trainer as its `fit` makes them, on a model that was given the start. A step is
timed from one start of an epoch to the next; where it spends two epochs (passes over the rows) on
one EM step, both are counted.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch
from common import Answer, Clock, Job, Start, UnsupportedError, Worker, hook, main
from torchgmm.base.data import DataLoader, collate_tensor, dataset_from_tensors
from torchgmm.bayes import GaussianMixture
from torchgmm.bayes.core import cholesky_precision
from torchgmm.bayes.gmm.lightning_module import GaussianMixtureLightningModule
from torchgmm.bayes.gmm.model import GaussianMixtureModel, GaussianMixtureModelConfig

NAMES = {"full": "full", "diagonal": "diag", "tied": "tied", "spherical": "spherical"}


class PypiTorchgmm(Worker):
    """Defaults but for the start, the number of steps and the tolerance."""

    packages = ("torchgmm", "pytorch-lightning", "torch")

    def steps(self, job: Job, x: np.ndarray, start: Start, clock: Clock) -> Any:
        estimator = _estimator(job, job.steps, 0.0)
        family = NAMES[job.family]
        model = GaussianMixtureModel(
            GaussianMixtureModelConfig(
                num_components=job.n_components, num_features=x.shape[1], covariance_type=family
            )
        )
        weights, means, covariances = (torch.from_numpy(a).float() for a in start)
        model.component_probs.copy_(weights)
        model.means.copy_(means)
        model.precisions_cholesky.copy_(cholesky_precision(covariances, family))
        loader = DataLoader(
            dataset_from_tensors(torch.from_numpy(x)), batch_size=len(x), collate_fn=collate_tensor
        )
        # As in its `fit`: with one batch it takes the two-epoch form.
        two_epochs = estimator._num_batches_per_epoch(loader) == 1
        module = GaussianMixtureLightningModule(
            model,
            convergence_tolerance=0,
            covariance_regularization=job.reg_covar,
            is_batch_training=two_epochs,
        )
        epochs = Clock()
        hook(module, "on_train_epoch_start", epochs)
        per_step = 1 + int(two_epochs)
        trainer = estimator.trainer(max_epochs=job.steps * per_step, enable_progress_bar=False)
        trainer.fit(module, loader)
        epochs.stamp()
        taken = np.asarray(epochs.seconds).reshape(-1, per_step)
        clock.seconds = taken.sum(1).tolist()
        return model, len(taken)

    def fit(self, job: Job, x: np.ndarray, seed: int) -> Any:
        torch.manual_seed(seed)
        estimator = _estimator(job, job.max_iter, job.tol)
        estimator.fit(torch.from_numpy(x))
        return estimator.model_, estimator.num_iter_

    def answer(self, job: Job, model: Any) -> Answer:
        fitted, n_steps = model
        # In float64: its own `covariances` would invert once more in float32.
        factor = fitted.precisions_cholesky.double()
        if job.family in ("diagonal", "spherical"):
            covariances = factor.square().reciprocal()
        else:
            covariances = torch.linalg.inv(factor @ factor.mT)
        found = (fitted.component_probs, fitted.means, covariances)
        return Answer(*(t.detach().double().cpu().numpy() for t in found), n_steps)


def _estimator(job: Job, max_iter: int, tol: float) -> GaussianMixture:
    if job.dtype != "float32":
        raise UnsupportedError("float32 only: its float64 needs another trainer")
    return GaussianMixture(
        job.n_components,
        covariance_type=NAMES[job.family],
        convergence_tolerance=tol,
        covariance_regularization=job.reg_covar,
        trainer_params={
            "max_epochs": max_iter,
            "accelerator": "gpu" if job.gpu else "cpu",
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
        },
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    main(PypiTorchgmm())
