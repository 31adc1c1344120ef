"""What joining components found: clusters of any number, their entropy, the elbow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .. import checks
from ..errors import InputError
from ..mixture import GaussianMixture
from ..mixture.asking import asked_rows, by_chunk

__all__ = ["Clusters"]

# nats per row: memberships as clear as this are no doubt (mean of rows that are 99.9 % sure: 0.008)
_CLEAR = 0.01


@dataclass(frozen=True)
class Clusters:
    """A mixture's components joined, two by two, from K clusters down to one.

    Wherever a number of clusters may be given and is not, it is `n_clusters`.

    Attributes:
        mixture: whose components they are.
        joined: the K - 1 steps: numbers of the two clusters that were joined, each the number of
            its first component.
        entropy: of the memberships in 1, 2, ..., K clusters, mean per row, in nats (no unit for
            the criterion `quadratic`).
        n_rows: the rows (their weight) that it was computed from.
    """

    mixture: GaussianMixture
    joined: tuple[tuple[int, int], ...]
    entropy: tuple[float, ...]
    n_rows: float

    @property
    def n_clusters(self) -> int:
        """The elbow of the entropy: where joining stops to take much doubt away.

        Two straight lines that meet in a number of clusters are fitted to the entropies by least
        squares, and the best number is taken (as mclust's `clustCombiOptim`). Memberships that
        are clear as they are (below 0.01 per row) leave every component a cluster.
        """
        k = len(self.entropy)
        if k < 3 or self.entropy[-1] < _CLEAR:
            return k
        ends = range(2, k)
        return min(
            ends, key=lambda c: _misfit(self.entropy, 0, c) + _misfit(self.entropy, c - 1, k)
        )

    def groups(self, n_clusters: int | None = None) -> Tensor:
        """The cluster of every component, `(K,)`, numbered in the order of their first ones."""
        wanted = self._count(n_clusters)
        place = list(range(len(self.entropy)))
        for one, other in self.joined[: len(place) - wanted]:
            place = [one if first == other else first for first in place]
        numbers = {first: number for number, first in enumerate(sorted(set(place)))}
        return torch.tensor([numbers[first] for first in place], device=self.mixture.device)

    def weights(self, n_clusters: int | None = None) -> Tensor:
        """Shares of the clusters in the mixture, `(G,)`."""
        return self.mixture.weights @ self._member(n_clusters)

    def responsibilities(self, x: Any, n_clusters: int | None = None) -> Tensor:
        """Posterior probability of each cluster for every row, `(N, G)`. Differentiable."""
        r = self.mixture.responsibilities(x)
        return r @ self._member(n_clusters).to(r.dtype)

    def predict(self, x: Any, n_clusters: int | None = None) -> Tensor:
        """The most probable cluster of every row, `(N,)`, int64.

        Not always that of the most probable component: several unlikely ones may outweigh it.
        """
        member = self._member(n_clusters)

        def likeliest(joint: Tensor) -> Tensor:
            return (member.mT.to(joint.dtype) @ joint.softmax(-2)).argmax(-2)

        rows = asked_rows(self.mixture, x)
        return by_chunk(self.mixture, rows, likeliest, dtype=torch.int64)

    def to_markdown(self) -> str:
        """A table of every number of clusters; the elbow is bold."""
        lines = ["| clusters | entropy per row | components of each |", "|--:|--:|:--|"]
        for g in range(1, len(self.entropy) + 1):
            groups = self.groups(g).tolist()
            parts = [[k for k, own in enumerate(groups) if own == c] for c in range(g)]
            cells = [str(g), f"{self.entropy[g - 1]:.4f}", ", ".join(map(_numbers, parts))]
            mark = "**" if g == self.n_clusters else ""
            lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """The same at a prompt; what it holds is in the attributes."""
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        """The choice in a line."""
        parts = f"{len(self.entropy)} component(s) in {self.n_clusters} cluster(s)"
        return f"{parts}, entropy {self.entropy[self.n_clusters - 1]:.4f} per row"

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _count(self, n_clusters: int | None) -> int:
        k = len(self.entropy)
        if n_clusters is None:
            return self.n_clusters
        if checks.check_count("n_clusters", n_clusters) > k:
            raise InputError(f"n_clusters={n_clusters} is more than the {k} components")
        return n_clusters

    def _member(self, n_clusters: int | None) -> Tensor:
        """Which component is of which cluster, `(K, G)`, ones and zeros."""
        return one_hot(self.groups(n_clusters)).to(self.mixture.dtype)


def _misfit(values: tuple[float, ...], start: int, stop: int) -> float:
    """Squared distance of some consecutive values from their straight line."""
    y = torch.tensor(values[start:stop], dtype=torch.float64)
    x = torch.arange(start, stop, dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float(((y - x * (x @ y) / (x @ x)) ** 2).sum())


def _numbers(group: list[int]) -> str:
    return "{" + ", ".join(map(str, group)) + "}"
