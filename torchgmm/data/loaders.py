"""Rows from things that are iterated: a DataLoader, an IterableDataset, a generator, a function."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from .. import checks
from ..collective import current
from ..errors import InputError
from .arrays import as_table, as_tensor
from .base import Source
from .block import Block, join
from .passes import sample_indices

__all__ = ["Key", "LoaderSource", "Unpack", "loading"]

Key = str | int | Sequence[str] | None
_END = object()
_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_Maker = Callable[[], Iterator[Any]]

# Small batches are joined until they are worth a call of a kernel.
_ROWS = 8192
_BYTES = 4 * 2**20
# items of an IterableDataset that are collated at a time, at most
_ITEMS = 1024
_AGAIN = (
    " this time, though it did before: if it wraps an iterator, let it make a new one for every "
    "pass"
)


@dataclass(frozen=True)
class Unpack:
    """Finds rows and weights in a batch: a tensor, an array, `(x, ...)`, a dict or a `Block`.

    Args:
        key: place in a tuple (0 if not given), key of a dict, or several keys of which each is
            a feature or some of them.
        weights: place or key of the row weights.
    """

    key: Key = None
    weights: str | int | None = None

    def __call__(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Rows of any shape `(n, ...)` and weights `(n,)`."""
        if isinstance(batch, Block):
            return batch.x, batch.w
        if isinstance(batch, Mapping):
            x, w = self._named(batch)
        elif isinstance(batch, (tuple, list)) and batch and _is_array(batch[0]):
            x, w = self._placed(batch)
        elif isinstance(batch, str) or batch is None:
            raise InputError(f"a batch is {type(batch).__name__}, not rows")
        else:
            x, w = batch, None
        rows = as_tensor(as_table(x))
        return rows, None if w is None else torch.as_tensor(w).detach().reshape(-1)

    def _placed(self, batch: Sequence[Any]) -> tuple[Any, Any]:
        places = [0 if self.key is None else self.key]
        places += [] if self.weights is None else [self.weights]
        for place in places:
            if not isinstance(place, int) or not -len(batch) <= place < len(batch):
                raise InputError(f"a batch has {len(batch)} parts; there is no part {place!r}")
        found = [batch[cast(int, place)] for place in places]
        return found[0], found[1] if len(found) > 1 else None

    def _named(self, batch: Mapping[Any, Any]) -> tuple[Any, Any]:
        w = None if self.weights is None else _entry(batch, self.weights)
        if isinstance(self.key, Sequence) and not isinstance(self.key, str):
            parts = [torch.as_tensor(_entry(batch, name)) for name in self.key]
            return torch.cat([p[:, None] if p.dim() == 1 else p for p in parts], 1), w
        names = [name for name in batch if name != self.weights]
        if self.key is None and len(names) != 1:
            raise InputError(f"a batch is a dict: choose key= from {', '.join(map(str, names))}")
        return _entry(batch, names[0] if self.key is None else self.key), w


class LoaderSource(Source):
    """Batches of rows from whatever gives them, one after another.

    Args:
        data: a DataLoader, an IterableDataset (whose items are collated), any iterable of batches,
            a function that makes an iterator of them, or such an iterator. An iterator can be read
            only once: `replayable` is then False, and `sample` takes the rows at its beginning.
            A loader with a `DistributedSampler` has rows of its own for each process; those that
            the sampler repeats to make the numbers even are left out.
        weights: place (in a tuple) or key (in a dict) of the row weights.
        key: place or key of the rows, as in `Unpack`.
        rows_of_any_shape: rows may have several axes (images), for an encoder.

    Raises:
        InputError: batches that are no rows, or of changing width; a loader that fails or gives
            nothing; a second pass over an iterator.

    Example:
        >>> import torch
        >>> source = LoaderSource(lambda: (torch.full((2, 3), i) for i in range(4)))
        >>> [len(block.x) for block in source.blocks()], source.n_features, source.replayable
        ([8], 3, True)
    """

    reads = True

    def __init__(
        self,
        data: Any,
        weights: str | int | None = None,
        *,
        key: Key = None,
        rows_of_any_shape: bool = False,
    ) -> None:
        self._unpack = Unpack(key, weights)
        self._what = getattr(data, "__name__", type(data).__name__)
        told = getattr(data, "batch_size", None)
        self._batch_rows = told if isinstance(told, int) else 0
        self._make = _maker(data, self._unpack, grouped=not rows_of_any_shape)
        self._sampler = _distributed(data)
        self.own = self.numbered = self._sampler is not None
        self.n_rows = None
        if self._sampler is not None:
            _check_sampler(self._sampler)
            self.n_rows = None if data.drop_last else len(_own_numbers(self._sampler))
        self.replayable = not isinstance(data, Iterator)
        self.stable = not _shuffles(data)
        self.shape: tuple[int, ...] | None = None
        self._rest: Iterator[Block] | None = self._numbered()
        self._head = [next(self._rest)]  # read to learn the width; the first pass begins with it
        x = self._head[0].x
        if not rows_of_any_shape:
            rows = max(len(x), int(self.own))  # a process may have none of its own
            checks.check_rows((rows, *x.shape[1:]), None)
        self.shape = tuple(x.shape[1:])
        self.n_features, self.dtype = math.prod(self.shape), x.dtype

    def first(self) -> Block:
        return self._head[0] if self._head else next(self.blocks())

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return itertools.islice(self._merged(), skip, None)

    def sample(self, size: int, generator: torch.Generator) -> Block:
        if self.replayable:
            return super().sample(size, generator)
        if self._rest is None:
            raise InputError(self._once())
        lacking = size - sum(_present(block) for block in self._head)
        while lacking > 0 and (block := next(self._rest, None)) is not None:
            self._head.append(block)
            lacking -= _present(block)
        rows = join(self._head)
        if rows.w is not None:
            rows = rows.take(rows.w.nonzero().squeeze(-1))
        return rows.take(torch.from_numpy(sample_indices(len(rows.x), size, generator)))

    # inside -------------------------------------------------------------------------------------

    def _merged(self) -> Iterator[Block]:
        waiting: list[Block] = []
        n_rows = n_bytes = 0
        for block in self._pass():
            waiting.append(block)
            n_rows, n_bytes = n_rows + len(block.x), n_bytes + block.x.nbytes
            if n_bytes >= _BYTES or n_rows >= _ROWS:
                yield join(waiting)
                waiting, n_rows, n_bytes = [], 0, 0
        if waiting:
            yield join(waiting)

    def _pass(self) -> Iterator[Block]:
        """One pass; the first one goes on from what was read to learn the width."""
        head, rest = self._head, self._rest
        self._head, self._rest = [], None
        if rest is None:
            if not self.replayable:
                raise InputError(self._once())
            rest = self._numbered()
        yield from head
        yield from rest

    def _numbered(self) -> Iterator[Block]:
        start, size = 0, self._batch_rows
        numbers = None if self._sampler is None else _own_numbers(self._sampler)
        with loading(f"{self._what} could not be opened"):
            batches = self._make()
        for number in itertools.count():
            rows = f"rows {start}..{start + size - 1}" if size else f"from row {start} on"
            with loading(f"batch {number} ({rows}) of {self._what} could not be loaded"):
                batch = next(batches, _END)
                block = None if batch is _END else self._block(batch, start)
            if block is None:
                break
            if size := len(block.x):
                yield block if numbers is None else _at(block, numbers[start : start + size])
                start += size
        if not start:
            raise InputError(f"{self._what} gave no rows{'' if self.shape is None else _AGAIN}")

    def _block(self, batch: Any, start: int) -> Block:
        x, w = self._unpack(batch)
        if self.shape is not None and tuple(x.shape[1:]) != self.shape:
            raise InputError(f"its rows have shape {tuple(x.shape[1:])}, those before {self.shape}")
        return Block(x, None if w is None else checks.check_weights(w, len(x), part=True), start)

    def _once(self) -> str:
        return (
            f"the rows of a {self._what} can be read only once, and they were: exact EM reads all "
            "rows at every step. Give a function that makes the iterator, lambda: ..., or use "
            "OnlineEM, to which one pass is enough"
        )


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is an `InputError` that begins with `what`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {error}") from error


