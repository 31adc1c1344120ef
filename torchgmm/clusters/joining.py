"""`cluster`: the hierarchy of components, joined two by two."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..collective import together
from ..errors import InputError
from ..kernels import full_precision
from ..mixture import GaussianMixture
from ..mixture.reading import rows_of
from .doubt import CRITERIA, Doubt, Memberships
from .result import Clusters

__all__ = ["cluster"]


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
    if criterion not in CRITERIA:
        raise InputError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    source = rows_of(mixture, data, weights)
    with full_precision(mixture.device):
        entropy, joined, n_rows = _hierarchy(CRITERIA[criterion](Memberships(mixture, source)))
    return Clusters(mixture, joined, entropy, n_rows)


def _hierarchy(doubt: Doubt) -> tuple[tuple[float, ...], tuple[tuple[int, int], ...], float]:
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
