"""Covariances whose axes all components share: Flury's common principal components."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .. import linalg
from ..errors import InputError
from ..moments import Moments
from .base import register
from .full import Full
from .rotation import common_axes, from_lower, pulled_to_lower, signs, to_lower

__all__ = ["CommonAxes"]

# steps of the search for the axes: of an M-step, which has the last ones to start from, and of
# whatever begins anew
_WARM, _COLD = 20, 500


@register
class CommonAxes(Full):
    """Every component has its own variances, along orthogonal axes that all components share.

    `Sigma_k = Q diag(v_k) Q^T`: common principal components (Flury, JASA 79, 1984), VVE of mclust.
    `K D + D (D - 1) / 2` numbers stand between `diagonal`, whose axes are the features, and
    `full`, whose components turn freely.

    `scale` holds the logs of the deviations along the axes on its diagonals, and below them
    Cayley's form of Q. Every component has its copy of that, so that components come and go one
    by one; where copies differ their mean counts. The factor is `Q diag(s_k)`, no triangle.
    """

    name: ClassVar[str] = "common_axes"
    coupled: ClassVar[bool] = True
    closed: ClassVar[bool] = False

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features + n_features * (n_features - 1) // 2

    # forms of the parameter -----------------------------------------------------------------

    def factor(self, scale: Tensor) -> Tensor:
        return self._axes(scale).unsqueeze(-3) * _log_deviations(scale).exp().unsqueeze(-2)

    def unconstrained(self, factor: Tensor) -> Tensor:
        deviations = factor.norm(dim=-2)
        axes = (factor / deviations.unsqueeze(-2)).mean(-3)
        return _joined(axes, deviations.log())

    def dense_tril(self, scale: Tensor, n_components: int, n_features: int) -> Tensor:
        return linalg.lower_factor(self.factor(scale))

    def precisions(self, scale: Tensor) -> Tensor:
        whitener = self.whitener(scale)
        return whitener @ whitener.mT

    def from_covariances(self, covariances: Tensor, n_features: int) -> Tensor:
        super().from_covariances(covariances, n_features)  # what is none is refused there
        exact = linalg.symmetric(covariances.double())
        axes = common_axes(exact, exact.new_ones(exact.shape[:-2]), steps=_COLD, tolerance=1e-28)
        seen = axes.unsqueeze(-3).mT @ exact @ axes.unsqueeze(-3)
        variances = seen.diagonal(dim1=-2, dim2=-1)
        across = seen - torch.diag_embed(variances)
        size = variances.amax((-1, -2))
        left = across.abs().amax((-1, -2, -3)) / size
        # as much as is taken for rounding where a matrix should be symmetric
        if bool((left > torch.finfo(covariances.dtype).eps ** 0.5).any()):
            raise InputError(
                "common_axes covariances must have the same eigenvectors, but along the axes that "
                f"fit these best an entry of {float(left.max()):g} of the largest variance is left "
                "off the diagonals: take 'full' covariances"
            )
        order = variances.mean(-2).argsort(-1, descending=True)
        axes = axes.gather(-1, order.unsqueeze(-2).expand_as(axes))
        variances = variances.gather(-1, order.unsqueeze(-2).expand_as(variances))
        return _joined(axes * signs(axes).unsqueeze(-2), variances.log() / 2).to(covariances.dtype)

    def from_tril(self, factor: Tensor) -> Tensor:
        return self.from_covariances(factor @ factor.mT, factor.shape[-1])

    def whitener(self, scale: Tensor) -> Tensor:
        return self._axes(scale).unsqueeze(-3) * (-_log_deviations(scale)).exp().unsqueeze(-2)

    def _axes(self, scale: Tensor) -> Tensor:
        """Q `(*B, D, D)`."""
        return from_lower(scale.mean(-3))

    # what moves in the unconstrained form ---------------------------------------------------

    def by_scale(self, excess: Tensor, scale: Tensor) -> Tensor:
        spread = _log_deviations(scale).exp()
        turning = (excess * spread.unsqueeze(-2) / spread.unsqueeze(-1)).sum(-3)
        by_axes = self._axes(scale) @ turning
        lower = pulled_to_lower(by_axes, scale.mean(-3)) / scale.shape[-3]
        return lower.unsqueeze(-3) + torch.diag_embed(excess.diagonal(dim1=-2, dim2=-1))

    def unitless(self, change: Tensor, spread: Tensor) -> Tensor:
        return change

    def walked(self, frame: Tensor, point: Tensor) -> Tensor:
        """Deviations are multiplied, axes turned about those of the frame, each pair by its unit.

        Pairs of axes along which the variances of components differ much turn the less: by the
        square root of their Fisher information.
        """
        here = _log_deviations(frame)
        ratio = 2 * (here.unsqueeze(-1) - here.unsqueeze(-2))
        stiff = (ratio.cosh().mean(-3)).rsqrt()  # at most 1, and 1 where variances are equal
        turn = from_lower(point.mean(-3) * stiff)
        return _joined(self._axes(frame) @ turn, here + _log_deviations(point))

    def replaced(self, scale: Tensor, which: Tensor, other: Tensor) -> Tensor:
        """The others' variances along the axes of `scale`: for given axes the likeliest ones."""
        along = (self._axes(scale).mT.unsqueeze(-3) @ self.factor(other)).square().sum(-1)
        logs = torch.where(which.unsqueeze(-1), along.log() / 2, _log_deviations(scale))
        return _with_logs(scale, logs)

    def raised(self, scale: Tensor, less: float, more: float) -> Tensor:
        variances = (2 * _log_deviations(scale)).exp()
        return _with_logs(scale, ((variances - less).clamp_min(0) + more).log() / 2)

    def rounded(self, scale: Tensor, share: Tensor, variance: Tensor) -> Tensor:
        variances = (2 * _log_deviations(scale)).exp()
        share, variance = share.unsqueeze(-1), variance.unsqueeze(-1)
        return _with_logs(scale, ((1 - share) * variances + share * variance).log() / 2)

    # M-step ---------------------------------------------------------------------------------

    def estimate(
        self,
        moments: Moments,
        floor: float | Tensor,
        central: Tensor | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The axes by `common_axes`, from those of `before` if given, and the variances there.

        A covariance that is singular without a floor makes the likelihood of all infinite: it is
        reported, and left out of the search for the axes.
        """
        own = linalg.symmetric(self.central(moments) if central is None else central)
        eye = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
        hopeless = torch.zeros_like(moments.weight, dtype=torch.bool)
        if not isinstance(floor, Tensor) and floor == 0:
            hopeless = linalg.at_rounding(own)
        more = floor.diag_embed() if isinstance(floor, Tensor) else floor * eye
        own = torch.where(hopeless[..., None, None], eye, own + more)
        weight = moments.weight.masked_fill(hopeless, 0)
        start = None if before is None else self._axes(before)
        axes = common_axes(own, weight, start, steps=_COLD if start is None else _WARM)
        variances = (axes.unsqueeze(-3) * (own @ axes.unsqueeze(-3))).sum(-2)
        least = own.shape[-1] * torch.finfo(own.dtype).eps * variances.amax(-1, keepdim=True)
        # rounding must not take a variance below what the floor has along its axis
        along = floor @ axes.square() if isinstance(floor, Tensor) else least.new_tensor(floor)
        variances = variances.maximum(least.maximum(along))
        return _joined(axes, variances.log() / 2), hopeless


def _log_deviations(scale: Tensor) -> Tensor:
    """`(*B, K, D)`."""
    return scale.diagonal(dim1=-2, dim2=-1)


def _joined(axes: Tensor, log_deviations: Tensor) -> Tensor:
    """`scale` from `axes (*B, D, D)` and logs of deviations `(*B, K, D)`."""
    lower = to_lower(axes).unsqueeze(-3)
    return lower.expand(*log_deviations.shape, -1) + torch.diag_embed(log_deviations)


def _with_logs(scale: Tensor, log_deviations: Tensor) -> Tensor:
    lower = scale.tril(-1).mean(-3, keepdim=True)
    return lower.expand_as(scale) + torch.diag_embed(log_deviations)
