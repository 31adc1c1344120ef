"""Affine maps: the mixture of `A x + b` where x has the given one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..covariance import Family
from ..errors import InputError
from ..mixture.tensors import as_tensor
from ..parameters import Parameters
from .common import M, answer, exact, kind, lower_factor, made_of, variances

__all__ = ["affine"]


def affine(mixture: M, A: Any, b: Any = None) -> M:
    """The mixture of `y = A x + b`, the map of `torch.nn.Linear(D, E)` with weight A and bias b.

    The answer has the simplest family that holds it, of those with as many covariances:

    * full and tied stay what they are under every map;
    * diagonal and tied_diagonal stay where no column of A has two entries (scaling, permutation,
      reflection, choice of features), and become full and tied otherwise;
    * spherical and tied_spherical stay where `A A^T` is a multiple of the identity (to rounding),
      become (tied_)diagonal where it is diagonal, and full or tied otherwise;
    * common_axes stay where A is a multiple of an orthogonal matrix, and become full otherwise.

    Args:
        mixture: a `GaussianMixture`, or `Parameters`, through which gradients flow.
        A: `(E, D)` of rank E, or a number, which stands for a multiple of the identity.
        b: `(E,)` or a number; zero if not given.

    Raises:
        InputError: shapes that do not fit, numbers that are not finite, rows of A that depend on
            each other (the covariances would be singular).

    Example:
        >>> import torchgmm as tg
        >>> mixture = tg.GaussianMixture.from_covariances([1.0], [[1.0, 2.0]], [[4.0, 9.0]], "diag")
        >>> moved = tg.affine(mixture, [[0.0, 2.0], [1.0, 0.0]], 1.0)
        >>> moved.covariance, moved.means.tolist()
        ('diagonal', [[5.0, 2.0]])
    """
    p = exact(mixture)
    matrix, shift = _checked(A, b, p)
    means = p.means @ matrix.mT + shift
    own: Family = mixture.family
    if not own.closed and _turns(matrix.detach()):  # all axes alike: they stay axes
        family, factor = own, matrix @ own.factor(mixture.scale.to(torch.float64))
    elif p.family.n_axes == 2:
        family, factor = p.family, lower_factor(matrix @ p.family.factor(p.scale))
    else:
        family = _simplest(p.family, matrix.detach())
        factor = _axis_aligned(p, matrix, family)
    scale = family.unconstrained(factor)
    if not bool(torch.isfinite(scale).all()):
        raise InputError(
            f"the covariances of A x + b cannot be told from singular ones in float64: A has rows "
            f"that nearly depend on each other, or entries up to {float(matrix.abs().max()):g}"
        )
    return answer(Parameters(p.logits, means, scale, family), mixture)


def _turns(matrix: Tensor) -> bool:
    """Whether a square matrix is a multiple of an orthogonal one, to rounding."""
    if matrix.shape[0] != matrix.shape[1]:
        return False
    product = matrix @ matrix.mT
    size = product.diagonal().mean()
    rounding = 4 * len(matrix) * torch.finfo(_precision(matrix)).eps
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return bool((product / size - eye).abs().max() <= rounding)


def _axis_aligned(p: Parameters, matrix: Tensor, family: Family) -> Tensor:
    """The mapped factor of covariances along the axes."""
    if family.n_axes == 2:
        spread = variances(p).sqrt().unsqueeze(-2)  # (*B, H, 1, D)
        return lower_factor(matrix * spread)
    mapped = variances(p) @ (matrix * matrix).mT  # (*B, H, E)
    return mapped[..., : family.factor_shape(matrix.shape[0])[0]].sqrt()


def _simplest(family: Family, matrix: Tensor) -> Family:
    """The simplest family along the axes that holds the mapped covariances, or the matrices."""
    scalar, vector, dense = (1, 1), (1, 2), (2, 2)
    size = max(matrix.shape)
    rows = matrix.norm(dim=-1)
    # one variance: only A A^T counts; one per feature: any two that meet in a feature do
    spread = matrix if kind(family) == scalar else matrix.abs()
    product = spread @ spread.mT
    # entries of A A^T are sums of D products: what rounding leaves of a zero
    rounding = 4 * size * torch.finfo(_precision(matrix)).eps
    crossed = (product / rows / rows.unsqueeze(-1)).fill_diagonal_(0).abs()
    if bool((crossed > rounding).any()):
        return made_of(dense, tied=family.tied)
    equal = bool((rows.max() - rows.min()) <= rounding * rows.max())
    stays = equal if kind(family) == scalar else False
    return made_of(scalar if stays else vector, tied=family.tied)


def _precision(matrix: Tensor) -> torch.dtype:
    """What the numbers, float64 here, came out of."""
    return torch.float32 if torch.equal(matrix.float().double(), matrix) else torch.float64


def _checked(A: Any, b: Any, p: Parameters) -> tuple[Tensor, Tensor]:
    matrix, shift = (
        as_tensor(t).to(dtype=torch.float64, device=p.means.device)
        for t in (A, 0.0 if b is None else b)
    )
    if matrix.dim() == 0:
        matrix = matrix * torch.eye(p.n_features, dtype=torch.float64, device=p.means.device)
    if matrix.dim() != 2 or matrix.shape[1] != p.n_features or matrix.shape[0] < 1:
        raise InputError(
            f"A must be (E, {p.n_features}) to map {p.n_features} features, "
            f"got shape {tuple(matrix.shape)}"
        )
    if not bool(torch.isfinite(matrix).all()):
        raise InputError("A holds NaN or infinite values")
    rank = int(torch.linalg.matrix_rank(matrix.detach()))
    if rank < len(matrix):
        raise InputError(
            f"A of shape {tuple(matrix.shape)} has rank {rank}: the covariances of A x + b would "
            f"be singular; give {rank} independent rows"
        )
    if shift.dim() > 1 or (shift.dim() == 1 and len(shift) != len(matrix)):
        raise InputError(f"b must be ({len(matrix)},), got shape {tuple(shift.shape)}")
    if not bool(torch.isfinite(shift).all()):
        raise InputError("b holds NaN or infinite values")
    return matrix, shift
