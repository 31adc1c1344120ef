"""The M-step of every method: maximise, hold what has too few rows, rescue what is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..answers import guessing, holds
from ..collective import ALONE, Group
from ..covariance import Floor, floor_of
from ..data import Block
from ..errors import SingularCovarianceError
from ..kernels import Kernel
from ..moments import Moments
from ..parameters import Parameters, to_moments
from .base import BatchStep, Step, Tentative
from .processes import maximised
from .rescue import Rescue, reseeded

__all__ = ["MStep", "m_step", "report", "restarted", "with_block", "without_lost"]

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class MStep:
    """What an M-step gave.

    Attributes:
        parameters: the new mixture.
        rescued: mask `(*B, K)` of the components that were replaced.
        collapsed: mask `(*B, K)` of those that have nothing but the floor for a covariance.
        failed: mask `(*B,)` of the mixtures of a batch that have a covariance without spread and
            no floor: their numbers mean nothing.
        sound: whether nothing was replaced and nothing collapsed, as far as anybody looked.
    """

    parameters: Parameters
    rescued: Tensor
    collapsed: Tensor
    failed: Tensor | None = None
    sound: bool = False

    @property
    def n_rescued(self) -> Any:
        """How many were replaced; in a batch of each mixture, `(*B,)`."""
        count = self.rescued.sum(-1)
        return count if count.dim() else int(count)


def m_step(
    moments: Moments,
    before: Parameters,
    *,
    floor: Floor,
    rescue: Rescue,
    spent: int | Tensor,
    blocks: Iterable[Block] | Callable[[int], Iterable[Block]],
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
        spent: components replaced so far in this fit, of each mixture `(*B,)`.
        blocks: where replaced components look for badly explained rows; read only if needed. For
            a batch those of each of its mixtures, by number.
        kernel: computes log-probabilities there.
        held: mask `(K,)` of components that keep mean and covariance in this step.
        group: the processes whose rows the blocks are.

    Raises:
        SingularCovarianceError: no spread and no floor; in a batch `failed` says which.
        EmptyComponentError: the policy was to raise.
    """
    family = before.family
    least = floor_of(floor, moments, family)
    central = family.central(moments)
    empty, collapsed = rescue.find(moments, central, family, least)
    if held is not None and family.coupled:
        moments = _as_before(moments, before, held)
        central = family.central(moments)
    after, hopeless = maximised(group, moments, before, least, central)
    if held is None and not holds(torch.cat([empty, collapsed, hopeless], -1).any()):
        return MStep(after, empty, collapsed, sound=True)  # as a rule, and with one look
    kept = empty if held is None else empty | held
    if holds(kept.any()):
        after, hopeless = _keep(kept, before, after, hopeless)
        if before.batch_shape:
            after, empty = _left_out(before, after, empty)
    rescue.check(empty, collapsed)
    failed = None
    if holds(hopeless.any()):
        if not before.batch_shape:
            raise SingularCovarianceError(hopeless.nonzero().flatten().tolist())
        failed = hopeless.any(-1)
    chosen = rescue.chosen(empty, collapsed, spent)
    if holds(chosen.any()):
        if not callable(blocks):
            after = reseeded(after, chosen, moments, blocks, kernel, least, group)
        else:
            for b in chosen.any(-1).nonzero().flatten().tolist():
                mine = least[b] if isinstance(least, Tensor) else least
                own = (after[b], chosen[b], moments[b], blocks(b), kernel, mine)
                after = after.put(torch.tensor([b]), reseeded(*own).map(lambda t: t[None]))
    return MStep(after, chosen, collapsed, failed)


def _as_before(moments: Moments, before: Parameters, held: Tensor) -> Moments:
    """With the last covariances of the held components for what few rows say of theirs."""
    family, n = before.family, moments.weight
    unit = family.unit_second(n, before.n_features)
    last = family.colour_second(unit, family.factor(before.scale.to(n.dtype)))
    last = last + family.outer(moments.first, moments.mean)
    mask = held.reshape(*held.shape, *[1] * family.n_axes)
    return replace(moments, second=torch.where(mask, last, moments.second))


def _left_out(before: Parameters, after: Parameters, empty: Tensor) -> tuple[Parameters, Tensor]:
    """A component of weight 0 in a batch is none: that mixture has fewer than the others."""
    absent = before.logits == -math.inf
    logits = torch.where(absent, -math.inf, after.logits)
    return Parameters(logits, after.means, after.scale, after.family), empty & ~absent


def _keep(
    kept: Tensor, before: Parameters, after: Parameters, hopeless: Tensor
) -> tuple[Parameters, Tensor]:
    means = torch.where(kept.unsqueeze(-1), before.means, after.means)
    scale = after.family.replaced(after.scale, kept, before.scale)
    lost = hopeless if after.family.tied else hopeless & ~kept
    return Parameters(after.logits, means, scale, after.family), lost


def with_block(
    moments: Moments | None, block: Block, parameters: Parameters, kernel: Kernel
) -> Moments:
    """Running moments with those of one more block, of the mixtures whose rows it holds."""
    where = block.groups
    if where is None or (moments is None and _everybody(where, parameters)):
        part = kernel.accumulate(block.x, block.w, parameters)
        # contiguous: a number that is equal for all may be one, and others are added in place
        return part.map(Tensor.contiguous) if moments is None else moments + part
    where = where.to(parameters.means.device)
    part = kernel.accumulate(block.x, block.w, parameters[where])
    if moments is None:
        moments = to_moments(parameters, 0.0)
    return moments.add_(where, part)  # made here: no state of a batch is within a pass


def _everybody(groups: Tensor, parameters: Parameters) -> bool:
    return len(groups) == len(parameters.means) and bool((groups.diff() == 1).all())


def without_lost(moments: Moments, before: Parameters) -> Moments:
    """Those of mixtures whose sums are not finite replaced by what leaves them as they are.

    Their log-likelihood stays NaN, which says so.
    """
    lost = (~moments.finite()).nonzero().flatten()
    same = to_moments(before[lost])
    return moments.put(lost, replace(same, log_prob=same.log_prob * math.nan))


def report(moments: Moments, after: MStep, rows: int, kernel: str) -> Step:
    """What is told about a step of exact EM, of one mixture or of a batch."""
    level = moments.mean_log_prob
    if after.sound and not level.dim() and not guessing():
        return Step(float(level), rows, kernel=kernel)
    if not level.dim():
        counts = (after.rescued.sum().to(level), after.collapsed.sum().to(level))
        numbers = torch.stack([level, *counts])
        if guessing():
            return Tentative(math.nan, rows, kernel=kernel, numbers=numbers)
        read = numbers.tolist()  # at once: a GPU is waited for once
        return Step(read[0], rows, 0.0, int(read[1]), int(read[2]), kernel)
    if after.sound:
        level = level.cpu()
        rescues = collapses = torch.zeros(level.shape, dtype=torch.int64)
    else:
        numbers = torch.stack([level, after.rescued.sum(-1), after.collapsed.sum(-1)]).cpu()
        level, (rescues, collapses) = numbers[0], numbers[1:].long()
    mean = float(level.mean())
    return BatchStep(
        mean if math.isfinite(mean) else float(level.nanmean()),
        rows,
        rescued=0 if after.sound else int(rescues.sum()),
        collapsed=0 if after.sound else int(collapses.sum()),
        kernel=kernel,
        levels=level,
        rescues=rescues,
        collapses=collapses,
        failed=None if after.failed is None else after.failed.cpu(),
    )


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
