"""Rows as users of scikit-learn hand them in, and answers of the same kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .. import checks
from ..data import ArraySource, arrays

__all__ = ["Rows", "asked_rows", "dtype_of", "in_kind", "read_rows"]

_FLOATS = (np.float64, np.float32)


@dataclass(frozen=True)
class Rows:
    """Checked rows `(N, D)`: an array, or a tensor where the user gave one."""

    table: np.ndarray | Tensor

    def __len__(self) -> int:
        return int(self.table.shape[0])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.table.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return dtype_of(self.table)

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.table.device if isinstance(self.table, Tensor) else torch.device("cpu")

    def source(
        self, device: torch.device, weights: Tensor | None = None, batch_size: int | None = None
    ) -> ArraySource:
        """The rows as a mixture on `device` reads them, `batch_size` at a time.

        Those in memory go there a block at a time; only from one accelerator to another device
        they go as a whole.
        """
        table = self.table
        if isinstance(table, Tensor) and table.device.type != "cpu":
            table = table.to(device)
        return ArraySource(table, weights, block_rows=batch_size)

    def some(self, index: Tensor) -> Rows:
        """The rows with these numbers, ascending; all of them are no copy."""
        if len(index) == len(self):
            return self
        if isinstance(self.table, Tensor):
            return Rows(self.table[index.to(self.device)])
        return Rows(self.table[index.numpy()])

    def weights(self, sample_weight: Any) -> Tensor | None:
        """What the rows weigh, `(N,)`, as a user says it, checked."""
        return None if sample_weight is None else checks.check_weights(sample_weight, len(self))

    def on_host(self) -> np.ndarray | None:
        """The rows as NumPy has them, without a copy; None where they are on an accelerator."""
        if isinstance(self.table, np.ndarray):
            return self.table
        return self.table.numpy() if self.table.device.type == "cpu" else None


def in_kind(answer: Tensor, like: Any, dtype: Any = None) -> Any:
    """An answer as the kind of array that `like` is, on its device; in its own dtype or `dtype`."""
    if isinstance(like, Tensor):
        return answer.to(like.device, dtype)
    array = answer.cpu().numpy()
    return array if dtype is None else array.astype(dtype, copy=False)


def dtype_of(values: Any) -> torch.dtype:
    """The dtype that torch gives an array, or has given a tensor."""
    return arrays.as_tensor(arrays.as_table(values)[:0]).dtype


def read_rows(estimator: Any, X: Any, *, reset: bool, least: int = 1, floats: bool = False) -> Rows:
    """Check `X` as scikit-learn checks it; sets or compares the estimator's feature names.

    Args:
        estimator: that is asked.
        X: a tensor, an array, a data frame, nested lists.
        reset: these rows are for a fit: the number and the names of features are learnt.
        least: fewest rows.
        floats: rows that are not float32 or float64 become so, as for every fit.

    Raises:
        ValueError: no table of finite numbers, or not the features of the fit.
    """
    if not isinstance(X, Tensor):
        dtype: Any = list(_FLOATS) if floats else "numeric"
        table = validate_data(estimator, X, reset=reset, dtype=dtype, ensure_min_samples=least)
        return Rows(table)
    x = X.detach()
    checks.check_rows(tuple(x.shape), None)
    # shape and features are judged by scikit-learn on rows that take no memory, the entries here
    shown = np.broadcast_to(np.float64(0), tuple(x.shape))
    validate_data(estimator, shown, reset=reset, ensure_min_samples=least, ensure_all_finite=False)
    if floats and x.dtype not in (torch.float32, torch.float64):
        checks.compute_dtype(x.dtype, torch.float32)  # refuses complex rows
        x = x.to(torch.float32 if x.dtype.is_floating_point else torch.float64)
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float64
    checks.check_finite(x, dtype)
    return Rows(x)


def asked_rows(estimator: Any, X: Any) -> Rows:
    """Rows about which a fitted estimator is asked; one that is not fitted is refused."""
    check_is_fitted(estimator)
    return read_rows(estimator, X, reset=False)
