"""A classifier of one mixture per class: all classes are fitted as one batch."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d
from torch import Tensor

from ..errors import ConvergenceWarning as OwnConvergenceWarning
from ..errors import InputError
from ..fitting import EM, OnlineEM, OnlineState, ShrunkEM, Tolerance, fit, shrunk
from ..mixture import GaussianMixture
from ..parameters import Parameters, filled_up
from .by_class import ByClass
from .online import after_fit, learn
from .rows import Rows, read_rows
from .settings import SHARED, unfitted

__all__ = ["GaussianMixtureClassifier"]

_NOT_CONVERGED = (
    "{} of {} classes did not converge: raise max_iter or tol, or look for degenerate rows."
)


class GaussianMixtureClassifier(ByClass, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Bayes' rule with a Gaussian mixture per class: `p(c | x)` by `prior_c p(x | c)`.

    With one full component per class it is quadratic discriminant analysis, with one diagonal
    component Gaussian naive Bayes. All classes are fitted in one call, as a batch of mixtures. A
    class with fewer rows than `n_components` gets as many components as it has rows.

    Args:
        n_components: K, of every class.
        covariance_type: `full`, `tied` (among the components of a class), `diag`, `spherical`, or
            another of `torchgmm.families()`.
        priors: probabilities of the classes `(C,)`, in the order of `classes_`; their shares of the
            rows if not given.
        shrinkage: how far covariances are drawn towards round ones at every M-step, 0 to 1;
            `auto` (Chen et al. 2010) goes by the number of rows. For few rows in many dimensions.
        tol: a class has converged when its mean log-likelihood per row changes by less, in nats.
        reg_covar: added to the diagonal of every covariance, in squared units of the data.
        max_iter: most EM steps.
        n_init: runs from different starts; of each class the best is kept.
        init_params: `kmeans`, `k-means++`, `random` or `random_from_data`.
        random_state: an int, a `RandomState` or None.
        device: where to compute; where the rows are if not given.
        batch_size: rows at a time, in answers and between two M-steps of `partial_fit`.

    Attributes:
        classes_: `(C,)` labels.
        class_prior_: `(C,)`.
        class_count_: `(C,)` rows (their weight) of every class.
        weights_: `(C, K)`, 0 where a class has fewer components.
        means_: `(C, K, D)`.
        covariances_: `(C, ...)` as in `GaussianMixture`.
        converged_: `(C,)` whether the fit of a class met `tol`.
        n_iter_: most steps of a class; after `partial_fit`, its calls.
        n_features_in_: D.
        feature_names_in_: of data frames.

    Example:
        >>> import numpy as np
        >>> from torchgmm.sklearn import GaussianMixtureClassifier
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(300, 2)) + 4 * np.repeat([[0, 0], [1, 0], [0, 1]], 100, axis=0)
        >>> y = np.repeat(["a", "b", "a"], 100)  # one class is in two places
        >>> model = GaussianMixtureClassifier(2, random_state=0).fit(X, y)
        >>> model.predict([[0, 0], [4, 0], [0, 4]])
        array(['a', 'b', 'a'], dtype='<U1')
        >>> model.score(X, y) > 0.95
        True
    """

    class_count_: np.ndarray

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own name and form
        **SHARED,
        "priors": ["array-like", None],
        "shrinkage": [Interval(Real, 0, 1, closed="both"), StrOptions({"auto"}), None],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        priors: Any = None,
        shrinkage: float | Literal["auto"] | None = None,
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
        self.priors = priors
        self.shrinkage = shrinkage
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.device = device
        self.batch_size = batch_size

    # fitting ------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows `(N, D)` of the classes `y (N,)`; `sample_weight (N,)` counts each row."""
        self._validate_params()
        rows = read_rows(self, X, reset=True, floats=True)
        labels = _labels(rows, y)
        weights = rows.weights(sample_weight)
        self.classes_, of = np.unique(labels, return_inverse=True)
        self.class_count_ = self._counted(of, weights)
        if not self.class_count_.all():
            lost = self.classes_[self.class_count_ == 0]
            raise InputError(f"all rows of the classes {lost[:5]} have weight 0: leave them out")
        self._set_priors()
        present = np.bincount(of, weights=None if weights is None else (weights > 0).cpu().numpy())
        mixture = self._unfitted(rows, present)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OwnConvergenceWarning)
            result = fit(
                mixture,
                rows.table,
                self._method(),
                weights=weights,
                groups=torch.from_numpy(of),
                init=self.init_params,
                n_init=self.n_init,
                stop=Tolerance(self.tol),
                generator=int(check_random_state(self.random_state).randint(2**31 - 1)),
            )
        steps = [one.n_steps for one in result]  # type: ignore[attr-defined]
        self.converged_ = np.array([one.converged for one in result])  # type: ignore[attr-defined]
        self.n_iter_ = max(steps)
        if not self.converged_.all() and self.max_iter > 0:
            left = int((~self.converged_).sum())
            text = _NOT_CONVERGED.format(left, len(steps))
            warnings.warn(text, ConvergenceWarning, stacklevel=2)
        found = result.parameters.to(device=torch.device("cpu"))
        self._hold([found[c] for c in range(len(steps))], rows)
        self._online: list[OnlineState | None] | None = None
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn from some more rows; the first call says which `classes` there are.

        With one component per class it is as if all rows had come at once; with several, each
        class learns by a pass of `OnlineEM`, which goes on where the last ended. A class has no
        mixture, and is never predicted, before `n_components` rows of it have come together.
        """
        self._validate_params()
        first = not self.__sklearn_is_fitted__()
        rows = read_rows(self, X, reset=first, floats=True)
        labels = _labels(rows, y)
        weights = rows.weights(sample_weight)
        if first:
            if classes is None:
                raise InputError("classes must be passed on the first call to partial_fit.")
            self.classes_ = np.unique(column_or_1d(classes))
            self.class_count_ = np.zeros(len(self.classes_))
            self._found = [None] * len(self.classes_)
            self._online, self.n_iter_ = [None] * len(self.classes_), 0
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise InputError(f"y holds {unknown[:5]}, which are none of the classes")
        of = np.searchsorted(self.classes_, labels)
        if self._online is None:
            self._online = self._states_of_fit(rows)
        for c in np.unique(of).tolist():
            self._learn(c, rows, weights, torch.from_numpy(np.flatnonzero(of == c)))
        self.class_count_ = self.class_count_ + self._counted(of, weights)
        self._set_priors()
        self.n_iter_ += 1
        self.converged_ = np.zeros(len(self.classes_), bool)
        found = [None if s is None else self._shrunk(s) for s in self._online]
        self._hold(found, rows)
        return self

    # inside -------------------------------------------------------------------------------------

    def _method(self) -> EM:
        if self.shrinkage is None:
            return EM(self.max_iter, reg_covar=self.reg_covar)
        return ShrunkEM(self.max_iter, reg_covar=self.reg_covar, shrinkage=self.shrinkage)

    def _unfitted(self, rows: Rows, present: np.ndarray) -> GaussianMixture:
        """A batch of one mixture per class, none with more components than it has rows."""
        mixture = unfitted(self, rows, (len(present),))
        with torch.no_grad():
            for c in np.flatnonzero(present < self.n_components).tolist():
                mixture.logits[c, max(1, int(present[c])) :] = -torch.inf
        return mixture

    def _counted(self, of: np.ndarray, weights: Tensor | None) -> np.ndarray:
        w = None if weights is None else weights.cpu().numpy()
        return np.bincount(of, weights=w, minlength=len(self.classes_)).astype(np.float64)

    def _set_priors(self) -> None:
        if self.priors is None:
            self.class_prior_ = self.class_count_ / self.class_count_.sum()
            return
        priors = np.asarray(self.priors, dtype=np.float64)
        if priors.shape != self.classes_.shape or (priors < 0).any():
            raise InputError(
                f"priors must be {len(self.classes_)} numbers, one per class, at least 0, got "
                f"{self.priors!r}"
            )
        if abs(priors.sum() - 1) > 1e-6:
            raise InputError(f"priors must sum to 1, got {priors.sum():g}")
        self.class_prior_ = priors

    # learning row by row ------------------------------------------------------------------------

    def _online_method(self) -> OnlineEM:
        settings: dict[str, Any] = {"batch_size": self.batch_size, "reg_covar": self.reg_covar}
        if self.n_components == 1:  # nothing is hidden: plain means of all rows so far
            settings |= {"exponent": 1.0, "offset": 1e-12, "average": "never"}
        return OnlineEM(1, **settings)

    def _learn(self, c: int, rows: Rows, weights: Tensor | None, index: Tensor) -> None:
        assert self._online is not None
        some = rows.some(index)
        w = None if weights is None else weights[index.to(weights.device)]
        if w is not None and not bool((w > 0).any()):
            return
        state, start = self._online[c], {}
        present = len(some) if w is None else int((w > 0).sum())
        if state is None:
            if present < self.n_components:
                return
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            start = {"init": self.init_params, "generator": seed}
        mixture = unfitted(self, rows)
        source = some.source(mixture.device, w)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OwnConvergenceWarning)
            self._online[c], _ = learn(mixture, source, self._online_method(), state, start)

    def _states_of_fit(self, rows: Rows) -> list[OnlineState | None]:
        """Where `partial_fit` goes on after `fit`, which it trusts by the number of its rows."""
        source, method = rows.source(torch.device("cpu")), self._online_method()
        states: list[OnlineState | None] = []
        for p, count in zip(self._found, self.class_count_.tolist(), strict=True):
            assert p is not None
            own = filled_up(p, self.n_components)
            states.append(after_fit(own, method, source, count, 1.0))
        return states

    def _shrunk(self, state: OnlineState) -> Parameters:
        p = state.parameters.to(device=torch.device("cpu"))
        if self.shrinkage is None:
            return p
        return shrunk(p, p.log_weights.exp() * state.rows_seen, self.shrinkage)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_") and any(p is not None for p in self._found)


def _labels(rows: Rows, y: Any) -> np.ndarray:
    """The classes of the rows, as scikit-learn checks them."""
    if y is None:
        raise InputError(
            "GaussianMixtureClassifier requires y to be passed, but the target y is None"
        )
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    labels = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
    check_consistent_length(rows.table, labels)
    check_classification_targets(labels)
    return np.asarray(labels)