def _shuffles(data: Any) -> bool:
    """Whether a loader draws another order on every pass."""
    if not isinstance(data, DataLoader):
        return False
    samplers = (data.sampler, getattr(data.batch_sampler, "sampler", None))
    return any(isinstance(sampler, _RANDOM) for sampler in samplers)


def _distributed(data: Any) -> DistributedSampler[Any] | None:
    """The sampler of a loader that gives each process rows of its own."""
    found = getattr(data, "sampler", None) if isinstance(data, DataLoader) else None
    inner = getattr(getattr(data, "batch_sampler", None), "sampler", None)
    found = inner if isinstance(inner, DistributedSampler) else found
    return found if isinstance(found, DistributedSampler) else None


def _check_sampler(sampler: DistributedSampler[Any]) -> None:
    group = current()
    if group.size > 1 and (sampler.rank, sampler.num_replicas) != (group.rank, group.size):
        raise InputError(
            f"the DistributedSampler is for process {sampler.rank} of {sampler.num_replicas}, this "
            f"is process {group.rank} of {group.size}: let it ask torch.distributed"
        )


def _own_numbers(sampler: DistributedSampler[Any]) -> Tensor:
    """The numbers of the rows that a process gets, without those repeated at the end."""
    total = len(cast(Any, sampler.dataset))
    real = len(range(sampler.rank, total, sampler.num_replicas))
    return torch.tensor(list(sampler)[:real], dtype=torch.int64)


def _at(block: Block, numbers: Tensor) -> Block:
    """The rows that have these numbers; those behind them are repeated."""
    return replace(block.part(0, len(numbers)), start=0, kept=numbers)


def _maker(data: Any, unpack: Unpack, *, grouped: bool) -> _Maker:
    """A function that begins a new pass."""
    # an iterable data set of Hugging Face makes itself one of torch as well, sooner or later
    if hasattr(data, "with_format"):
        return lambda: iter(data.with_format("torch").iter(batch_size=_ITEMS))
    if isinstance(data, IterableDataset):
        return lambda: _collated(iter(data), unpack, grouped)
    if callable(data) and not isinstance(data, Iterable):
        return lambda: iter(data())
    return lambda: iter(data)


def _collated(items: Iterator[Any], unpack: Unpack, grouped: bool) -> Iterator[Any]:
    """Batches of items; items that are tables already stay as they are."""
    first = next(items, None)
    if first is None:
        return
    x = unpack(first)[0]
    items = itertools.chain([first], items)
    if grouped and x.dim() > 1:
        yield from items
        return
    count = max(1, min(_ITEMS, _BYTES // max(1, x.nbytes)))
    while batch := list(itertools.islice(items, count)):
        yield default_collate(batch)


def _present(block: Block) -> int:
    return len(block.x) if block.w is None else int((block.w > 0).sum())


def _entry(batch: Mapping[Any, Any], name: Any) -> Any:
    if name not in batch:
        raise InputError(f"a batch has no {name!r}; it has {', '.join(map(str, batch))}")
    return batch[name]


def _is_array(part: Any) -> bool:
    return isinstance(part, (Tensor, np.ndarray))
