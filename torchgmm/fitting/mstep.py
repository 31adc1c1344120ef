"""The M-step of every method: maximise, hold what has too few rows, rescue what is lost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Block
from ..errors import SingularCovarianceError
from ..kernels import Kernel
from ..moments import Moments
from ..parameters import Parameters, from_moments
from .base import Step
from .rescue import Rescue, reseeded

__all__ = ["MStep", "StepSums", "m_step"]


@dataclass(frozen=True)
class MStep:
    """What an M-step gave.

    Attributes:
        parameters: the new mixture.
        rescued: mask `(K,)` of the components that were replaced.
        collapsed: how many components have nothing but the floor for a covariance.
    """

    parameters: Parameters
    rescued: Tensor
    collapsed: int


def m_step(
    moments: Moments,
    before: Parameters,
    *,
    floor: float,
    rescue: Rescue,
    spent: int,
    blocks: Iterable[Block],
    kernel: Kernel,
    held: Tensor | None = None,
) -> MStep:
    """Parameters that maximise the likelihood of the moments, under the rescue policy.

    Args:
        moments: of all rows that count, about any frame.
        before: the parameters of the E-step.
        floor: `reg_covar`.
        rescue: the policy.
        spent: components replaced so far in this fit.
        blocks: where replaced components look for badly explained rows; read only if needed.
        kernel: computes log-probabilities there.
        held: mask `(K,)` of components that keep mean and covariance in this step.

    Raises:
        SingularCovarianceError: no spread and no floor.
        EmptyComponentError: the policy was to raise.
    """
    family = before.family
    empty, collapsed = rescue.find(moments, family, floor)
    rescue.check(empty, collapsed)
    after, hopeless = from_moments(moments, family, floor)
    kept = empty if held is None else empty | held
    if bool(kept.any()):
        after, hopeless = _keep(kept, before, after, hopeless)
    if bool(hopeless.any()):
        raise SingularCovarianceError(hopeless.nonzero().flatten().tolist(), floor)
    chosen = rescue.chosen(empty, collapsed, spent)
    if bool(chosen.any()):
        after = reseeded(after, chosen, moments, blocks, kernel, floor)
    return MStep(after, chosen, int(collapsed.sum()))


def _keep(
    kept: Tensor, before: Parameters, after: Parameters, hopeless: Tensor
) -> tuple[Parameters, Tensor]:
    means = torch.where(kept.unsqueeze(-1), before.means, after.means)
    if after.family.tied:
        return Parameters(after.logits, means, after.scale, after.family), hopeless
    mask = kept.reshape(-1, *[1] * after.family.n_axes)
    scale = torch.where(mask, before.scale, after.scale)
    return Parameters(after.logits, means, scale, after.family), hopeless & ~kept


class StepSums:
    """What the E-steps and M-steps within one step add up to, for its report."""

    def __init__(self) -> None:
        self.rows = 0
        self._log_prob = self._weight = 0.0
        self.rescued = self._collapsed = 0

    def add(self, rows: int, moments: Moments) -> None:
        """An E-step: how many rows, and their moments."""
        self.rows += rows
        self._log_prob += float(moments.log_prob)
        self._weight += float(moments.rows)

    def m_step(self, after: MStep) -> None:
        """An M-step."""
        self.rescued += int(after.rescued.sum())
        self._collapsed = after.collapsed

    def step(self, kernel: str, *, last: bool = False) -> Step:
        """The report; its log-likelihood is of every batch before its own M-step."""
        mean = self._log_prob / self._weight if self._weight else math.nan
        return Step(mean, self.rows, 0.0, self.rescued, self._collapsed, kernel, last)
