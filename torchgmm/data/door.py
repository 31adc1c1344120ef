"""`as_source`: the one door through which rows come in, whatever they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ..errors import InputError
from .arrays import ArraySource
from .base import Source
from .block import Block
from .datasets import DatasetSource
from .encoder import Encoded
from .loaders import Key, LoaderSource
from .recipes import Recipe
from .shards import open_files

__all__ = ["as_source"]


def as_source(
    data: Any,
    weights: Any = None,
    *,
    columns: Sequence[str] | Sequence[int] | None = None,
    name: str | None = None,
    key: Key = None,
    encoder: nn.Module | Callable[[Tensor], Tensor] | None = None,
) -> Source:
    """A source of rows from whatever holds them.

    | data | read |
    |---|---|
    | tensor, array, memory map, nested lists | in place |
    | path, list of paths, pattern with `*`, folder | in blocks: `ShardSource` |
    | torch `Dataset`, Hugging Face data set | by number: `DatasetSource` |
    | `DataLoader`, `IterableDataset`, any iterable of batches | in its order: `LoaderSource` |
    | function that makes an iterator of batches | the same |
    | iterator of batches | the same, once: for online methods only |
    | recipe, source | as it is |

    Small files of text or compressed arrays are read once and kept.

    Args:
        data: the rows. A batch is a tensor or array `(n, D)`, a tuple that begins with it, or a
            dict.
        weights: row weights, at least 0: one number per row; for files also a column, by name or
            number, or files of their own; for batches the place in the tuple or the key.
        columns: of files, the names or numbers of the features; of dicts, the same as `key`.
        name: which array of `.npz` and `.safetensors` files.
        key: where the rows are in a batch that is a tuple or a dict.
        encoder: maps a batch of anything `(n, ...)` to latent rows `(n, D)`, which are then the
            data; a module runs without gradients, in eval mode and on its device.

    Raises:
        InputError: the data are no rows of real numbers, or an argument does not belong to them.

    Example:
        >>> import numpy as np
        >>> from torchgmm.data import as_source
        >>> source = as_source(np.zeros((5, 3)))
        >>> source.n_rows, source.n_features
        (5, 3)
    """
    if data is None:
        raise InputError("no data were given")
    if isinstance(data, Recipe):
        data = data.source()
    options = {"columns": columns, "name": name, "key": key}
    kind, allowed = _kind(data)
    for option, value in options.items():
        if value is not None and option not in allowed:
            raise InputError(f"{option}= does not belong to data of type {type(data).__name__}")
    source = kind(data, weights, options, encoder is not None)
    return source if encoder is None else Encoded(source, encoder)


_TABLES = ("__array__", "toarray")  # of what is a table, scipy's sparse ones included

_Opener = Callable[[Any, Any, Mapping[str, Any], bool], Source]


def _kind(data: Any) -> tuple[_Opener, tuple[str, ...]]:
    """How such data are opened, and which options they know."""
    if isinstance(data, Source):
        return _source, ()
    if isinstance(data, (str, os.PathLike)) or _is_list_of(data, (str, os.PathLike)):
        return _files, ("columns", "name")
    if isinstance(data, TensorDataset):
        return _tensors, ("key",)
    if isinstance(data, (Tensor, np.ndarray)) or any(hasattr(data, f) for f in _TABLES):
        return _array, ()
    by_number = hasattr(data, "with_format") and hasattr(data, "__len__")
    if by_number or (isinstance(data, Dataset) and not isinstance(data, IterableDataset)):
        return _dataset, ("columns", "key")
    if isinstance(data, (list, tuple)) and not _is_list_of(data, (Block, Mapping)):
        return (_batches, ("key",)) if _begins_with_a_batch(data) else (_array, ())
    if isinstance(data, (nn.Module, Mapping, Set)):
        return _nothing, ("columns", "name", "key")
    if isinstance(data, (DataLoader, Iterable)) or callable(data) or hasattr(data, "with_format"):
        return _batches, ("columns", "key")
    return _array, ()


def _source(data: Source, weights: Any, options: Mapping[str, Any], encoded: bool) -> Source:
    if weights is not None:
        raise InputError("weights go into the source when data are a source already")
    return data


def _array(data: Any, weights: Any, options: Mapping[str, Any], encoded: bool) -> Source:
    return ArraySource(data, weights, rows_of_any_shape=encoded)


def _tensors(data: Any, weights: Any, options: Mapping[str, Any], encoded: bool) -> Source:
    tensors = data.tensors
    for place in (options["key"], weights):
        if isinstance(place, int) and not -len(tensors) <= place < len(tensors):
            raise InputError(f"the data set has {len(tensors)} tensors; there is no {place}")
    w = tensors[weights] if isinstance(weights, int) else weights
    return _array(tensors[options["key"] or 0], w, options, encoded)


def _files(data: Any, weights: Any, options: Mapping[str, Any], encoded: bool) -> Source:
    return open_files(
        data,
        weights,
        columns=options["columns"],
        name=options["name"],
        rows_of_any_shape=encoded,
    )


def _dataset(data: Any, weights: Any, options: Mapping[str, Any], encoded: bool) -> Source:
    return DatasetSource(data, weights, key=_key(options), rows_of_any_shape=encoded)


def _batches(data: Any, weights: Any, options: Mapping[str, Any], encoded: bool) -> Source:
    if weights is not None and not isinstance(weights, (str, int)):
        raise InputError(
            "the weights of batches come with them: weights= is their place in the tuple, or "
            f"their key in the dict, got {type(weights).__name__}"
        )
    return LoaderSource(data, weights, key=_key(options), rows_of_any_shape=encoded)


def _nothing(data: Any, weights: Any, options: Mapping[str, Any], encoded: bool) -> Source:
    hint = "give one table, or a list of batches that are dicts"
    if isinstance(data, nn.Module):
        hint = "a network is an encoder: as_source(images, encoder=network)"
    raise InputError(f"a {type(data).__name__} holds no rows: {hint}")


def _key(options: Mapping[str, Any]) -> Any:
    return options["columns"] if options["key"] is None else options["key"]


def _begins_with_a_batch(data: Sequence[Any]) -> bool:
    """Whether the first entry is a table, or a tuple that begins with one."""
    first = data[0] if len(data) else None
    if isinstance(first, (tuple, list)) and first:
        first = first[0]
    return isinstance(first, (Tensor, np.ndarray)) and first.ndim > 1


def _is_list_of(data: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(data, (list, tuple)) and len(data) > 0 and isinstance(data[0], kinds)
