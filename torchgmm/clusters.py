"""Components into clusters: those that overlap so much that they are one group of rows.

A mixture takes as many Gaussians as the shape of the density wants, and several of them may stand
for one group that is not Gaussian. Baudry, Raftery, Celeux, Lo & Gottardo (2010, Journal of
Computational and Graphical Statistics 19) keep the density and join components into clusters,
step by step, each time the two whose union takes most doubt about the memberships away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from . import checks
from .collective import together
from .data import Checked
from .errors import InputError
from .kernels import as_kernel, full_precision
from .mixture import GaussianMixture
from .mixture.reading import check_replay, rows_of

__all__ = ["Clusters", "cluster"]

_Chunk = tuple[Tensor, Tensor]  # memberships (K, n), weights (n,)
# numbers of memberships that are kept between two passes, 32 MiB in float64; more are made anew
_KEPT = 2**22
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

        rows = self.mixture._rows(x)
        return self.mixture._by_chunk(rows, likeliest, dtype=torch.int64)

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


@together
@torch.no_grad()
def cluster(
    mixture: GaussianMixture, data: Any, weights: Any = None, *, criterion: str = "entropy"
) -> Clusters:
    """Join the components of a mixture into clusters, by their overlap on these rows.

    At every step the two clusters are joined whose union lowers the entropy of the memberships
    most. Nothing is fitted, and the density stays what it is. Memory is that of a chunk of rows
    and K x K sums.

    | criterion | entropy of a row | passes over the rows |
    |---|---|---|
    | `entropy` | `-sum_g t_g log t_g`, that of Baudry et al. | K - 1: every step looks again |
    | `quadratic` | `1 - sum_g t_g^2` (Gini, Simpson) | one: its K x K sums tell all steps |

    The memberships of few rows are kept between the passes, so that they are computed once.

    Args:
        mixture: a fitted one.
        data: rows `(N, D)`, whatever `fit` takes; those it was fitted to, or others.
        weights: of the rows, as in `fit`.
        criterion: `entropy` or `quadratic`; rows that can be read only once need the second.

    Raises:
        InputError: data or settings that cannot be used.

    Example:
        Two components lie in one elongated group, the third apart:

        >>> import torch, torchgmm as tg
        >>> mixture = tg.GaussianMixture.from_covariances(
        ...     [0.3, 0.4, 0.3], [[0.0], [20.0], [1.5]], [1.0, 1.0, 1.0], "spherical")
        >>> x = mixture.sample((1000,), generator=torch.Generator().manual_seed(0))
        >>> found = tg.cluster(mixture, x)
        >>> found.n_clusters, found.groups().tolist()
        (2, [0, 1, 0])
        >>> found.predict([[0.5], [21.0]]).tolist()
        [0, 1]
    """
    if criterion not in _CRITERIA:
        raise InputError(f"criterion must be one of {', '.join(_CRITERIA)}, got {criterion!r}")
    source = rows_of(mixture, data, weights)
    with full_precision(mixture.device):
        entropy, joined, n_rows = _hierarchy(_CRITERIA[criterion](_Memberships(mixture, source)))
    return Clusters(mixture, joined, entropy, n_rows)


def _hierarchy(doubt: _Doubt) -> tuple[tuple[float, ...], tuple[tuple[int, int], ...], float]:
    """Entropies of 1 to K clusters, the pairs that were joined, the weight of the rows."""
    entropy, joined = [doubt.entropy()], []
    alive = list(range(len(doubt.gain())))
    while len(alive) > 1:
        gain = doubt.gain()[alive][:, alive].triu(1)
        gain[torch.ones_like(gain).tril().bool()] = -math.inf
        best = int(gain.argmax())
        one, other = alive[best // len(alive)], alive[best % len(alive)]
        doubt.join(one, other)
        alive.remove(other)
        joined.append((one, other))
        entropy.append(doubt.entropy() if len(alive) > 1 else 0.0)
    return tuple(entropy[::-1]), tuple(joined), doubt.rows


class _Memberships:
    """The responsibilities of all rows, chunk by chunk, as often as they are asked for."""

    def __init__(self, mixture: GaussianMixture, source: Checked) -> None:
        self.source, self._parameters = source, mixture.as_parameters()
        few = source.n_rows is not None and source.n_rows * mixture.n_components <= _KEPT
        self._kept = list(self._made()) if few else None

    def __iter__(self) -> Iterator[_Chunk]:
        return self._made() if self._kept is None else iter(self._kept)

    def zeros(self, n_axes: int) -> Tensor:
        """Sums of nothing: `(K,)` or `(K, K)`."""
        means = self._parameters.means
        shape = [len(means)] * n_axes
        return torch.zeros(shape, dtype=torch.float64, device=means.device)

    def total(self, weight: float) -> float:
        """The weight of the rows of all processes, if there are any."""
        (total,) = self.source.group.total(weight)
        if not total:
            raise InputError("the source gave no rows of positive weight")
        return total

    def _made(self) -> Iterator[_Chunk]:
        kernel = as_kernel("auto")
        for block in self.source.blocks():
            for part, joint in kernel.log_joint(block.x, self._parameters):
                r = joint.softmax(-2).double()
                w = torch.ones_like(r[0]) if block.w is None else block.w[part].double()
                yield r, w


class _Doubt(Protocol):
    """The entropy of memberships that are joined step by step, and what joining would gain."""

    rows: float

    def entropy(self) -> float: ...

    def gain(self) -> Tensor: ...

    def join(self, one: int, other: int) -> None: ...


class _Shannon:
    """`-sum t log t`; after a step the sums of the joined cluster with every other are new."""

    def __init__(self, rows: _Memberships) -> None:
        check_replay(rows.source, "the entropy is summed again after every step (the criterion "
                     "'quadratic' reads them once)")  # fmt: skip
        self._all = rows
        self._own, self._both = rows.zeros(1), rows.zeros(2)
        self._place = torch.arange(len(self._own), device=self._own.device)
        total = 0.0
        for r, w in rows:
            total += float(w.sum())
            self._own += _xlogx(r) @ w
            for i in range(len(r)):
                self._both[i] += _xlogx(r[i] + r) @ w
        self._own, self._both = rows.source.group.sum((self._own, self._both))
        self.rows = rows.total(total)

    def entropy(self) -> float:
        # sums of many terms that are 0 or less: rounding must not make a negative entropy
        return max(0.0, -float(self._own.sum()) / self.rows)

    def gain(self) -> Tensor:
        return self._both - self._own - self._own[:, None]

    def join(self, one: int, other: int) -> None:
        self._place[self._place == other] = one
        self._own[one], self._own[other] = self._both[one, other].clone(), 0.0
        if len(set(self._place.tolist())) < 3:  # nothing is left to choose
            return
        new = torch.zeros_like(self._own)
        for r, w in self._all:
            t = one_hot(self._place, len(r)).mT.double() @ r
            new += _xlogx(t[one] + t) @ w
        (new,) = self._all.source.group.sum((new,))
        self._both[one], self._both[:, one] = new, new


class _Quadratic:
    """`1 - sum t^2`: the sums of products of memberships add when clusters are joined."""

    def __init__(self, rows: _Memberships) -> None:
        self._products, total = rows.zeros(2), 0.0
        for r, w in rows:
            total += float(w.sum())
            self._products += (r * w) @ r.mT
        (self._products,) = rows.source.group.sum((self._products,))
        self.rows = rows.total(total)

    def entropy(self) -> float:
        return max(0.0, 1 - float(self._products.diagonal().sum()) / self.rows)

    def gain(self) -> Tensor:
        return 2 * self._products

    def join(self, one: int, other: int) -> None:
        self._products[one] += self._products[other]
        self._products[:, one] += self._products[:, other]
        self._products[other], self._products[:, other] = 0.0, 0.0


_CRITERIA: dict[str, type[_Shannon] | type[_Quadratic]] = {
    "entropy": _Shannon,
    "quadratic": _Quadratic,
}


def _xlogx(t: Tensor) -> Tensor:
    return torch.xlogy(t, t)


def _misfit(values: tuple[float, ...], start: int, stop: int) -> float:
    """Squared distance of some consecutive values from their straight line."""
    y = torch.tensor(values[start:stop], dtype=torch.float64)
    x = torch.arange(start, stop, dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float(((y - x * (x @ y) / (x @ x)) ** 2).sum())


def _numbers(group: list[int]) -> str:
    return "{" + ", ".join(map(str, group)) + "}"
