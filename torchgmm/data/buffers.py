"""Memory for blocks, used again once nobody holds the block that lay in it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Buffers"]

# blocks under way at a time: one computed, two read ahead, one to spare
_MOST_SPARE = 4


class Buffers:
    """Arrays whose memory comes back when the last view of it is gone.

    A fresh block is fresh pages, and clearing those costs the system more time than reading rows
    into them. Safe to use from several threads: what is shared is one list.
    """

    def __init__(self) -> None:
        self._spare: list[bytearray] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array of any content."""
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return np.empty(shape, dtype)
        memory = self._fitting(size)
        # Not an array, so that views of what is lent hold that and not the memory behind it.
        lent = np.frombuffer(memory, dtype, math.prod(shape))
        weakref.finalize(lent, _returned(self._spare), memory).atexit = False
        return lent.reshape(shape)

    def _fitting(self, size: int) -> bytearray:
        while self._spare:
            try:
                memory = self._spare.pop()
            except IndexError:  # another thread was faster
                break
            if size <= len(memory) <= 2 * size:
                return memory
        return bytearray(size)

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()  # a copy in another process has memory of its own


def _returned(spare: list[bytearray]) -> Callable[[bytearray], None]:
    def put(memory: bytearray) -> None:
        if len(spare) < _MOST_SPARE:
            spare.append(memory)

    return put
