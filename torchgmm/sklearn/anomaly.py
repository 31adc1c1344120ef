"""`AnomalyDetector`: rows that a mixture finds unlikely, and which features make them so."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from torch import Tensor

from .. import checks
from .. import mixture as modules
from ..density import surprise
from ..errors import InputError
from .estimator import GaussianMixture
from .rows import Rows, asked_rows, dtype_of, in_kind, read_rows
from .settings import SHARED

__all__ = ["AnomalyDetector"]

# Rows that say what surprise is usual: its median over so many is known to a few hundredths.
_USUAL = 4096


class AnomalyDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Outlier detection by the density of a Gaussian mixture.

    A row is an anomaly when its log-density is below a threshold: the quantile `contamination` of
    the rows it was fitted to or, with `held_out`, of rows that were kept from the fit. The mixture
    knows its own rows too well: only the second keeps its promise on new rows when components are
    many or rows few.

    Args:
        n_components: K of the mixture.
        covariance_type: as in `GaussianMixture`.
        contamination: share of the rows below the threshold, above 0 and at most 0.5.
        held_out: share of the rows that are not fitted but set the threshold; 0 for none.
        tol: as in `GaussianMixture`.
        reg_covar: as there.
        max_iter: as there.
        n_init: as there.
        init_params: as there.
        random_state: for the rows held out and for the start.
        device: as in `GaussianMixture`.
        batch_size: as there.

    Attributes:
        estimator_: the fitted `GaussianMixture`.
        n_iter_: its steps.
        offset_: the threshold, nats; `decision_function` is `score_samples` less this.
        usual_surprise_: what is usual of every feature, `(D,)`; see `explain`.
        n_features_in_: D.
        feature_names_in_: of data frames.

    Example:
        >>> import numpy as np
        >>> from torchgmm.sklearn import AnomalyDetector
        >>> X = np.random.default_rng(0).normal(size=(500, 2))
        >>> detector = AnomalyDetector(contamination=0.01, random_state=0).fit(X)
        >>> detector.predict([[0.0, 0.0], [0.0, 8.0]])
        array([ 1, -1])
        >>> detector.explain([[0.0, 8.0]]).argmax()  # the second feature
        np.int64(1)
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own name and form
        **SHARED,
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "held_out": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        contamination: float = 0.1,
        held_out: float = 0.0,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        random_state: Any = None,
        device: Any = None,
        batch_size: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.contamination = contamination
        self.held_out = held_out
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.device = device
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture to rows `(N, D)` and set the threshold."""
        self._validate_params()
        rows = read_rows(self, X, reset=True, least=2, floats=True)
        w = torch.ones(len(rows), dtype=torch.float64)
        if sample_weight is not None:
            w = checks.check_weights(sample_weight, len(rows)).cpu()
        drawn = check_random_state(self.random_state)
        known, judged = self._cut(len(rows), drawn)
        shared = {name: getattr(self, name) for name in SHARED if name != "random_state"}
        own = GaussianMixture(**shared, random_state=drawn)
        weights = None if sample_weight is None else w[known]
        self.estimator_ = own.fit(rows.some(known).table, sample_weight=weights)
        self.n_iter_ = own.n_iter_
        levels = own._answer(rows.some(judged), modules.GaussianMixture.log_prob)
        self.offset_ = _quantile(levels.cpu().double(), w[judged], self.contamination)
        present = known[w[known] > 0]
        few = present[:: max(1, len(present) // _USUAL)]
        usual = self._surprise(rows.some(few)).median(0).values
        self.usual_surprise_ = in_kind(usual, rows.table)
        return self

    def score_samples(self, X: Any) -> Any:
        """Log-density of every row, `(N,)`, in nats."""
        rows = asked_rows(self, X)
        return in_kind(self._levels(rows), rows.table)

    def decision_function(self, X: Any) -> Any:
        """Log-density less the threshold, `(N,)`: below 0 is an anomaly."""
        rows = asked_rows(self, X)
        return in_kind(self._levels(rows) - self.offset_, rows.table)

    def mahalanobis(self, X: Any) -> Any:
        """Squared Mahalanobis distance to the likeliest component of every row, `(N,)`.

        For one component this is the method of scikit-learn's `EllipticEnvelope`.
        """
        rows = asked_rows(self, X)
        return in_kind(self.estimator_._answer(rows, _distance), rows.table)

    def predict(self, X: Any) -> Any:
        """1 for rows like those of the fit, -1 for anomalies, `(N,)`."""
        rows = asked_rows(self, X)
        above = self._levels(rows) - self.offset_ >= 0
        return in_kind(torch.where(above, 1, -1), rows.table)

    def explain(self, X: Any) -> Any:
        """How much each feature makes a row unlikely, `(N, D)`, in nats.

        The surprise of a feature is `-log p(x_d | all other features)`; here it stands less what is
        usual of that feature (its median over rows of the fit), so that features in any unit
        compare. A value of 5 says: given the rest of the row, this entry has a density e^5 times
        lower than such entries commonly have. Entries that break a correlation show, even where
        each alone is common; then all features of that correlation do.
        """
        rows = asked_rows(self, X)
        usual = torch.as_tensor(self.usual_surprise_, dtype=torch.float64)
        explained = self._surprise(rows) - usual.to(rows.device)
        return in_kind(explained, rows.table, _float_kind(rows))

    # inside -------------------------------------------------------------------------------------

    def _levels(self, rows: Rows) -> Tensor:
        levels: Tensor = self.estimator_._answer(rows, modules.GaussianMixture.log_prob)
        return levels

    def _surprise(self, rows: Rows) -> Tensor:
        """`-log p(x_d | rest)`, `(N, D)`, float64, on the device of the rows."""
        answer: Tensor = self.estimator_._answer(rows, lambda m, x: surprise(m, x.double()))
        return answer

    def _cut(self, n_rows: int, drawn: Any) -> tuple[Tensor, Tensor]:
        """Numbers of the rows to fit, and of those that set the threshold."""
        if not self.held_out:
            every = torch.arange(n_rows)
            return every, every
        out = math.ceil(self.held_out * n_rows)
        if n_rows - out < max(2, self.n_components):
            raise InputError(
                f"held_out={self.held_out} of {n_rows} rows leaves {n_rows - out} for "
                f"{self.n_components} component(s): give more rows or hold out fewer"
            )
        order = torch.from_numpy(drawn.permutation(n_rows))
        return order[out:].sort().values, order[:out].sort().values

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "offset_")


def _distance(mixture: modules.GaussianMixture, x: Tensor) -> Tensor:
    return mixture.mahalanobis(x).gather(-1, mixture.predict(x).unsqueeze(-1)).squeeze(-1)


def _quantile(values: Tensor, weights: Tensor, share: float) -> float:
    """The largest value with at most this share of the weight below it."""
    order = values.argsort()
    below = weights[order].cumsum(0)
    # rounding of the sums must not move the place
    place = int((below <= share * float(below[-1]) * (1 + 1e-12)).sum())
    return float(values[order[min(place, len(order) - 1)]])


def _float_kind(rows: Rows) -> Any:
    """float32 rows are explained in float32, all others in float64."""
    wanted = torch.float32 if dtype_of(rows.table) == torch.float32 else torch.float64
    return wanted if isinstance(rows.table, Tensor) else str(wanted).removeprefix("torch.")
