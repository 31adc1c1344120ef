"""`as_source`: the one door through which rows come in, whatever they are."""

from __future__ import annotations

import os
from typing import Any

from ..errors import InputError
from .arrays import ArraySource
from .base import Source
from .files import read_table
from .recipes import Recipe

__all__ = ["as_source"]


def as_source(data: Any, weights: Any = None) -> Source:
    """A source from a tensor, an array, a memory map, a path, a recipe or a source.

    Args:
        data: the rows.
        weights: one number per row, at least 0; for tables only.

    Raises:
        InputError: the data are no table of real numbers.

    Example:
        >>> import numpy as np
        >>> from torchgmm.data import as_source
        >>> source = as_source(np.zeros((5, 3)))
        >>> source.n_rows, source.n_features
        (5, 3)
    """
    if isinstance(data, Recipe):
        data = data.source()
    if isinstance(data, Source):
        if weights is not None:
            raise InputError("weights go into the source when data are a source already")
        return data
    if isinstance(data, (str, os.PathLike)):
        return ArraySource(read_table(data), weights)
    if data is None:
        raise InputError("no data were given")
    return ArraySource(data, weights)
