"""Launching a Triton kernel: on the device of its tensors, or in the interpreter."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton

__all__ = ["Tile", "cells", "interpreted", "launch", "power_of_two"]


class Tile(NamedTuple):
    """Sizes of a tile and the warps that share it.

    They decide the order of the sums: see `triton_tuned`.
    """

    sizes: tuple[int, ...]  # as the kernel's last arguments: rows first
    warps: int = 4
    stages: int = 2  # loads of so many steps of a loop are under way at a time


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: `TRITON_INTERPRET=1`."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def cells(total: int, size: int) -> int:
    """How many tiles of a size cover the total."""
    return -(-total // size)


def power_of_two(size: int) -> int:
    """The least one that is not below."""
    return 1 << (size - 1).bit_length()


def launch(
    kernel: Any, programs: int, device: torch.device, arguments: tuple[Any, ...], tile: Tile
) -> None:
    """Run so many programs; constants of a tile follow the other arguments."""
    flat = (*arguments, *tile.sizes)
    if interpreted():  # which turns numbers into arrays, and NumPy 2.4 no array into an int
        flat = tuple(triton.language.constexpr(v) if type(v) is int else v for v in flat)
    elif hasattr(torch.library, "wrap_triton"):  # so that graphs being traced see the launch
        kernel = torch.library.wrap_triton(kernel)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](*flat, num_warps=tile.warps, num_stages=tile.stages)
