"""Starts that are the same but for the order of their components."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distinct"]


def distinct(starts: Tensor) -> tuple[Tensor, Tensor]:
    """The first of those that are equal, and which of these every one is.

    k-means ends at the same clusters from many a start, to the last bit.

    Args:
        starts: `(R, K, F)`, what is known of each component.

    Returns:
        The numbers of R' starts, `(R',)`, and places among these, `(R,)`; both on the CPU.
    """
    order = starts[..., 0].argsort(-1)
    rows = torch.arange(len(order), device=order.device).unsqueeze(-1)
    seen: dict[bytes, int] = {}
    first: list[int] = []
    same: list[int] = []
    for number, start in enumerate(starts[rows, order].cpu().numpy()):
        place = seen.setdefault(start.tobytes(), len(first))
        if place == len(first):
            first.append(number)
        same.append(place)
    return torch.tensor(first), torch.tensor(same)
