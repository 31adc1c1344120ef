"""How near two images are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..mixture.tensors import as_tensor

__all__ = ["psnr"]


def psnr(image: Any, reference: Any, *, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in decibels, `10 log10(peak^2 / mean squared difference)`.

    Args:
        image: `(*B, H, W)`.
        reference: of the same shape, or one that goes with all of `B`.
        peak: the largest value that a pixel may have.

    Returns:
        `(*B,)`, float64; infinite for equal images.

    Example:
        >>> import torch
        >>> from torchgmm.images import psnr
        >>> psnr(torch.full((4, 4), 0.1), torch.zeros(4, 4))
        tensor(20.0000, dtype=torch.float64)
    """
    one, other = (as_tensor(t).double() for t in (image, reference))
    if one.dim() < 2 or one.shape[-2:] != other.shape[-2:]:
        raise InputError(
            f"images must be (*B, H, W) of one size, got {tuple(one.shape)} and "
            f"{tuple(other.shape)}"
        )
    apart = (one - other).square().mean((-2, -1))
    return 10 * torch.log10(peak**2 / apart)
