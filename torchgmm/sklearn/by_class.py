"""What a classifier that holds a mixture of every class is asked: Bayes' rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..checks import compute_dtype
from ..mixture import GaussianMixture
from ..parameters import Parameters, filled_up, stacked, without_absent
from .attributes import attributes_of
from .rows import Rows, asked_rows, in_kind

__all__ = ["ByClass"]

_SHOWN = ("weights_", "means_", "covariances_")


class ByClass:
    """The methods of an estimator that holds a mixture of every class it has seen rows of."""

    device: Any
    batch_size: int | None
    classes_: np.ndarray
    class_prior_: np.ndarray
    _found: list[Parameters | None]
    _dtype: torch.dtype

    @property
    def mixture_(self) -> GaussianMixture:
        """The mixtures of all classes as one module with `batch_shape=(C,)`, a copy."""
        check_is_fitted(self)
        known = next(p for p in self._found if p is not None)
        most = max(p.n_components for p in self._found if p is not None)
        each = [filled_up(known if p is None else p, most) for p in self._found]
        return GaussianMixture.from_parameters(stacked(each), dtype=self._dtype)

    def predict_joint_log_proba(self, X: Any) -> Any:
        """`log prior_c + log p(x | c)`, `(N, C)`, in nats."""
        rows = asked_rows(self, X)
        return in_kind(self._joint(rows), rows.table)

    def predict_log_proba(self, X: Any) -> Any:
        """Log-probabilities of the classes, `(N, C)`."""
        rows = asked_rows(self, X)
        return in_kind(self._joint(rows).log_softmax(-1), rows.table)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, `(N, C)`."""
        rows = asked_rows(self, X)
        return in_kind(self._joint(rows).softmax(-1), rows.table)

    def predict(self, X: Any) -> Any:
        """The likeliest class of every row, `(N,)`."""
        rows = asked_rows(self, X)
        labels = self.classes_[self._joint(rows).argmax(-1).cpu().numpy()]
        if isinstance(rows.table, Tensor) and labels.dtype.kind in "iufb":
            return torch.from_numpy(labels).to(rows.device)
        return labels

    def score_samples(self, X: Any) -> Any:
        """Log-density of every row whatever its class, `(N,)`, in nats."""
        rows = asked_rows(self, X)
        return in_kind(self._joint(rows).logsumexp(-1), rows.table)

    # inside -------------------------------------------------------------------------------------

    def _hold(self, found: list[Parameters | None], rows: Rows) -> None:
        """Keep the parameters, and show them as attributes of the kind that the rows are."""
        self._found = [None if p is None else without_absent(p) for p in found]
        self._dtype = rows.dtype
        if all(p is None for p in found):
            return
        held = self.mixture_.as_parameters(torch.float64).map(Tensor.detach)
        for name, value in attributes_of(held).items():
            if name in _SHOWN:
                setattr(self, name, in_kind(value.to(rows.dtype), rows.table))

    @torch.no_grad()
    def _joint(self, rows: Rows) -> Tensor:
        """`log prior + log p(x | c)` of all rows `(N, C)`, on their device."""
        place = rows.device if self.device is None else torch.device(self.device)
        held = self.mixture_.as_parameters().map(Tensor.detach)
        dtype = compute_dtype(self._dtype, torch.float32, place)
        mixture = GaussianMixture.from_parameters(held.to(dtype, place))
        prior = torch.from_numpy(self.class_prior_).log()
        unknown = torch.tensor([p is None for p in self._found])
        prior = prior.masked_fill(unknown, -torch.inf).to(place, mixture.dtype)
        blocks = rows.source(place, batch_size=self.batch_size).blocks()
        answers = [(mixture.log_prob(b.x).mT + prior).to(rows.device) for b in blocks]
        return torch.cat(answers)
