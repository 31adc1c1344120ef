"""`Reduced`: a mixture of principal components that is asked about rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.common import lower_factor
from ..data import Encoded, as_source
from ..errors import InputError
from ..fitting import FitResult, fit
from ..mixture import GaussianMixture
from ..parameters import Parameters
from .pca import PCA

__all__ = ["Reduced"]

# rows that are projected at a time
_ROWS = 8192


class Reduced(nn.Module):
    """`PCA -> mixture`: fitted, asked and drawn from in the features of the rows.

    Densities are those of a row's part along the kept axes, in the units of the rows: whitening
    does not change them, and where all components are kept they are those of the row.

    Args:
        front: the principal components; fitted with the mixture if they are not yet.
        mixture: of the components.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
        >>> x = x @ torch.tensor([[9.0, 0, 0, 9], [0, 3, 0, 3], [0, 0, 0.1, 0]])
        >>> model = tg.Reduced(tg.PCA(2, whiten=True), tg.GaussianMixture(1))
        >>> result = model.fit(x)
        >>> model.log_prob(x).shape, model.sample((5,)).shape
        (torch.Size([1000]), torch.Size([5, 4]))
        >>> model.full().covariances.shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, front: PCA, mixture: GaussianMixture) -> None:
        super().__init__()
        if front.is_fitted and mixture.n_features not in (None, len(front.axes)):
            raise InputError(
                f"the mixture has n_features={mixture.n_features}, the front gives "
                f"{len(front.axes)} components"
            )
        self.front, self.mixture = front, mixture

    def fit(self, data: Any, *args: Any, weights: Any = None, **options: Any) -> FitResult:
        """Fit the front, if it is not fitted, in one pass; then the mixture, as `torchgmm.fit`.

        Args:
            data: rows `(N, D)`, whatever `torchgmm.fit` takes that can be read more than once.
            args: the method.
            weights: of the rows.
            options: of `torchgmm.fit`.
        """
        source = as_source(data, weights)
        if not source.replayable and not self.front.is_fitted:
            raise InputError(
                "these rows can be read only once, but the axes are learnt before the mixture: "
                "fit the PCA to other rows first, or give something that can be read again"
            )
        if not self.front.is_fitted:
            self.front.fit(source)
        return fit(self.mixture, Encoded(source, self.front, rows=_ROWS), *args, **options)

    def forward(self, x: Any) -> Tensor:
        """`log_prob(x)`."""
        return self.log_prob(x)

    def log_prob(self, x: Any) -> Tensor:
        """Log-density of every row's part along the axes, `(N,)`, nats. Differentiable."""
        level = self.mixture.log_prob(self.front(x))
        return level + self.front.log_det.to(level)

    def responsibilities(self, x: Any) -> Tensor:
        """Posterior probability of each component for every row, `(N, K)`. Differentiable."""
        return self.mixture.responsibilities(self.front(x))

    def predict(self, x: Any) -> Tensor:
        """The most probable component of every row, `(N,)`, int64."""
        return self.mixture.predict(self.front(x))

    def score(self, x: Any, weights: Any = None) -> Tensor:
        """Mean log-likelihood per row, nats, of its part along the axes."""
        level = self.mixture.score(self.front(x), weights)
        return level + self.front.log_det.to(level)

    def sample(
        self, sample_shape: int | Sequence[int] = (), generator: torch.Generator | int | None = None
    ) -> Tensor:
        """Independent rows in the plane of the axes, `(*sample_shape, D)`."""
        z = self.mixture.sample(sample_shape, generator)
        rows = self.front.inverse(z.reshape(-1, z.shape[-1]))
        return rows.reshape(*z.shape[:-1], -1)

    @torch.no_grad()
    def full(self, noise_variance: float | None = None) -> GaussianMixture:
        """The mixture of all D features, with equal noise along the axes that were left out.

        As in probabilistic PCA (Tipping & Bishop 1999): every component has its covariance along
        the axes and `noise_variance` in all other directions. A model of whole rows, whose
        densities compare with those of other mixtures; it holds K D^2 numbers.

        Args:
            noise_variance: the front's if not given.

        Raises:
            InputError: no noise, though axes were left out.
        """
        p = self.mixture.as_parameters(torch.float64)
        front, (m, d) = self.front, self.front.axes.shape
        noise = float(front.noise_variance) if noise_variance is None else noise_variance
        if m < d and not noise > 0:
            raise InputError(
                f"{d - m} axes were left out and have noise_variance={noise:g}: give one above 0"
            )
        factor = p.family.dense_tril(p.scale, p.n_components, m)
        inside = front.back @ factor  # (K, D, m)
        basis = torch.linalg.qr(front.back, mode="complete").Q[:, m:]
        outside = (max(noise, 0.0) ** 0.5 * basis).expand(len(inside), d, d - m)
        whole = lower_factor(torch.cat([inside, outside], -1))
        means = front.mean + p.means @ front.back.mT
        mixture = GaussianMixture(
            p.n_components, d, dtype=self.mixture.dtype, device=self.mixture.device
        )
        scale = mixture.family.unconstrained(whole)
        mixture.assign(Parameters(p.logits, means, scale, mixture.family))
        return mixture
