"""Rows as a mixture reads them: from any source, checked, on its device, in its arithmetic."""

from __future__ import annotations

from typing import Any

from .. import checks
from ..collective import current
from ..data import Checked, Source, as_source, spread
from ..errors import InputError
from .module import GaussianMixture

__all__ = ["check_replay", "rows_of"]


def rows_of(mixture: GaussianMixture, data: Any, weights: Any = None) -> Checked:
    """The rows of positive weight in `data`, in blocks, ready for this mixture's kernels.

    Of several processes each gets its share; sums over all rows are then `group.sum`.

    Args:
        mixture: one mixture, no batch of them.
        data: whatever `torchgmm.data.as_source` takes.
        weights: of the rows, as there.

    Raises:
        InputError: a batch of mixtures, rows of another width.
        NotSizedError: the mixture does not know its number of features.
    """
    mixture.require_size("a question about rows")
    if mixture.batch_shape:
        raise InputError(
            f"one mixture is needed, this is a batch of shape {tuple(mixture.batch_shape)}: "
            "take one of them"
        )
    source = spread(as_source(data, weights), current())
    checks.check_rows((1, source.n_features), mixture.n_features)
    dtype = checks.compute_dtype(source.dtype, mixture.dtype, mixture.device)
    return Checked(source, dtype, mixture.device)


def check_replay(source: Source, why: str) -> None:
    """Refuse rows that can be read only once.

    Raises:
        InputError: with what needs to read them again.
    """
    if not source.replayable:
        raise InputError(
            f"these rows can be read only once, but {why}: give something that can be read again, "
            "such as files or a function that makes the iterator"
        )
