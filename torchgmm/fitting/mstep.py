"""The M-step of every method: maximise, hold what has too few rows, rescue what is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..collective import ALONE, Group
from ..data import Block
from ..errors import SingularCovarianceError
from ..kernels import Kernel
from ..moments import Moments
from ..parameters import Parameters, from_moments, to_moments
from .rescue import Rescue, reseeded

__all__ = ["MStep", "m_step", "restarted"]

_TINY = torch.finfo(torch.float64).tiny


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
    group: Group = ALONE,
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
        group: the processes whose rows the blocks are.

    Raises:
        SingularCovarianceError: no spread and no floor.
        EmptyComponentError: the policy was to raise.
    """
    family = before.family
    empty, collapsed = rescue.find(moments, family, floor)
    rescue.check(empty, collapsed)
    after, hopeless = from_moments(moments, family, floor)
    if held is None and not bool((empty | collapsed).any() | hopeless.any()):
        return MStep(after, empty, 0)  # as a rule, and with one look at the numbers
    kept = empty if held is None else empty | held
    if bool(kept.any()):
        after, hopeless = _keep(kept, before, after, hopeless)
    if bool(hopeless.any()):
        raise SingularCovarianceError(hopeless.nonzero().flatten().tolist(), floor)
    chosen = rescue.chosen(empty, collapsed, spent)
    if bool(chosen.any()):
        after = reseeded(after, chosen, moments, blocks, kernel, floor, group)
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


def restarted(moments: Moments, after: MStep) -> Moments:
    """Running statistics in which replaced components start from what they were replaced by."""
    family = after.parameters.family
    if not bool(after.rescued.any()):
        return moments
    fresh, mask = to_moments(after.parameters), after.rescued
    moved = family.moved(moments, fresh.frame)
    weight = torch.where(mask, 0, moved.weight)
    first = torch.where(mask.unsqueeze(-1), 0, moved.first)
    replaced = torch.where(mask, fresh.weight, 0)
    rest = (1 - replaced.sum()) / weight.sum().clamp_min(_TINY)  # what the others shrink by
    if family.tied:  # without what the lost ones had there at a distance
        lost = moved.first - first
        far = family.outer(lost, lost / moved.weight.clamp_min(_TINY).unsqueeze(-1))
        second = (moved.second - far) * rest + fresh.second * replaced.sum()
    else:
        heads = mask.reshape(-1, *[1] * family.n_axes)
        second = torch.where(heads, fresh.second, moved.second * rest)
    return Moments(
        weight * rest + replaced, first * rest, second, moved.log_prob, moved.rows, moved.frame
    )
