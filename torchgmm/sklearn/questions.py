"""What a fitted estimator is asked: scores, labels, memberships, samples, criteria."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..checks import compute_dtype
from ..covariance import as_family
from ..errors import InputError
from ..exact import exact
from ..mixture import GaussianMixture
from ..parameters import Parameters
from .attributes import parameters_of
from .rows import Rows, asked_rows, dtype_of, in_kind

__all__ = ["Questions"]

_Question = Callable[[GaussianMixture, Tensor], Tensor]


class Questions:
    """The methods of an estimator that has `weights_`, `means_` and `precisions_cholesky_`.

    The mixture is built from these attributes at every question: whoever sets them by hand, as
    code for scikit-learn does, is answered by what was set.
    """

    covariance_type: str
    random_state: Any
    device: Any
    batch_size: int | None
    weights_: Any
    means_: Any
    precisions_cholesky_: Any

    @property
    def mixture_(self) -> GaussianMixture:
        """The fitted mixture as torchgmm's module, a copy: to differentiate, save or compose."""
        check_is_fitted(self)
        place = self.means_.device if isinstance(self.means_, Tensor) else "cpu"
        return self._module(place)

    def score_samples(self, X: Any) -> Any:
        """Log-density of every row, `(N,)`, in nats."""
        return self._ask(asked_rows(self, X), GaussianMixture.log_prob)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-density of the rows, in nats."""
        return float(exact(self._answer(asked_rows(self, X), GaussianMixture.log_prob)).mean())

    def predict(self, X: Any) -> Any:
        """The likeliest component of every row, `(N,)`."""
        return self._ask(asked_rows(self, X), GaussianMixture.predict)

    def predict_proba(self, X: Any) -> Any:
        """Posterior probability of each component for every row, `(N, K)`."""
        return self._ask(asked_rows(self, X), GaussianMixture.responsibilities)

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Rows `(n_samples, D)` and their components `(n_samples,)`, component by component.

        Drawn with NumPy from `random_state`, in scikit-learn's order.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise InputError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one "
                "sample."
            )
        p = self._parameters().to(device=torch.device("cpu"))
        drawn = check_random_state(self.random_state)
        weights = p.log_weights.exp().numpy()
        counts = drawn.multinomial(n_samples, weights / weights.sum())
        rows = torch.from_numpy(np.vstack(_drawn_rows(p, counts, drawn)))
        labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        return in_kind(rows, self.means_), in_kind(labels, self.means_)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion of the rows; lower is better."""
        return self._deviance(X) + self._n_parameters() * math.log(len(X))

    def aic(self, X: Any) -> float:
        """Akaike's information criterion of the rows; lower is better."""
        return self._deviance(X) + 2 * self._n_parameters()

    # inside -------------------------------------------------------------------------------------

    def _deviance(self, X: Any) -> float:
        rows = asked_rows(self, X)
        return -2 * float(exact(self._answer(rows, GaussianMixture.log_prob)).sum())

    def _n_parameters(self) -> int:
        return self.mixture_.n_parameters

    def _parameters(self) -> Parameters:
        family = as_family(self.covariance_type)
        return parameters_of(self.weights_, self.means_, self.precisions_cholesky_, family)

    def _module(self, place: torch.device | str) -> GaussianMixture:
        """The mixture on the estimator's device or, where it names none, at `place`."""
        wanted = torch.device(place if self.device is None else self.device)
        dtype = compute_dtype(dtype_of(self.means_), torch.float32, wanted)
        return GaussianMixture.from_parameters(self._parameters().to(dtype, wanted))

    def _ask(self, rows: Rows, question: _Question) -> Any:
        return in_kind(self._answer(rows, question), rows.table)

    @torch.no_grad()
    def _answer(self, rows: Rows, question: _Question) -> Tensor:
        """The answer for all rows, on their device; they are seen a block at a time."""
        mixture = self._module(rows.device)
        blocks = rows.source(mixture.device, batch_size=self.batch_size).blocks()
        return torch.cat([question(mixture, block.x).to(rows.device) for block in blocks])


def _drawn_rows(p: Parameters, counts: np.ndarray, drawn: Any) -> list[np.ndarray]:
    k, d = p.means.shape
    means = p.means.numpy()
    if p.family.n_axes == 2:
        factor = p.family.factor(p.scale)
        dense = (factor @ factor.mT).expand(k, d, d).numpy()
        return [drawn.multivariate_normal(means[j], dense[j], counts[j]) for j in range(k)]
    spread = p.family.factor(p.scale).expand(k, d).numpy()
    return [means[j] + drawn.standard_normal((counts[j], d)) * spread[j] for j in range(k)]
