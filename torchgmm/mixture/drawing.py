"""Drawing: independent rows of a mixture, with gradients or without, and its entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..parameters import Parameters
from .implicit import follow
from .tensors import MixtureTensors

__all__ = ["Drawing", "Estimate", "draw"]


class Estimate(NamedTuple):
    """A Monte-Carlo estimate and its standard error, both `(*B,)`."""

    value: Tensor
    standard_error: Tensor


class Drawing(MixtureTensors):
    """A mixture's tensors, and random rows from them."""

    def log_prob(self, x: Any) -> Tensor:
        """Log-density of every row, `(*B, N)`, in nats."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent rows, `(*sample_shape, *B, D)`.

        Args:
            sample_shape: leading shape, as in torch.distributions.
            generator: on the mixture's device; torch's global one if not given.
        """
        rows, _ = self.sample_with_labels(sample_shape, generator)
        return rows

    @torch.no_grad()
    def sample_with_labels(
        self, sample_shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Independent rows `(*sample_shape, *B, D)` and their components `(*sample_shape, *B)`."""
        self.require_size("sample")
        count = torch.Size(sample_shape).numel()
        rows, labels = draw(self.as_parameters(), count, generator)
        shape = (*sample_shape, *self.batch_shape)
        rows = rows.movedim(-2, 0).reshape(*shape, rows.shape[-1])
        return rows, labels.movedim(-1, 0).reshape(shape)

    def rsample(
        self, sample_shape: Sequence[int] = (), generator: torch.Generator | None = None
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
            sample_shape: leading shape, as in torch.distributions.
            generator: on the mixture's device; torch's global one if not given.

        Example:
            >>> import torch, torchgmm as tg
            >>> mixture = tg.GaussianMixture(3, 2)
            >>> mixture.rsample((1000,)).square().sum(-1).mean().backward()
            >>> [tuple(p.grad.shape) for p in mixture.parameters()]
            [(3,), (3, 2), (3, 2, 2)]
        """
        self.require_size("rsample")
        count = torch.Size(sample_shape).numel()
        own = self.as_parameters()
        rows = follow(draw(own, count, generator)[0], own)
        return rows.movedim(-2, 0).reshape(*sample_shape, *self.batch_shape, own.n_features)

    @torch.no_grad()
    def entropy(
        self, n_samples: int = 10_000, generator: torch.Generator | None = None
    ) -> Estimate:
        """Monte-Carlo estimate of the differential entropy `-E log p`, in nats.

        No closed form exists for a mixture. The error falls with the root of `n_samples`.
        """
        checks.check_count("n_samples", n_samples, least=2)
        x = self.sample((n_samples,), generator)
        x = x.movedim(0, -2)  # (*B, n, D)
        surprise = -self.log_prob(x)
        return Estimate(surprise.mean(-1), surprise.std(-1) / n_samples**0.5)


@torch.no_grad()
def draw(
    parameters: Parameters, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """`count` independent rows `(*B, n, D)` and their components `(*B, n)`, without gradients."""
    family, (k, d) = parameters.family, parameters.means.shape[-2:]
    weights = parameters.logits.softmax(-1).reshape(-1, k)
    # multinomial refuses to draw nothing
    labels = torch.multinomial(weights, max(1, count), replacement=True, generator=generator)
    labels = labels[:, :count]  # (B, n)
    noise = torch.randn(
        (len(weights), count, d), dtype=weights.dtype, device=weights.device, generator=generator
    )
    heads = family.heads(k)
    factor = family.factor(parameters.scale)
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
