"""Bytes for the buffers of a chunk: by the device, by what is free there, less after a failure."""

from __future__ import annotations

import functools
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..errors import MemoryWarning

__all__ = ["chunk_budget", "onward", "retried", "spared"]

# Large enough that a launch is worth its time, small enough for a device shared with a network.
_ON_GPU = 128 * 2**20
_SHARE = 4  # of the free bytes
_LEAST = 2**20

# What a device turned out to bear, after it ran out of memory.
_borne: dict[torch.device, int] = {}
# Whether a call is under way that will be made again.
_watched: ContextVar[bool] = ContextVar("watched", default=False)


def chunk_budget(asked: int | None, usual: int, device: torch.device) -> int:
    """Bytes of one buffer of a chunk.

    A power of two on a GPU, and the same in every run as long as a quarter of a GiB or two is
    free there: the size of a chunk decides the order of sums, hence their last digits.

    Args:
        asked: what the caller wants; that is what it gets.
        usual: on the CPU, where a cache is what they should fit.
        device: where the rows are.
    """
    if asked is not None:
        return min(asked, _borne.get(device, asked))
    if device.type == "cpu":
        return min(usual, _borne.get(device, usual))
    if device.type != "cuda":
        return min(_ON_GPU, _borne.get(device, _ON_GPU))
    return max(_LEAST, min(_ON_GPU, _borne.get(device, _ON_GPU), _power_of_two(free(device))))


def free(device: torch.device) -> int:
    """Bytes that torch may still take on a CUDA device: free ones, and its own unused ones."""
    on_device, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return on_device + unused


def _power_of_two(size: int) -> int:
    return 1 << max(0, (size // _SHARE).bit_length() - 1)


T = TypeVar("T")
M = TypeVar("M", bound=Callable[..., Any])


def retried(bytes_for: Callable[[Tensor], int], x: Tensor, call: Callable[[], T]) -> T:
    """What the call gives; out of memory, it is made again with half the bytes.

    What a device turned out to bear is remembered, so that the next call starts there; not if the
    least chunks were of no help, as then it is something else that is too large. A call within
    another one is left to that.

    Args:
        bytes_for: of the buffers of a chunk of such rows; by `chunk_budget`, as the call has them.
        x: the rows.
        call: may be made many times, so it draws nothing and changes nothing that it is given.
    """
    if _watched.get():
        return call()
    token = _watched.set(True)
    try:
        return _halved(bytes_for, x, call)
    finally:
        _watched.reset(token)


def onward(
    bytes_for: Callable[[Tensor], int], x: Tensor, step: Callable[[int], tuple[int, T]]
) -> Iterator[T]:
    """What `step` makes of the rows `x (..., N, D)` from the first that is left on, part by part.

    Each is `retried`: out of memory, it goes on from there with half the bytes.

    Args:
        bytes_for: as `retried` has it.
        x: the rows.
        step: from where it begins to where it ended, and what it made.
    """
    done = 0
    while done < x.shape[-2]:
        done, found = retried(bytes_for, x, functools.partial(step, done))
        yield found
        del found  # before the next is made


def _halved(bytes_for: Callable[[Tensor], int], x: Tensor, call: Callable[[], T]) -> T:
    before = _borne.get(x.device)
    while True:
        try:
            return call()
        except torch.OutOfMemoryError as error:
            # Their tensors would count as taken, and were not there when the call began.
            traceback.clear_frames(error.__traceback__)
            if x.device.type == "cuda":
                torch.cuda.empty_cache()
            size = bytes_for(x)
            if size <= _LEAST:
                _forget(x.device, before)
                raise
            _borne[x.device] = size // 2
        warnings.warn(
            f"out of memory on {x.device}: chunks have {size // 2**20} MiB and will have half of "
            "that; what else is on the device leaves no more",
            MemoryWarning,
            stacklevel=4,
        )


def _forget(device: torch.device, before: int | None) -> None:
    if before is None:
        _borne.pop(device, None)
    else:
        _borne[device] = before


def spared(method: M) -> M:
    """A method of a kernel, on rows, that is `retried`."""

    @functools.wraps(method)
    def again(self: Any, x: Tensor, *arguments: Any) -> Any:
        return retried(self.bytes_for, x, lambda: method(self, x, *arguments))

    return cast(M, again)
