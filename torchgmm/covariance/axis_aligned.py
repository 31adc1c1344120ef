"""Covariances along the axes: diagonal and spherical, per component or tied."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from .. import linalg
from ..answers import holds
from ..errors import InputError
from ..moments import Moments
from .base import Family, Whitened, register

__all__ = ["Diagonal", "Spherical", "TiedDiagonal", "TiedSpherical"]


class _AxisAligned(Family):
    """Covariances `diag(s^2)`; the factor is the vector of standard deviations s."""

    n_axes = 1

    @abstractmethod
    def join(self, per_feature: Tensor) -> Tensor:
        """Sum `(..., D)` over the features that share one variance."""

    @abstractmethod
    def drop(self, vector: Tensor) -> Tensor:
        """The public form of a factor-shaped `(..., D)` or `(..., 1)`."""

    @abstractmethod
    def lift(self, public: Tensor) -> Tensor:
        """The inverse of `drop`."""

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        one = torch.empty(self.scale_shape(n_components, n_features), device="meta")
        return tuple(self._public(one).shape)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return self.heads(n_components) * self.factor_shape(n_features)[0]

    def min_rows(self, n_features: int) -> int:
        return 2

    def factor(self, scale: Tensor) -> Tensor:
        return scale.exp()

    def unconstrained(self, factor: Tensor) -> Tensor:
        return factor.log()

    def half_log_det(self, scale: Tensor, n_features: int) -> Tensor:
        return scale.expand(*scale.shape[:-1], n_features).sum(-1)

    def dense_tril(self, scale: Tensor, n_components: int, n_features: int) -> Tensor:
        shape = (*scale.shape[:-2], n_components, n_features)
        return torch.diag_embed(self.factor(scale).expand(shape))

    def covariances(self, scale: Tensor) -> Tensor:
        return self._public((2 * scale).exp())

    def precisions(self, scale: Tensor) -> Tensor:
        return self._public((-2 * scale).exp())

    def _public(self, vector: Tensor) -> Tensor:
        return self.drop(vector.squeeze(-2) if self.tied else vector)

    def from_covariances(self, covariances: Tensor, n_features: int) -> Tensor:
        if not linalg.positive(covariances):
            raise InputError(
                f"variances must be above zero, got {float(covariances.min()):g}: "
                "add a small constant"
            )
        vector = self.lift(covariances).log() / 2
        return vector.unsqueeze(-2) if self.tied else vector

    def by_scale(self, excess: Tensor, scale: Tensor) -> Tensor:
        return excess  # a factor's derivative by its own log is the factor

    def rounded(self, scale: Tensor, share: Tensor, variance: Tensor) -> Tensor:
        share, variance = share.unsqueeze(-1), variance.unsqueeze(-1)
        return ((1 - share) * (2 * scale).exp() + share * variance).log() / 2

    def whitener(self, scale: Tensor) -> Tensor:
        return (-scale).exp().unsqueeze(-2)  # (*B, H, 1, D)

    def whiten(
        self, d: Tensor, whitener: Tensor, shift: Tensor | None, out: Tensor | None
    ) -> Tensor:
        if shift is None:
            return torch.mul(d, whitener, out=out)
        return torch.addcmul(shift, d, whitener, out=out)

    def scatter(self, seen: Whitened, r: Tensor) -> Tensor:
        per_feature = (r.unsqueeze(-2) @ seen.squares).squeeze(-2)  # (*B, K, D)
        if not holds(torch.isfinite(per_feature).all()):
            # squares overflowed on rows that belong wholly to others, and 0 * inf is no 0
            present = seen.squares.masked_fill_(r.unsqueeze(-1) == 0, 0)
            per_feature = (r.unsqueeze(-2) @ present).squeeze(-2)
        return self.pool(self.join(per_feature), 1)

    def colour(self, whitened: Tensor, factor: Tensor) -> Tensor:
        return whitened * factor

    def colour_second(self, whitened: Tensor, factor: Tensor) -> Tensor:
        return whitened * factor**2

    def unit_second(self, weight: Tensor, n_features: int) -> Tensor:
        per_feature = weight.unsqueeze(-1).expand(*weight.shape, n_features)
        return self.pool(self.join(per_feature), 1)

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        return self.pool(self.join(a * b), 1)

    def estimate(
        self,
        moments: Moments,
        floor: float | Tensor,
        central: Tensor | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        central = self.central(moments) if central is None else central
        shared = moments.first.shape[-1] / moments.second.shape[-1]  # features per variance
        variance = (central / shared).clamp_min(0) + floor
        hopeless = (variance <= 0).any(-1)
        return variance.log() / 2, hopeless


class _PerFeature(_AxisAligned):
    def factor_shape(self, n_features: int) -> tuple[int, ...]:
        return (n_features,)

    def join(self, per_feature: Tensor) -> Tensor:
        return per_feature

    def drop(self, vector: Tensor) -> Tensor:
        return vector

    def lift(self, public: Tensor) -> Tensor:
        return public


class _OneVariance(_AxisAligned):
    def factor_shape(self, n_features: int) -> tuple[int, ...]:
        return (1,)

    def join(self, per_feature: Tensor) -> Tensor:
        return per_feature.sum(-1, keepdim=True)

    def drop(self, vector: Tensor) -> Tensor:
        return vector.squeeze(-1)

    def lift(self, public: Tensor) -> Tensor:
        return public.unsqueeze(-1)


@register
class Diagonal(_PerFeature):
    """Every component has its own variance for every feature."""

    name: ClassVar[str] = "diagonal"


@register
class Spherical(_OneVariance):
    """Every component has one variance."""

    name: ClassVar[str] = "spherical"


@register
class TiedDiagonal(_PerFeature):
    """All components share one variance per feature (asked of scikit-learn since 2015)."""

    name: ClassVar[str] = "tied_diagonal"
    tied: ClassVar[bool] = True


@register
class TiedSpherical(_OneVariance):
    """All components share one variance: k-means with soft assignments."""

    name: ClassVar[str] = "tied_spherical"
    tied: ClassVar[bool] = True
