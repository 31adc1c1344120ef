"""What a seeding is, and the generators of several runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..covariance import Family, Floor
from ..data import Groups, Source
from ..parameters import Parameters, stacked

__all__ = ["Generators", "Seeding", "child", "one_each"]

Generators = torch.Generator | Sequence[torch.Generator]


def child(generator: torch.Generator, *, first: bool) -> torch.Generator:
    """The generator of one of several runs: its start is the same, one by one or side by side.

    The first run is what a single one would be.
    """
    own = torch.Generator()
    if first:
        own.set_state(generator.get_state())
        return own
    return own.manual_seed(int(torch.randint(2**62, (), generator=generator)))


def one_each(generator: Generators, n: int) -> Sequence[torch.Generator]:
    """A generator for each of n mixtures: those given, or one that all draw from in turn."""
    return [generator] * n if isinstance(generator, torch.Generator) else generator


class Seeding(ABC):
    """Makes the parameters that a fit starts from. Draws only from the generator it is given."""

    @abstractmethod
    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,  # on the CPU, whatever the device of the rows
    ) -> Parameters:
        """Parameters in float64 on the device of the rows."""

    def only(self, index: Tensor) -> Seeding:
        """What it means for some mixtures of a batch, by number."""
        return self

    def of(self, number: int, count: int) -> Seeding:
        """What it means for one mixture of a batch of so many, when that is fitted alone."""
        return self

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: Generators,
    ) -> Parameters:
        """Parameters `(B, ...)` of B mixtures. Here: one after the other.

        With a generator for each, a start is what it would be alone, to rounding.
        """
        n = source.n_groups
        each = [
            self.of(b, n)(source.of(b), n_components, family, floor, own)
            for b, own in enumerate(one_each(generator, n))
        ]
        return stacked(each)
