"""A group of processes over torch.distributed: one kind of call, the sum over all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError, PeerError
from .group import Group
from .news import News

__all__ = ["Processes", "digest"]

# How long to wait for the others before looking whether one of them has left a message.
_PULSE = timedelta(seconds=1)
_MASK = (1 << 24) - 1  # sums of such numbers are exact in float64 for 2^29 processes


class Processes(Group):
    """The processes of a torch.distributed group.

    The sum over processes is the only thing that is ever asked of the network: what one process
    tells all others is a sum in which the rest are zeros. The order of the additions is that of
    the backend's algorithm, fixed for a number of processes, so a rerun gives the same bits; and
    each number is added up in one place and sent to all, so all have the same bits.

    Args:
        process_group: of torch.distributed; None for the default one.
        patience: seconds to wait for a process that does not come.
        number: of the call that is served, so that messages of an earlier one are not heard.
    """

    def __init__(self, process_group: Any, patience: float, number: int) -> None:
        self._group = process_group
        self.rank, self.size = dist.get_rank(process_group), dist.get_world_size(process_group)
        self._backends = _backends(process_group)
        self._patience = patience
        self._calls = 0
        ranks = dist.get_process_group_ranks(process_group or dist.group.WORLD)
        self.news = News(ranks, self.rank, number)

    def sum(self, tensors: Sequence[Tensor], equal: Sequence[Tensor] = ()) -> list[Tensor]:
        parts = [t.to(torch.float64).flatten() for t in tensors]
        mark = parts[0].new_tensor(_pieces(digest(equal))) if equal else parts[0].new_empty(0)
        flat = self._summed(torch.cat([*parts, mark]))
        found = torch.split(flat[: len(flat) - len(mark)], [len(part) for part in parts])
        if equal and not torch.equal(flat[len(flat) - len(mark) :], mark * self.size):
            raise PeerError(
                f"the {self.size} processes no longer hold the same mixture: they must run the "
                "same versions on machines of one kind, with equal numbers of threads"
            )
        return [part.reshape(t.shape) for part, t in zip(found, tensors, strict=True)]

    def total(self, *numbers: float) -> list[float]:
        found: list[float] = self._summed(torch.tensor(numbers, dtype=torch.float64)).tolist()
        return found

    def of_first(self, tensor: Tensor) -> Tensor:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        told = self._summed(raw.clone() if self.leads else torch.zeros_like(raw))
        return told.view(tensor.dtype).reshape(tensor.shape)

    def bytes_of_first(self, content: bytes) -> bytes:
        size = int(self.total(len(content) if self.leads else 0)[0])
        told = torch.zeros(size, dtype=torch.uint8)
        if self.leads and size:
            told = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return bytes(self.of_first(told).numpy()) if size else b""

    def texts(self, text: str) -> list[str]:
        raw = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        return [bytes(part.numpy()).decode() for part in self._gathered(raw)]

    def stacked(self, rows: Tensor) -> Tensor:
        flat = rows.to(torch.float64).flatten()
        return torch.cat(self._gathered(flat)).reshape(-1, *rows.shape[1:])

    def agree(self, **said: object) -> None:
        told = self.texts("\n".join(f"{what}\t{value}" for what, value in said.items()))
        for number, what in enumerate(said):
            values = [text.split("\n")[number].partition("\t")[2] for text in told]
            for rank, value in enumerate(values):
                if value != values[0]:
                    raise InputError(
                        f"the processes disagree on {what}: process 0 has {values[0]}, process "
                        f"{rank} has {value}. All must make the same call; where each has rows "
                        "of its own, wrap them, OwnRows(rows); to fit in one process only, "
                        "with torchgmm.alone()"
                    )

    # inside -------------------------------------------------------------------------------------

    def _gathered(self, own: Tensor) -> list[Tensor]:
        """The vectors of all processes; their lengths may differ."""
        counts = [0.0] * self.size
        counts[self.rank] = len(own)
        lengths = [int(count) for count in self.total(*counts)]
        everything = own.new_zeros(sum(lengths))
        torch.split(everything, lengths)[self.rank].copy_(own)
        if not len(everything):
            return [own] * self.size
        return list(torch.split(self._summed(everything), lengths))

    def _summed(self, flat: Tensor) -> Tensor:
        """The sum over all processes; `flat` may be overwritten."""
        here = flat.to(self._place(flat.device))
        self.n_bytes += here.nbytes
        self._calls += 1
        try:
            work = dist.all_reduce(here, group=self._group, async_op=True)
            self._wait(work, here.is_cuda)
        except RuntimeError as error:
            if isinstance(error, PeerError):
                raise
            raise self.news.lost(self._calls, error) from error
        return here.to(flat.device)

    def _wait(self, work: Any, on_cuda: bool) -> None:
        began = time.monotonic()
        while not self._done(work, on_cuda):
            self.news.waiting(self._calls)
            if time.monotonic() - began > self._patience:
                raise self.news.late(self._calls, self._patience)

    @staticmethod
    def _done(work: Any, on_cuda: bool) -> bool:
        """Whether the sum is there, within a pulse."""
        if on_cuda:  # its own wait() only queues one
            end = time.monotonic() + _PULSE.total_seconds()
            while not work.is_completed():
                if time.monotonic() > end:
                    return False
            work.wait()
            return True
        try:
            work.wait(_PULSE)
        except RuntimeError:
            if not work.is_completed():
                return False
            work.wait()  # broken, which it says again, or done since then
        return True

    def _place(self, device: torch.device) -> torch.device:
        """Where a sum of tensors on this device is made."""
        if device.type in self._backends:
            return device
        if "cuda" in self._backends:
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")


def _backends(process_group: Any) -> set[str]:
    """The types of device that a group can sum on."""
    config = str(dist.get_backend_config(process_group))  # such as cpu:gloo,cuda:nccl
    pairs = dict(part.split(":") for part in config.split(",") if ":" in part)
    if pairs:  # gloo takes CUDA tensors too, but through the CPU
        return {kind for kind, name in pairs.items() if kind == "cpu" or name == "nccl"}
    return {"cuda"} if "nccl" in config else {"cpu"}


def digest(tensors: Sequence[Tensor]) -> int:
    """48 bits that tell tensors apart; the order of the sum does not matter, as integers wrap."""
    total = 0
    for number, tensor in enumerate(tensors):
        bits = tensor.detach().to(torch.float64).contiguous().reshape(-1).view(torch.int64)
        odd = torch.arange(1, 2 * len(bits), 2, dtype=torch.int64, device=bits.device)
        mixed = (bits ^ (bits >> 29)) * (odd * -7046029254386353131)
        total += (number + 1) * int((mixed ^ (mixed >> 32)).sum())
    return total & ((1 << 48) - 1)


def _pieces(number: int) -> list[float]:
    """48 bits as two numbers whose sums over processes are exact."""
    return [float(number & _MASK), float(number >> 24)]
