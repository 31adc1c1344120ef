"""Randomness that belongs to a row: it follows from the row's number, not from the order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["scrambled", "uniform"]


def scrambled(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A hash of numbers, uint64 (splitmix64, Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(seed % 2**62) * np.uint64(0x9E3779B97F4A7C15)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def uniform(numbers: Tensor, count: int, seed: int) -> Tensor:
    """`count` numbers in [0, 1) for every row `(n,)`, as `(count, n)` in float64."""
    each = numbers.cpu().numpy()[None, :] * np.int64(count) + np.arange(count)[:, None]
    drawn = scrambled(each, seed) >> np.uint64(11)
    return torch.from_numpy(drawn.astype(np.float64) * 2.0**-53)
