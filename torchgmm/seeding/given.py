"""First parameters that are given: by the labels of the rows, or as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..covariance import Family, Floor
from ..data import Block, Groups, Source
from ..errors import InputError
from ..kernels import labelled_sums
from ..parameters import Parameters, from_moments
from .base import Generators, Seeding, one_each
from .sums import first_parameters

__all__ = ["Labels", "Start"]

# rows whose mean is the origin of the first sums
_SAMPLE = 8192


@dataclass(frozen=True)
class Labels(Seeding):
    """One label per row, 0 to K - 1; negative means unknown, and such rows are left out.

    Args:
        labels: `(N,)` integers.
    """

    labels: Any

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        try:
            labels = torch.as_tensor(self.labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"labels must be integers, one per row: {error}") from error
        if tuple(labels.shape) != (source.n_rows,) or labels.dtype.is_floating_point:
            raise InputError(
                f"labels must be one integer per row, ({source.n_rows},), got {labels.dtype} of "
                f"shape {tuple(labels.shape)}"
            )
        if int(labels.max()) >= n_components or int(labels.max()) < 0:
            raise InputError(
                f"labels must lie in 0..{n_components - 1} (negative: unknown), "
                f"the largest is {int(labels.max())}"
            )
        sample = source.sample(_SAMPLE, generator).x.double()
        frame = sample.mean(0, keepdim=True).expand(n_components, -1).contiguous()

        def known(block: Block) -> Tensor:
            return labels[block.numbers().to(labels.device)].to(block.x.device)

        # twice: about the labels' own means the covariances keep their digits
        rough = labelled_sums(source.blocks(), frame, family, known).over(source.group).moments()
        centres = from_moments(rough, family, 1.0)[0].means
        sums = labelled_sums(source.blocks(), centres, family, known).over(source.group)
        return first_parameters(sums.moments(), family, floor, sums.unit)

    def only(self, index: Tensor) -> Labels:
        given = self._of_each()
        # others than one for each are refused by `of`
        fits = getattr(given, "ndim", 2) != 1 and len(given) > int(index.max())
        return Labels([given[b] for b in index.tolist()]) if fits else self

    def of(self, number: int, count: int) -> Labels:
        given = self._of_each()
        if len(given) != count or getattr(given, "ndim", 2) == 1:
            raise InputError(
                f"labels of a batch of {count} mixtures are one table or list of {count} rows of "
                f"labels, got {len(given)}"
            )
        return Labels(given[number])

    def _of_each(self) -> Any:
        """Labels `(*B, N)` along one leading axis; others as they are."""
        given = self.labels
        if isinstance(given, (Tensor, np.ndarray)) and given.ndim > 1:
            given = given.reshape(-1, given.shape[-1])
        return given


@dataclass(frozen=True)
class Start(Seeding):
    """Known parameters.

    Args:
        parameters: what to start from.
    """

    parameters: Parameters

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        p = self.parameters
        if (p.n_components, p.n_features, p.family) != (n_components, source.n_features, family):
            raise InputError(
                f"the start has K={p.n_components}, D={p.n_features}, {p.family.name}; the fit "
                f"has K={n_components}, D={source.n_features}, {family.name}"
            )
        return p

    def only(self, index: Tensor) -> Start:
        p = self.parameters
        if not p.batch_shape or p.batch_shape.numel() <= int(index.max()):
            return self  # one for all, or refused by `batch`
        return Start(p.flat()[index.to(p.means.device)])

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: Generators,
    ) -> Parameters:
        b = source.n_groups
        self(source, n_components, family, floor, one_each(generator, b)[0])  # refuses
        return self._of_each(b).map(Tensor.clone)

    def of(self, number: int, count: int) -> Start:
        return Start(self._of_each(count)[number])

    def _of_each(self, count: int) -> Parameters:
        """The start of every mixture, `(count, ...)`: its own, or the one for all."""
        p = self.parameters
        if not p.batch_shape:
            return p.map(lambda t: t.expand(count, *t.shape))
        if p.batch_shape.numel() != count:
            raise InputError(f"a start of {p.batch_shape.numel()} mixtures is none for {count}")
        return p.flat()
