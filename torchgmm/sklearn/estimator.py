"""`GaussianMixture` as scikit-learn's estimator: its names, its habits, torchgmm's fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from torch import Tensor

from .. import mixture as modules
from ..collective import alone
from ..covariance import as_family
from ..errors import ConvergenceWarning as OwnConvergenceWarning
from ..errors import InputError, SingularCovarianceError
from ..exact import exact_device
from ..fitting import EM, OnlineEM, OnlineState, Rescue, fit
from ..parameters import Parameters
from ..seeding import as_seeding
from .attributes import attributes_of
from .course import Since, Verbose
from .online import after_fit, learn
from .questions import Questions
from .rows import Rows, in_kind, read_rows
from .settings import AT_LEAST_ONE, SHARED, unfitted
from .start import AsScikitLearn, Given, check_given

__all__ = ["GaussianMixture"]

_ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical "
    "covariance (for instance caused by singleton or collapsed samples). Try to decrease the "
    "number of components, increase reg_covar, or scale the input data."
)
_NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase "
    "max_iter, tol, or check for degenerate data."
)
# scikit-learn lets empty and collapsed components be; other defaults would be another estimator
_AS_IS = Rescue(empty="keep", collapsed="keep")


class GaussianMixture(Questions, DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Gaussian mixture: a drop-in for `sklearn.mixture.GaussianMixture`.

    The same parameters with the same defaults, the same attributes, methods and answers: from
    equal `random_state` on the CPU it takes the same start and the same steps. Rows may be arrays,
    data frames or tensors; answers, and the attributes of the fit, are arrays of that kind, on the
    same device. An estimator is fitted by one process, in a job of several too. Rows are read in
    chunks: memory never grows with rows x components, but for the
    answer of `predict_proba`.

    Args:
        n_components: K.
        covariance_type: `full`, `tied`, `diag`, `spherical`, or another of
            `torchgmm.families()`.
        tol: the fit has converged when the mean log-likelihood per row changes by less, in nats.
        reg_covar: added to the diagonal of every covariance, in squared units of the data.
        max_iter: most EM steps of a run.
        n_init: runs from different starts; the one of highest likelihood is kept.
        init_params: `kmeans`, `k-means++`, `random` or `random_from_data`.
        weights_init: first weights `(K,)`.
        means_init: first means `(K, D)`.
        precisions_init: first inverse covariances, shaped as `covariances_`.
        random_state: an int, a `RandomState` or None, for the start and for `sample`.
        warm_start: go on from the last fit.
        verbose: 1 prints the course of the fit, 2 with times.
        verbose_interval: steps between two printed lines.
        device: where to compute; where the rows are if not given. Off the CPU the start is drawn
            by torchgmm's own seeding on that device.
        batch_size: rows read at a time, and between two M-steps of `partial_fit`.

    Attributes:
        weights_: `(K,)`.
        means_: `(K, D)`.
        covariances_: `(K, D, D)` full and common_axes, `(D, D)` tied, `(K, D)` diag, `(K,)`
            spherical, `(D,)` tied_diagonal, `()` tied_spherical.
        precisions_: their inverses.
        precisions_cholesky_: upper triangular factors of these, or their roots.
        converged_: whether the best run met `tol`.
        n_iter_: its steps.
        lower_bound_: its mean log-likelihood per row at the last E-step, nats.
        lower_bounds_: the same at every step.
        n_features_in_: D.
        feature_names_in_: of data frames.

    Example:
        >>> import numpy as np
        >>> from torchgmm.sklearn import GaussianMixture
        >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
        >>> gm.means_.round(6)
        array([[10.,  2.],
               [ 1.,  2.]])
        >>> gm.predict([[0, 0], [12, 3]])
        array([1, 0])
    """

    lower_bound_: float
    lower_bounds_: list[float]
    _online: OnlineState | None

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own name and form
        **SHARED,
        "weights_init": ["array-like", Tensor, None],
        "means_init": ["array-like", Tensor, None],
        "precisions_init": ["array-like", Tensor, Real, None],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [AT_LEAST_ONE],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        device: Any = None,
        batch_size: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.device = device
        self.batch_size = batch_size

    # fitting ------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to rows `(N, D)`; `sample_weight (N,)` counts each of them so many times."""
        self._fit(X, sample_weight)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """`fit`, then the likeliest component of every row, `(N,)`."""
        return self._ask(self._fit(X, sample_weight), modules.GaussianMixture.predict)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn from some more rows: a pass of `OnlineEM`, which goes on where the last ended.

        The first call draws the start from its rows, so it needs at least K of them, better some
        dozens per component. After `fit` it goes on from there, and trusts the fit by the number
        of its rows. `lower_bound_` is then that of the rows before the call learnt from them, and
        `n_iter_` counts the calls.
        """
        self._validate_params()
        first = not self.__sklearn_is_fitted__()
        rows = read_rows(self, X, reset=first, floats=True)
        weights = rows.weights(sample_weight)
        mixture = unfitted(self, rows) if first else self.mixture_
        source = rows.source(mixture.device, weights)
        method = OnlineEM(1, batch_size=self.batch_size, reg_covar=self.reg_covar)
        state, start = getattr(self, "_online", None), {}
        if first:
            start = self._start(rows, weights, mixture.device)
        elif state is None:
            found = self._parameters().to(device=exact_device(mixture.device))
            state = after_fit(found, method, source, *getattr(self, "_seen", (0.0, 0.0)))
        with _in_their_words():
            state, result = learn(mixture, source, method, state, start)
        self._online = state
        self.converged_ = False
        self.n_iter_ = state.step
        self.lower_bound_ = result.log_likelihood
        earlier = [] if first else getattr(self, "lower_bounds_", [])
        self.lower_bounds_ = [*earlier, self.lower_bound_]
        self._hold(state.parameters, rows.table if first else self.means_)
        return self

    def _fit(self, X: Any, sample_weight: Any) -> Rows:
        self._validate_params()
        rows = read_rows(self, X, reset=True, least=2, floats=True)
        weights = rows.weights(sample_weight)
        mixture = unfitted(self, rows)
        warm = self.warm_start and hasattr(self, "converged_")
        before = getattr(self, "lower_bound_", -math.inf) if warm else -math.inf
        if warm:
            start: dict[str, Any] = {"init": as_seeding(self._parameters()), "generator": 0}
        else:
            start = self._start(rows, weights, mixture.device)
            start["n_init"] = 1 if start["init"].complete else self.n_init
        with _in_their_words(), alone():
            result = fit(
                mixture,
                rows.source(mixture.device, weights, self.batch_size),
                EM(self.max_iter, reg_covar=self.reg_covar, rescue=_AS_IS),
                stop=Since(self.tol, before=before),
                observers=self._observers(),
                **start,
            )
        if not result.converged and self.max_iter > 0:
            warnings.warn(_NOT_CONVERGED, ConvergenceWarning, stacklevel=3)
        self.converged_ = result.converged
        self.n_iter_ = result.n_steps
        self.lower_bounds_ = [step.log_likelihood for step in result.history]
        self.lower_bound_ = self.lower_bounds_[-1] if result.history else -math.inf
        self._hold(result.parameters, rows.table)
        self._online, self._seen = None, _counted(weights, rows)
        return rows

    # inside -------------------------------------------------------------------------------------

    def _start(self, rows: Rows, weights: Tensor | None, device: torch.device) -> dict[str, Any]:
        """`init` and `generator` for `fit`."""
        present = len(rows) if weights is None else int((weights > 0).sum())
        if present < self.n_components:
            raise InputError(
                "Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {present}"
            )
        given = check_given(self, as_family(self.covariance_type), rows.n_features)
        random_state = check_random_state(self.random_state)
        table = rows.on_host() if device.type == "cpu" else None
        if table is None:
            drawn, seed = as_seeding(self.init_params), int(random_state.randint(2**31 - 1))
        else:
            w = None if weights is None else weights.cpu().numpy()
            drawn, seed = AsScikitLearn(self.init_params, random_state, table, w), 0
        return {"init": Given(drawn, *given), "generator": seed}

    def _observers(self) -> list[Verbose]:
        printed = Verbose(int(self.verbose), self.verbose_interval, self.tol)
        return [printed] if self.verbose else []

    def _hold(self, parameters: Parameters, like: Any) -> None:
        """Keep the parameters as attributes, of the kind and dtype of `like`."""
        for name, value in attributes_of(parameters).items():
            setattr(self, name, in_kind(value, like, like.dtype))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "means_")


def _counted(weights: Tensor | None, rows: Rows) -> tuple[float, float]:
    """How many rows count, and what one weighs on average."""
    if weights is None:
        return float(len(rows)), 1.0
    present = float((weights > 0).sum())
    return present, float(weights.sum()) / present


@contextmanager
def _in_their_words() -> Iterator[None]:
    """The fit speaks to the estimator, not to its user: errors get scikit-learn's text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OwnConvergenceWarning)
        try:
            yield
        except SingularCovarianceError as error:
            raise InputError(f"{_ILL_DEFINED} ({error})") from error
