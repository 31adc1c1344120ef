"""Where float64 is: on the device of a tensor, or on the CPU for devices that have none.

Covariances are inverted and sums are made in float64, rows are computed in float32. On a device
that has no float64 (Apple's GPUs) rows stay, and with them all that grows with their number; what
is exact lives on the CPU. It is small: parameters, and the sums of every chunk of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["all_reachable", "exact", "exact_device", "has_float64", "reachable"]

_WITHOUT = {"mps"}
_CPU = torch.device("cpu")


def has_float64(device: torch.device) -> bool:
    """Whether tensors of float64 can be on the device."""
    return device.type not in _WITHOUT


def exact_device(device: torch.device) -> torch.device:
    """Where what is exact lives, for rows on this device: there too, if it can."""
    return device if has_float64(device) else _CPU


def reachable(x: Tensor) -> Tensor:
    """A tensor where it can be had in float64: as it is, or a copy on the CPU."""
    return x if has_float64(x.device) else x.cpu()


def exact(x: Tensor) -> Tensor:
    """A tensor in float64, on the device where that is."""
    # two moves: one alone would make the device change the dtype
    return reachable(x).double()


def all_reachable(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The same for tensors of one dtype and device: the device is waited for once."""
    if has_float64(tensors[0].device):
        return tensors
    flat = torch.cat([t.reshape(-1) for t in tensors]).cpu()
    parts = torch.split(flat, [math.prod(t.shape) for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
