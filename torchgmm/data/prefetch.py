"""Reading ahead of computing: a thread that fills a short queue, and the way to a CUDA device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from .base import Block

__all__ = ["ahead", "sent"]

# how long an early stop waits for a read that is under way before it leaves it to itself
_PATIENCE = 5.0

_Item = tuple[Block, "torch.cuda.Event | None"] | BaseException | None


def ahead(
    blocks: Iterator[Block], *, depth: int = 2, device: torch.device | None = None
) -> Generator[Block]:
    """The same blocks in the same order, read by a thread while the caller computes.

    An exception of the reader is raised here, in its place in the order. When the caller stops
    early the reader stops too and closes `blocks`.

    Args:
        blocks: read only by the thread from now on.
        depth: how many blocks may be ready or under way beside the caller's own.
        device: where the blocks will be used; for CUDA they are sent on a stream of their own.
    """
    lane = _Lane(device) if device is not None and device.type == "cuda" else None
    free = threading.Semaphore(depth)
    ready: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    stopped = threading.Event()
    reader = threading.Thread(
        target=_read,
        args=(blocks, lane, free, ready, stopped),
        name="torchgmm-reader",
        daemon=True,  # a read that hangs must not keep the interpreter
    )
    reader.start()
    try:
        yield from _arriving(ready, free, lane)
    finally:
        stopped.set()
        free.release()
        reader.join(_PATIENCE)


def _arriving(
    ready: queue.SimpleQueue[_Item], free: threading.Semaphore, lane: _Lane | None
) -> Iterator[Block]:
    while True:
        item = ready.get()
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        if lane is not None:
            lane.receive(*item)
        free.release()
        yield item[0]
        del item  # not held while the next one is waited for


def _read(
    blocks: Iterator[Block],
    lane: _Lane | None,
    free: threading.Semaphore,
    ready: queue.SimpleQueue[_Item],
    stopped: threading.Event,
) -> None:
    end: BaseException | None = None
    try:
        while True:
            free.acquire()
            if stopped.is_set():
                break
            item = _next(blocks) if lane is None else lane.next(blocks)
            if item is None:
                break
            ready.put(item)
            del item
    except BaseException as error:  # whatever it is, the caller raises it
        end = error
    try:
        if isinstance(blocks, Generator):
            blocks.close()  # here, in the thread that ran it: open files are closed
    finally:
        ready.put(end)


def _next(blocks: Iterator[Block]) -> tuple[Block, torch.cuda.Event | None] | None:
    block = next(blocks, None)
    return None if block is None else (block, None)


class _Lane:
    """A CUDA stream beside the caller's, on which blocks are made and sent."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # what the caller has queued so far (the weights of an encoder, rows on the device)
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def next(self, blocks: Iterator[Block]) -> tuple[Block, torch.cuda.Event | None] | None:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            block = next(blocks, None)
            if block is None:
                return None
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return block, event

    def receive(self, block: Block, event: torch.cuda.Event | None) -> None:
        """Makes the caller's stream wait for the block, and the allocator for the caller."""
        current = torch.cuda.current_stream(self._device)
        if event is not None:
            current.wait_event(event)
        for tensor in (block.x, block.w, block.kept):
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(current)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device; from the CPU to CUDA through pinned memory, without waiting."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
