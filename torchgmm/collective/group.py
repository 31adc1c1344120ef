"""The processes of a job as a fit sees them; here, one that works alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ALONE", "Group"]


class Group:
    """Processes that share the rows of a fit. This one is a single process: nothing is sent.

    All that is known of the others comes by `sum`, in which every process takes part, those
    without rows too.

    Attributes:
        rank: number of this process, from 0; process 0 writes files and draws bars.
        size: how many there are.
        n_bytes: what this process has handed over to be summed, so far.
    """

    rank: int = 0
    size: int = 1
    n_bytes: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and draws."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor], equal: Sequence[Tensor] = ()) -> list[Tensor]:
        """Sums over the processes, in float64, the same bits in every one.

        Args:
            tensors: of the same shapes in every process.
            equal: tensors that every process must hold alike; a digest of them goes along.

        Raises:
            PeerError: a process failed, is missing, or holds other values in `equal`.
        """
        return list(tensors)

    def total(self, *numbers: float) -> list[float]:
        """`sum` of plain numbers."""
        return list(numbers)

    def of_first(self, tensor: Tensor) -> Tensor:
        """The tensor of process 0, whose shape and dtype all of them have."""
        return tensor

    def bytes_of_first(self, content: bytes) -> bytes:
        """The bytes that process 0 gives; what the others give does not count."""
        return content

    def texts(self, text: str) -> list[str]:
        """What every process says, in their order."""
        return [text]

    def stacked(self, rows: Tensor) -> Tensor:
        """The rows `(n, ...)` of all processes, in their order, in float64."""
        return rows

    def share(self, count: int) -> tuple[int, int]:
        """First and last (exclusive) of `count` things that are this process's own."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def agree(self, **said: object) -> None:
        """Refuse to go on if the processes say different things.

        Raises:
            InputError: they do; the message says who says what.
        """

    def same_generator(self, generator: torch.Generator) -> torch.Generator:
        """The generator, in the state of that of process 0."""
        if self.size > 1:
            generator.set_state(self.of_first(generator.get_state()))
        return generator


ALONE = Group()
