"""Where a fit starts: drawn as scikit-learn draws it, or given by the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.utils import check_array
from torch import Tensor

from ..covariance import Family, Floor
from ..data import Block, Source
from ..errors import InputError
from ..kernels import labelled_sums, weighted_sums
from ..moments import Moments
from ..parameters import Parameters
from ..seeding import Seeding, maximum
from .attributes import scale_from_cholesky

__all__ = ["AsScikitLearn", "Given", "check_given"]


@dataclass(frozen=True)
class AsScikitLearn(Seeding):
    """The starts of scikit-learn, with its own k-means and from its generator.

    So equal `random_state` give equal fits, here and there. Memory is that of scikit-learn's
    k-means; no table rows x components is made.

    Args:
        init_params: `kmeans`, `k-means++`, `random` or `random_from_data`.
        random_state: drawn from in scikit-learn's order.
        rows: all rows `(N, D)`, those of weight 0 included.
        weights: of the rows `(N,)`.
    """

    init_params: str
    random_state: np.random.RandomState
    rows: np.ndarray
    weights: np.ndarray | None

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        moments = _DRAWN[self.init_params](self, source, n_components, family)
        return maximum(moments, family, floor)

    def clusters(self, source: Source, n_components: int, family: Family) -> Moments:
        """Every row belongs to its cluster of k-means."""
        found = KMeans(n_components, n_init=1, random_state=self.random_state)
        found.fit(self.rows, sample_weight=self.weights)
        labels = torch.from_numpy(found.labels_).long()
        device = source.first().x.device
        centres = torch.from_numpy(found.cluster_centers_).to(device, torch.float64)

        def cluster(block: Block) -> Tensor:
            return labels[block.numbers()].to(device)

        return labelled_sums(source.blocks(), centres, family, cluster).moments()

    def spread_out(self, source: Source, n_components: int, family: Family) -> Moments:
        """Means at the rows that k-means++ chooses."""
        _, chosen = kmeans_plusplus(
            self.rows, n_components, sample_weight=self.weights, random_state=self.random_state
        )
        return self._at(chosen, source, family)

    def at_random_rows(self, source: Source, n_components: int, family: Family) -> Moments:
        """Means at different rows, drawn at random."""
        present = None if self.weights is None else np.flatnonzero(self.weights)
        count = len(self.rows) if present is None else len(present)
        chosen = self.random_state.choice(count, size=n_components, replace=False)
        return self._at(chosen if present is None else present[chosen], source, family)

    def at_random(self, source: Source, n_components: int, family: Family) -> Moments:
        """Every row belongs to every component by a random amount."""
        centre = source.first().x.double().mean(0)
        frame = centre.expand(n_components, -1).contiguous()

        def draw(block: Block) -> Tensor:
            r = torch.from_numpy(self.random_state.uniform(size=(len(block.x), n_components)))
            return (r / r.sum(1, keepdim=True)).mT.contiguous()

        return weighted_sums(source.blocks(), frame, family, draw).moments()

    def _at(self, chosen: np.ndarray, source: Source, family: Family) -> Moments:
        """Components that own one row each, without spread.

        A tied covariance is, in scikit-learn's formula for this start, the second moment about
        the origin of all rows that were not chosen: wide, but that of the reference.
        """
        device = source.first().x.device
        rows = torch.from_numpy(np.asarray(self.rows[chosen], dtype=np.float64)).to(device)
        weight = torch.ones(len(chosen), dtype=torch.float64, device=device)
        if self.weights is not None:
            weight = torch.from_numpy(self.weights[chosen]).to(device)
        second = rows.new_zeros(family.scale_shape(*rows.shape))
        if family.tied:
            second = second - family.outer(rows * weight[:, None], rows)
            for block in source.blocks():
                x = block.x.double()
                wx = x if block.w is None else x * block.w.double()[:, None]
                second += family.outer(wx, x)
        nothing = weight.new_zeros(())
        return Moments(weight, torch.zeros_like(rows), second, nothing, weight.sum(), rows)


_Drawn = Callable[[AsScikitLearn, Source, int, Family], Moments]
_DRAWN: dict[str, _Drawn] = {
    "kmeans": AsScikitLearn.clusters,
    "k-means++": AsScikitLearn.spread_out,
    "random_from_data": AsScikitLearn.at_random_rows,
    "random": AsScikitLearn.at_random,
}


@dataclass(frozen=True)
class Given(Seeding):
    """A start of which the user gave some parts; the others are drawn.

    Args:
        drawn: where the parts that were not given come from.
        weights: `(K,)`.
        means: `(K, D)`.
        scale: the covariances in the family's unconstrained form.
    """

    drawn: Seeding
    weights: Tensor | None
    means: Tensor | None
    scale: Tensor | None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to draw."""
        return self.weights is not None and self.means is not None and self.scale is not None

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        device = source.first().x.device
        logits = None if self.weights is None else self.weights.log()
        parts = [logits, self.means, self.scale]
        if not self.complete:
            start = self.drawn(source, n_components, family, floor, generator)
            drawn = (start.log_weights, start.means, start.scale)
            parts = [
                own if own is not None else other for own, other in zip(parts, drawn, strict=True)
            ]
        given = [part.to(device) for part in parts if part is not None]
        return Parameters(given[0], given[1], given[2], family)


