"""Full covariances: a Cholesky factor per component, or one for all (tied)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .. import linalg
from ..errors import InputError
from ..moments import Moments
from .base import Family, Whitened, register

__all__ = ["Full", "Tied"]


class _Matrix(Family):
    """Covariances `L L^T` without structure; the factor is L `(D, D)`."""

    n_axes = 2

    def factor_shape(self, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return self.heads(n_components) * n_features * (n_features + 1) // 2

    def min_rows(self, n_features: int) -> int:
        return n_features + 1

    def factor(self, scale: Tensor) -> Tensor:
        return linalg.from_log_cholesky(scale)

    def unconstrained(self, factor: Tensor) -> Tensor:
        return linalg.to_log_cholesky(factor)

    def half_log_det(self, scale: Tensor, n_features: int) -> Tensor:
        return scale.diagonal(dim1=-2, dim2=-1).sum(-1)

    def dense_tril(self, scale: Tensor, n_components: int, n_features: int) -> Tensor:
        factor = self.factor(scale)
        return factor.expand(*factor.shape[:-3], n_components, n_features, n_features)

    def covariances(self, scale: Tensor) -> Tensor:
        factor = self.factor(scale)
        return self._public(factor @ factor.mT)

    def precisions(self, scale: Tensor) -> Tensor:
        inverse = linalg.inverse_tril(self.factor(scale))
        return self._public(inverse.mT @ inverse)

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        shape = (n_features, n_features)
        return shape if self.tied else (n_components, *shape)

    def _public(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(-3) if self.tied else matrix

    def from_covariances(self, covariances: Tensor, n_features: int) -> Tensor:
        asymmetry = float((covariances - covariances.mT).abs().amax())
        size = float(covariances.abs().amax())
        # half the digits of the dtype: what a float32 product A A^T leaves is far below that
        if not asymmetry <= size * torch.finfo(covariances.dtype).eps ** 0.5:
            raise InputError(
                f"covariances must be symmetric, but entries differ from their mirror images by "
                f"up to {asymmetry:g}"
            )
        factor, info = torch.linalg.cholesky_ex(linalg.symmetric(covariances))
        if bool((info != 0).any()):
            index = tuple((info != 0).nonzero()[0].tolist())
            least = float(torch.linalg.eigvalsh(covariances[index]).min())
            raise InputError(
                f"covariances must be positive definite, but number {list(index)} has the "
                f"eigenvalue {least:g}: add a small multiple of the identity"
            )
        return self.unconstrained(factor.unsqueeze(-3) if self.tied else factor)

    def by_scale(self, excess: Tensor, scale: Tensor) -> Tensor:
        by_factor = (self.whitener(scale) @ excess).tril()
        diagonal = scale.diagonal(dim1=-2, dim2=-1).exp()
        by_log = by_factor.diagonal(dim1=-2, dim2=-1) * diagonal
        return by_factor.tril(-1) + torch.diag_embed(by_log)

    def unitless(self, change: Tensor, spread: Tensor) -> Tensor:
        # logs on the diagonal have no unit, what is below them has
        logs = change.diagonal(dim1=-2, dim2=-1).diag_embed()
        return logs + change.tril(-1) / spread[:, None]

    def rounded(self, scale: Tensor, share: Tensor, variance: Tensor) -> Tensor:
        factor = self.factor(scale)
        share, variance = share[..., None, None], variance[..., None, None]
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        drawn = (1 - share) * (factor @ factor.mT) + share * variance * eye
        return self.unconstrained(torch.linalg.cholesky(drawn))

    def whitener(self, scale: Tensor) -> Tensor:
        return linalg.inverse_tril(self.factor(scale)).mT

    def whiten(
        self, d: Tensor, whitener: Tensor, shift: Tensor | None, out: Tensor | None
    ) -> Tensor:
        size = d.shape[-1]
        if d.dim() == 3 and not self.tied:
            return _product(d, whitener, out, shift)
        inverse = whitener.reshape(-1, size, size)
        rows = d.reshape(inverse.shape[0], -1, size)  # tied: K joins the rows of one product
        into = None if out is None else out.view(rows.shape)
        if shift is None or self.tied:
            z = _product(rows, inverse, into).view(d.shape)
            return z if shift is None else torch.add(z, shift, out=out)
        return _product(rows, inverse, into, shift.reshape(-1, 1, size)).view(d.shape)

    def scatter(self, seen: Whitened, r: Tensor) -> Tensor:
        z, weighted = seen.z, torch.mul(seen.z, r.unsqueeze(-1), out=seen.squares)
        if self.tied or z.dim() > 3:
            shape = (*r.shape[:-2], self.heads(r.shape[-2]), -1, z.shape[-1])
            z, weighted = z.view(shape), weighted.view(shape)
        return linalg.product(weighted.mT, z)

    def colour(self, whitened: Tensor, factor: Tensor) -> Tensor:
        # whitened (*B, K, D), factor (*B, H, D, D)
        return linalg.apply(factor, whitened)

    def colour_second(self, whitened: Tensor, factor: Tensor) -> Tensor:
        return linalg.product(linalg.product(factor, whitened), factor.mT)

    def packed(self, second: Tensor) -> Tensor:
        rows, columns = _lower(second.shape[-1], second.device)
        return second[..., rows, columns]

    def unpacked(self, packed: Tensor, n_features: int) -> Tensor:
        rows, columns = _lower(n_features, packed.device)
        second = packed.new_empty(*packed.shape[:-1], n_features, n_features)
        second[..., rows, columns] = packed
        second[..., columns, rows] = packed
        return second

    def unit_second(self, weight: Tensor, n_features: int) -> Tensor:
        eye = torch.eye(n_features, dtype=weight.dtype, device=weight.device)
        return self.pool(weight[..., None, None] * eye, 2)

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        if self.tied:
            return (a.mT @ b).unsqueeze(-3)
        return a.unsqueeze(-1) * b.unsqueeze(-2)

    def estimate(
        self,
        moments: Moments,
        floor: float | Tensor,
        central: Tensor | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        central = self.central(moments) if central is None else central
        factor, hopeless = linalg.cholesky(central, floor)
        return self.unconstrained(factor), hopeless


def _product(
    rows: Tensor,  # (H, n, D)
    inverse: Tensor,  # (H, D, D)
    out: Tensor | None,
    shift: Tensor | None = None,  # (H, 1, D)
) -> Tensor:
    """`rows @ inverse + shift`, in the order in which the rows lie: a copy costs more than this."""
    factors, turned = (rows, inverse), rows.stride(-2) < rows.stride(-1)
    if turned:
        factors = (inverse.mT, rows.mT)
        out, shift = (None if t is None else t.mT for t in (out, shift))
    if shift is None:
        product = torch.bmm(*factors, out=out)
    else:
        product = torch.baddbmm(shift, *factors, out=out)
    return product.mT if turned else product


def _lower(size: int, device: torch.device) -> Tensor:
    """Rows and columns of the lower triangle, `(2, P)`."""
    return torch.tril_indices(size, size, device=device)


@register
class Full(_Matrix):
    """Every component has its own covariance matrix."""

    name: ClassVar[str] = "full"


@register
class Tied(_Matrix):
    """All components share one covariance matrix (linear discriminant analysis)."""

    name: ClassVar[str] = "tied"
    tied: ClassVar[bool] = True
    reads_columns: ClassVar[bool] = False  # the rows of all components are those of one product
