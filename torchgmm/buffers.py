"""Memory used again, once nobody holds what lay in it: fresh pages cost more than arithmetic."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Buffers", "room"]

# blocks under way at a time: one computed, two read ahead, one to spare
_MOST_SPARE = 4
# Below this the allocator hands out memory that it has in stock.
_SMALL = 64 * 2**10
# Memory up to this is lent for less than half of it: better than clearing some.
_MODEST = 8 * 2**20
# vector instructions read whole lines of the cache
_LINE = 64


class Buffers:
    """Arrays whose memory comes back when the last view of it is gone.

    A fresh block is fresh pages, and clearing those costs the system more time than reading rows
    into them. Safe to use from several threads: what is shared is one list, and no lock that a
    fork could leave shut.
    """

    def __init__(self) -> None:
        self._spare: list[_Memory] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array of any content."""
        count = math.prod(shape)
        if not count:
            return np.empty(shape, dtype)
        memory = self._fitting(count * dtype.itemsize + _LINE)
        # Not an array, so that views of what is lent hold that and not the memory behind it.
        lent = np.frombuffer(memory.numbers, dtype, count, memory.start)
        weakref.finalize(lent, _returned(self._spare), memory).atexit = False
        return lent.reshape(shape)

    def _fitting(self, size: int) -> _Memory:
        for memory in sorted(self._spare, key=len):
            if size <= len(memory) <= max(2 * size, _MODEST):
                try:
                    self._spare.remove(memory)
                except ValueError:  # another thread was faster
                    continue
                return memory
        return _Memory(size)

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()  # a copy in another process has memory of its own


class _Memory:
    """Bytes, equal to themselves alone: so a list finds them without reading them."""

    def __init__(self, size: int) -> None:
        self.numbers = bytearray(size)
        self.start = -np.frombuffer(self.numbers, np.uint8).ctypes.data % _LINE

    def __len__(self) -> int:
        return len(self.numbers)


def _returned(spare: list[_Memory]) -> Callable[[_Memory], None]:
    def put(memory: _Memory) -> None:
        spare.append(memory)
        del spare[:-_MOST_SPARE]  # sizes that were asked for long ago go first

    return put


_ROOM = Buffers()


def room(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Room for numbers of this shape, in the dtype and on the device of `like`."""
    size = math.prod(shape) * like.itemsize
    if like.device.type != "cpu" or size < _SMALL:
        return like.new_empty(shape)
    flat = torch.from_numpy(_ROOM.empty((size,), np.dtype(np.uint8)))
    return flat.view(like.dtype).view(shape)