def check_given(
    estimator: Any, family: Family, n_features: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`weights_init`, `means_init` and `precisions_init` as float64 tensors; the last as `scale`.

    Raises:
        InputError: of another shape, weights that are none, precisions that are not positive.
    """
    k = estimator.n_components
    weights = _table(estimator.weights_init, "weights", (k,))
    if weights is not None:
        _check_weights(weights)
    means = _table(estimator.means_init, "means", (k, n_features))
    kind = estimator.covariance_type
    shape = tuple(family.covariance_shape(k, n_features))
    precisions = _table(estimator.precisions_init, f"{kind} precision", shape)
    scale = None
    if precisions is not None:
        if family.n_axes == 1 and not bool((precisions > 0).all()):
            raise InputError(f"'{kind} precision' should be positive")
        cholesky = _upper_factor(precisions, kind) if family.n_axes == 2 else precisions.sqrt()
        scale = scale_from_cholesky(cholesky, family, n_features)
    return weights, means, scale


def _table(values: Any, name: str, shape: tuple[int, ...]) -> Tensor | None:
    if values is None:
        return None
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if not (shape or np.ndim(values)):  # one variance for all; scikit-learn knows no such array
        return torch.tensor(float(values), dtype=torch.float64)
    table = check_array(values, dtype=np.float64, ensure_2d=False, allow_nd=True)
    if table.shape != shape:
        raise InputError(
            f"The parameter '{name}' should have the shape of {shape}, but got {table.shape}"
        )
    return torch.from_numpy(np.array(table))


def _check_weights(weights: Tensor) -> None:
    least, most = float(weights.min()), float(weights.max())
    if least < 0 or most > 1:
        raise InputError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{most:.5f}, min value {least:.5f}"
        )
    total = float(weights.sum())
    if abs(total - 1) > 1e-6:  # float32 weights sum to one no closer
        raise InputError(
            f"The parameter 'weights' should be normalized, but got sum(weights) = {total:.5f}"
        )


def _upper_factor(precisions: Tensor, kind: str) -> Tensor:
    """The upper triangular P with `P P^T = precisions`: Cholesky from the last feature back."""
    if torch.allclose(precisions, precisions.mT):
        factor, info = torch.linalg.cholesky_ex(precisions.flip(-1, -2))
        if not bool(info.any()):
            return torch.flip(factor, (-1, -2))
    raise InputError(f"'{kind} precision' should be symmetric, positive-definite")
