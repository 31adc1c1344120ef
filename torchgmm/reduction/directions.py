"""The few directions in which the components of a mixture differ most."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..algebra.common import Mixture, exact
from ..errors import InputError
from .projection import Projection

__all__ = ["discriminant"]


@torch.no_grad()
def discriminant(
    mixture: Mixture, n_components: int = 2, *, covariances: bool = True
) -> Projection:
    """Axes that show how components differ, in their means and, if wanted, their covariances.

    With `covariances=False` these are Fisher's discriminant axes, of the components in place of
    known classes: between their means at most, relative to the spread within them. With it they are
    those of Scrucca (2010, Statistics and Computing 20), which see components of one mean and
    different covariances too: in coordinates in which the whole mixture has unit covariance, the
    leading eigenvectors of `B^2 + sum_k pi_k (S_k - S)^2`, B the covariance of the means and S the
    mean of the covariances S_k. Where components differ in fewer directions than are wanted, the
    directions of largest variance that are left follow.

    Args:
        mixture: a `GaussianMixture` or `Parameters`; one, no batch.
        n_components: how many axes.
        covariances: whether differences of the covariances count.

    Returns:
        A projection with uncorrelated coordinates whose mean variance within components is 1; its
        `project` gives the mixture in the picture.

    Raises:
        InputError: more axes than features, a batch of mixtures, a mixture without spread.

    Example:
        >>> import torchgmm as tg
        >>> mixture = tg.GaussianMixture.from_covariances(
        ...     [0.5, 0.5], [[0.0, 0.0, 0.0], [0.0, 4.0, 0.0]], [[9.0, 1.0, 1.0]] * 2, "diagonal")
        >>> view = tg.discriminant(mixture, 1)
        >>> view.project(mixture).means.abs().flatten().tolist()
        [2.0, 2.0]
    """
    p = exact(mixture)
    if p.batch_shape:
        raise InputError(f"one mixture is needed, not a batch of shape {tuple(p.batch_shape)}")
    k, d = p.means.shape
    if checks.check_count("n_components", n_components) > d:
        raise InputError(f"n_components={n_components} is more than the {d} features")
    weights = p.log_weights.exp()
    mean = weights @ p.means
    factor = p.family.dense_tril(p.scale, k, d)
    own = factor @ factor.mT
    within = (weights[:, None, None] * own).sum(0)
    apart = (p.means - mean) * weights.sqrt().unsqueeze(-1)
    whole, info = torch.linalg.cholesky_ex(within + apart.mT @ apart)
    if int(info):
        raise InputError("the mixture's covariance cannot be told from a singular one in float64")

    def whitened(second: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(whole, second, upper=False)
        found: Tensor = torch.linalg.solve_triangular(whole, half.mT, upper=False).mT
        return found

    between = whitened(apart.mT @ apart)
    differ = between @ between
    if covariances:
        spread = whitened(own - within)
        differ = differ + (weights[:, None, None] * (spread @ spread.mT)).sum(0)
    axes = _directions(differ, whole, n_components)
    axes = axes / (axes @ within * axes).sum(-1, keepdim=True).sqrt()
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return Projection(mean, axes * largest.sign())


def _directions(differ: Tensor, whole: Tensor, count: int) -> Tensor:
    """Rows `(count, D)`: leading eigenvectors, then the rest by variance in the features' units."""
    values, vectors = torch.linalg.eigh(differ)
    told = int((values > 1e-9).sum())  # of numbers that are at most 1, and sums of their squares
    kept = vectors.flip(-1)[:, : min(count, told)]
    if told < count:
        left = vectors[:, : len(values) - told]
        # a unit of variance along L^-T q is 1 / |L^-T q|^2 per unit of length
        length = torch.linalg.solve_triangular(whole.mT, left, upper=True)
        order = torch.linalg.eigh(length.mT @ length)[1]
        kept = torch.cat([kept, (left @ order)[:, : count - told]], -1)
    directions: Tensor = torch.linalg.solve_triangular(whole.mT, kept, upper=True).mT
    return directions
