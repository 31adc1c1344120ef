"""Where float64 is: on the device of a tensor, or on the CPU for devices that have none.

Covariances are inverted and sums are made in float64, rows are computed in float32. On a device
that has no float64 (Apple's GPUs) rows stay, and with them all that grows with their number; what
is exact lives on the CPU. It is small: parameters, and the sums of every chunk of rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "all_reachable",
    "exact",
    "exact_device",
    "has_float64",
    "is_near",
    "reachable",
    "tell_rounding",
]

_WITHOUT = {"mps"}
_CPU = torch.device("cpu")
# What rounding may come to, as a share of how far a column reaches from end to end.
_LOST = 1e-3


def has_float64(device: torch.device) -> bool:
    """Whether tensors of float64 can be on the device."""
    return device.type not in _WITHOUT


def exact_device(device: torch.device) -> torch.device:
    """Where what is exact lives, for rows on this device: there too, if it can."""
    return device if has_float64(device) else _CPU


def is_near(x: Tensor) -> bool:
    """Whether a tensor can be had in float64 where it is."""
    return x.is_cpu or x.is_cuda or has_float64(x.device)  # the name of a device takes longer


def reachable(x: Tensor) -> Tensor:
    """A tensor where it can be had in float64: as it is, or a copy on the CPU."""
    return x if is_near(x) else x.cpu()


def exact(x: Tensor) -> Tensor:
    """A tensor in float64, on the device where that is."""
    # two moves: one alone would make the device change the dtype
    return reachable(x).double()


def all_reachable(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The same for tensors of one dtype and device: the device is waited for once."""
    if is_near(tensors[0]):
        return tensors
    flat = torch.cat([t.reshape(-1) for t in tensors]).cpu()
    parts = torch.split(flat, [math.prod(t.shape) for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def tell_rounding(x: Tensor, device: torch.device) -> bool:
    """Warn of rows `(..., N, D)` in float64 that lose digits on a device that has none.

    Returns:
        Whether there was a reason.
    """
    if x.dtype != torch.float64 or has_float64(device) or not x.numel():
        return False
    low, high = x.detach().amin(-2), x.detach().amax(-2)
    spread, step = high - low, torch.finfo(torch.float32).eps * torch.maximum(high, -low)
    lost = (spread > 0) & (step > _LOST * spread)
    if not bool(lost.any()):
        return False
    first = tuple(lost.nonzero()[0].tolist())
    warnings.warn(
        f"column {first[-1]} of these rows varies by {float(spread[first]):g} about "
        f"{float(low[first]):g}, where float32, all that device {device.type} has, takes steps of "
        f"{float(step[first]):g}: subtract an offset first, or compute on the CPU",
        RuntimeWarning,
        stacklevel=2,
    )
    return True
