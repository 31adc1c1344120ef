"""Drawing: rows of a mixture, with gradients or without; its mean, covariance and entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..exact import reachable
from ..parameters import Parameters
from .implicit import follow
from .tensors import MixtureTensors

__all__ = ["Drawing", "Estimate", "draw"]


class Estimate(NamedTuple):
    """A Monte-Carlo estimate and its standard error, both `(*B,)`."""

    value: Tensor
    standard_error: Tensor


class Drawing(MixtureTensors):
    """A mixture's tensors, random rows from them, and what can be said of such rows."""

    def log_prob(self, x: Any) -> Tensor:
        """Log-density of every row, `(*B, N)`, in nats."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """Mean of the whole mixture, `(*B, D)`, as torch.distributions has it."""
        found: Tensor = self.as_distribution().mean
        return found

    @property
    def variance(self) -> Tensor:
        """Variance of each feature under the whole mixture, `(*B, D)`."""
        found: Tensor = self.as_distribution().variance
        return found

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance of the whole mixture, `(*B, D, D)`: within components and between them.

        Example:
            >>> import torchgmm as tg
            >>> mixture = tg.GaussianMixture.from_covariances(
            ...     [0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], "diagonal")
            >>> mixture.mean.tolist(), mixture.covariance_matrix.round(decimals=4).tolist()
            ([0.0, 0.0], [[10.0, 0.0], [0.0, 1.0]])
        """
        root = self.weights.sqrt().unsqueeze(-1)  # (*B, K, 1)
        apart = (root * (self.means - self.mean.unsqueeze(-2))).unsqueeze(-1)
        parts = torch.cat([root.unsqueeze(-1) * self.scale_tril, apart], -1)  # (*B, K, D, D + 1)
        return (parts @ parts.mT).sum(-3)

    @torch.no_grad()
    def sample(
        self, sample_shape: int | Sequence[int] = (), generator: torch.Generator | int | None = None
    ) -> Tensor:
        """Independent rows, `(*sample_shape, *B, D)`.

        Args:
            sample_shape: leading shape, as in torch.distributions; a number n is `(n,)`.
            generator: on the mixture's device, or a seed; torch's global one if not given.
        """
        rows, _ = self.sample_with_labels(sample_shape, generator)
        return rows

    @torch.no_grad()
    def sample_with_labels(
        self, sample_shape: int | Sequence[int] = (), generator: torch.Generator | int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Independent rows `(*sample_shape, *B, D)` and their components `(*sample_shape, *B)`."""
        self.require_size("sample")
        wanted = _shape(sample_shape)
        rows, labels = draw(self.as_parameters(), wanted.numel(), generator)
        shape = (*wanted, *self.batch_shape)
        rows = rows.movedim(-2, 0).reshape(*shape, rows.shape[-1])
        return rows, labels.movedim(-1, 0).reshape(shape)

    def rsample(
        self, sample_shape: int | Sequence[int] = (), generator: torch.Generator | int | None = None
    ) -> Tensor:
        """Independent rows `(*sample_shape, *B, D)` with gradients in all three tensors.

        The rows are those of `sample` from the same generator. Their gradients are implicit
        reparameterisation gradients (Graves 2016; Figurnov, Mohamed & Mnih 2018), so that the
        gradient of `f(mixture.rsample((n,))).mean()` is an unbiased estimate of that of `E f(x)`,
        in the weights too, for any differentiable f and every family. The order of the features
        has a part in the noise of the estimate and none in its mean. Backward takes memory for a
        chunk of rows, whatever n is, and cannot be differentiated again.

        Rows go from one component to another only through the valley of density between them, and
        move the faster there the lower it is. So the gradient in the logits is noisy where
        components hardly overlap: of two equal ones that are 2, 4, 6 or 8 standard deviations
        apart, the noise of a single row is 0.3, 1, 2.6 or 10 times the gradient of `E x`. Further
        apart, a score-function estimate from `sample` and `log_prob` is the better one.

        Args:
            sample_shape: leading shape, as in torch.distributions; a number n is `(n,)`.
            generator: on the mixture's device, or a seed; torch's global one if not given.

        Example:
            >>> import torch, torchgmm as tg
            >>> mixture = tg.GaussianMixture(3, 2)
            >>> mixture.rsample((1000,)).square().sum(-1).mean().backward()
            >>> [tuple(p.grad.shape) for p in mixture.parameters()]
            [(3,), (3, 2), (3, 2, 2)]
        """
        self.require_size("rsample")
        wanted = _shape(sample_shape)
        own = self.as_parameters()
        rows = follow(draw(own, wanted.numel(), generator)[0], own)
        return rows.movedim(-2, 0).reshape(*wanted, *self.batch_shape, own.n_features)

    @torch.no_grad()
    def entropy(
        self, n_samples: int = 10_000, generator: torch.Generator | int | None = None
    ) -> Estimate:
        """Monte-Carlo estimate of the differential entropy `-E log p`, in nats.

        No closed form exists for a mixture. The error falls with the root of `n_samples`.
        """
        checks.check_count("n_samples", n_samples, least=2)
        x = self.sample((n_samples,), generator)
        x = x.movedim(0, -2)  # (*B, n, D)
        surprise = -self.log_prob(x)
        return Estimate(surprise.mean(-1), surprise.std(-1) / n_samples**0.5)


def _shape(sample_shape: int | Sequence[int]) -> torch.Size:
    """The leading shape of what is drawn."""
    sizes = sample_shape if isinstance(sample_shape, Sequence) else [sample_shape]
    return torch.Size([checks.check_count("sample_shape", size, least=0) for size in sizes])


@torch.no_grad()
def draw(
    parameters: Parameters, count: int, generator: torch.Generator | int | None = None
) -> tuple[Tensor, Tensor]:
    """`count` independent rows `(*B, n, D)` and their components `(*B, n)`, without gradients."""
    if generator is not None:
        generator = checks.as_generator(generator, parameters.means.device)
    family, (k, d) = parameters.family, parameters.means.shape[-2:]
    weights = parameters.logits.softmax(-1).reshape(-1, k)
    # multinomial refuses to draw nothing
    labels = torch.multinomial(weights, max(1, count), replacement=True, generator=generator)
    labels = labels[:, :count]  # (B, n)
    noise = torch.randn(
        (len(weights), count, d), dtype=weights.dtype, device=weights.device, generator=generator
    )
    heads = family.heads(k)
    # which may take a matrix to be solved: devices without float64 are poor at that, too
    factor = family.factor(reachable(parameters.scale)).to(noise.device)
    factor = factor.reshape(-1, heads, *factor.shape[len(parameters.batch_shape) + 1 :])
    means = parameters.means.reshape(-1, k, d)
    for b in range(len(weights)):
        # one factor at a time: no (n, D, D) gather
        for j in labels[b].bincount().nonzero().flatten().tolist():
            mine = labels[b] == j
            own = factor[b, j if heads > 1 else 0]
            noise[b, mine] = means[b, j] + family.colour(noise[b, mine], own)
    shape = (*parameters.batch_shape, count)
    return noise.reshape(*shape, d), labels.reshape(shape)
