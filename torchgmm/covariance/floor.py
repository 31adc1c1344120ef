"""How small a variance may become: an absolute floor, or one relative to that of each feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import check_real
from ..errors import InputError
from ..moments import Moments
from .base import Family

__all__ = ["Floor", "RelativeFloor", "absolute", "check_floor", "floor_of"]

# A variance below this share of the squared mean is rounding, even of sums in float64.
_ROUNDING = 1e-20


@dataclass(frozen=True)
class RelativeFloor:
    """A floor for every feature in proportion to its own variance: `reg_covar=RelativeFloor()`.

    A number as `reg_covar` is added to all variances alike, so it means nothing beside a column of
    millions and swallows one of millionths. This one adds `share` times the variance that the
    feature has over all rows, so a fit in other units of the columns is the same fit. Families with
    one variance for all features add the mean of the features' floors. A feature that is constant
    counts as one of variance 1.

    The variances come from the moments of the step, so that nothing is read twice: those of all
    rows in exact EM, and what an online method believes of them in others.

    Args:
        share: of the variance, above 0.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> x[:200] += 8
        >>> small = x * torch.tensor([1e-6, 1.0])  # the first column in other units
        >>> mixture = tg.GaussianMixture(2)
        >>> method = tg.EM(reg_covar=tg.RelativeFloor(1e-6))
        >>> _ = mixture.fit(small, method, init=[0] * 200 + [1] * 200)
        >>> bool(mixture.covariances[0, 0, 0] < 2e-12)  # and not the 1e-6 of an absolute floor
        True
    """

    share: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.share < float("inf"):
            raise InputError(f"share must be above 0 and finite, got {self.share}")

    def of(self, moments: Moments, family: Family) -> Tensor:
        """The floors of these rows, `(*B, 1, D)`, or `(*B, 1, 1)` of families with one variance.

        Args:
            moments: of all rows, about any frame.
            family: of the covariances.
        """
        n = moments.weight.unsqueeze(-1)  # (*B, K, 1)
        rows = n.sum(-2, keepdim=True).clamp_min(torch.finfo(n.dtype).tiny)
        mean = (n * moments.frame + moments.first).sum(-2, keepdim=True) / rows
        away = moments.frame - mean
        # about the frame; from there to the mean, feature by feature
        second = family.diagonal(moments.second)
        moved = ((2 * moments.first + n * away) * away).sum(-2, keepdim=True)
        shared = moved.shape[-1] // second.shape[-1]  # features per variance
        if shared > 1:
            moved, mean = moved.sum(-1, keepdim=True), mean.norm(dim=-1, keepdim=True)
        variance = (second.sum(-2, keepdim=True) + moved) / rows / shared
        constant = variance <= _ROUNDING * mean**2
        return self.share * torch.where(constant, 1.0, variance)


Floor = float | RelativeFloor


def check_floor(value: Any) -> None:
    """`reg_covar`: a number of at least 0, finite, or a relative floor."""
    if isinstance(value, RelativeFloor):
        return
    check_real("reg_covar", value)
    if not 0 <= value < float("inf"):
        raise InputError(
            f"reg_covar must be at least 0 and finite, or a RelativeFloor, got {value}"
        )


def floor_of(floor: Floor | Tensor, moments: Moments, family: Family) -> float | Tensor:
    """What is added to variances of these rows: one number, or one per feature `(*B, 1, D)`."""
    return floor.of(moments, family) if isinstance(floor, RelativeFloor) else floor


def absolute(floor: Floor) -> float:
    """A floor that is a number, for methods whose M-step sees no moments of all rows.

    Raises:
        InputError: a relative one.
    """
    if isinstance(floor, RelativeFloor):
        raise InputError(
            "a relative floor follows the moments of all rows, which gradients do not sum: give "
            "reg_covar a number and scale the columns, or use EM or OnlineEM"
        )
    return floor
