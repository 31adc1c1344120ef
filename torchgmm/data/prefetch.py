"""Reading ahead of computing: a thread that fills a short queue, and the way to a CUDA device."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from ..exact import has_float64
from .block import Block

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
    reader = _Reader(blocks, depth, lane)
    reader.start()
    try:
        yield from reader.arriving()
    finally:
        reader.stop()


class _Reader(threading.Thread):
    """Reads into `ready` as long as there are tokens in `free`.

    Both are simple queues, whose `put` may be called from a finaliser at any moment.
    """

    def __init__(self, blocks: Iterator[Block], depth: int, lane: _Lane | None) -> None:
        # a daemon: a read that hangs must not keep the interpreter
        super().__init__(name="torchgmm-reader", daemon=True)
        self._blocks, self._lane = blocks, lane
        self._ready: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopped = False
        for _ in range(depth):
            self._free.put(None)

    def run(self) -> None:
        """In the thread."""
        end: BaseException | None = None
        try:
            while self._may_read() and (item := self._next()) is not None:
                self._ready.put(item)
                del item
        except BaseException as error:  # whatever it is, the caller raises it
            end = error
        try:
            if isinstance(self._blocks, Generator):
                self._blocks.close()  # here, in the thread that ran it: open files are closed
        finally:
            self._ready.put(end)

    def arriving(self) -> Iterator[Block]:
        """In the caller's thread."""
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            if self._lane is not None:
                self._lane.receive(*item)
            self._free.put(None)
            yield item[0]
            del item  # not held while the next one is waited for

    def stop(self) -> None:
        """Ends the thread, and waits for it unless a read takes very long."""
        self._stopped = True
        self._free.put(None)
        if self is not threading.current_thread():  # a finaliser may run anywhere
            self.join(_PATIENCE)

    def _may_read(self) -> bool:
        self._free.get()
        return not self._stopped

    def _next(self) -> tuple[Block, torch.cuda.Event | None] | None:
        if self._lane is not None:
            return self._lane.next(self._blocks)
        block = next(self._blocks, None)
        return None if block is None else (block, None)


@atexit.register
def _stop_all() -> None:
    """At the end of the interpreter: a thread that is cut off inside torch would abort it."""
    for thread in threading.enumerate():
        if isinstance(thread, _Reader):
            thread.stop()


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
        for tensor in (block.x, block.w):
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(current)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device; from the CPU to CUDA through pinned memory, without waiting.

    Float64 becomes float32 on the way to a device that has no float64.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    if x.dtype == torch.float64 and not has_float64(device):
        x = x.float()
    return x.to(device)
