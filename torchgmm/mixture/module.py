"""GaussianMixture: the `nn.Module` that holds a mixture and answers questions about rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..kernels import (
    Dense,
    full_precision,
    is_traced,
    joint_log_prob,
    log_prob,
    squared_distances,
)
from ..parameters import filled_up, stacked
from .asking import asked_rows, by_chunk, tracks
from .drawing import Drawing, Estimate
from .totals import assignment_entropy, totals

if TYPE_CHECKING:
    from ..fitting import FitResult

__all__ = ["Estimate", "GaussianMixture", "stack"]


class GaussianMixture(Drawing):
    r"""A Gaussian mixture, `p(x) = sum_k pi_k N(x; mu_k, Sigma_k)`, as three tensors.

    `logits (*B, K)`, `means (*B, K, D)` and `scale` (the Cholesky factors of the covariances, the
    log on their diagonal) are `nn.Parameter`s: any value of them is a valid mixture, so
    `state_dict`, `.to()`, optimisers and data-parallel training need no special care. `fit`
    changes them in place.

    Rows are `(N, D)` (or `(*B, N, D)` with a batch of mixtures): a tensor, or anything that
    `torch.as_tensor` takes. They are computed in torch's promotion of their dtype and the
    mixture's, integers and half precision in the mixture's. No rows `(0, D)` have as many answers.
    All log-probabilities are in nats.

    Args:
        n_components: K.
        n_features: D; left out, it is learnt at the first fit or `load_state_dict`.
        covariance: a family or its name (`families()` lists them).
        batch_shape: leading axes of independent mixtures, which `fit` takes rows `(*B, N, D)` for.
        dtype: of the tensors; torch's default dtype if not given.
        device: of the tensors.
        generator: or a seed; for the start of the means, standard normal, where `n_features` is
            given.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.cat([torch.randn(500, 2) - 4, torch.randn(500, 2) + 4])
        >>> mixture = tg.GaussianMixture(n_components=2)
        >>> result = mixture.fit(x, generator=0)
        >>> mixture.weights.round(decimals=2).tolist()
        [0.5, 0.5]
        >>> mixture.log_prob(x).shape
        torch.Size([1000])
    """

    # questions about rows -----------------------------------------------------------------------

    def forward(self, x: Any) -> Tensor:
        """`log_prob(x)`."""
        return self.log_prob(x)

    def log_prob(self, x: Any) -> Tensor:
        """Log-density of every row, `(*B, N)`, in nats.

        Differentiable in `x` and in the three tensors. Memory is that of one chunk, in the
        backward pass too: it is one more E-step, weighted by the incoming gradient. Second
        derivatives take O(N K D). The computation stays in float32 under autocast.

        Example:
            As a head, the mixture and what comes before it learn together, under
            `DistributedDataParallel` too; `mixture.requires_grad_(False)` makes it a fixed prior.

            >>> import torch, torchgmm as tg
            >>> model = torch.nn.Sequential(torch.nn.Linear(8, 2), tg.GaussianMixture(3, 2))
            >>> loss = -model(torch.randn(100, 8)).mean()
            >>> loss.backward()
            >>> all(tensor.grad is not None for tensor in model.parameters())
            True
        """
        return log_prob(asked_rows(self, x), self.as_parameters())

    def log_joint(self, x: Any) -> Tensor:
        """`log pi_k + log N(x_n; mu_k, Sigma_k)`, `(*B, N, K)`, in nats. Differentiable."""
        rows = asked_rows(self, x)
        if tracks(self, rows):
            with full_precision(rows.device):
                return joint_log_prob(rows, self.as_parameters())
        return by_chunk(self, rows, lambda joint: joint.mT, trailing=(self.n_components,))

    def component_log_prob(self, x: Any) -> Tensor:
        """`log N(x_n; mu_k, Sigma_k)`, `(*B, N, K)`, in nats, whatever the weights. Differentiable.

        Of a component of weight zero too, where `log_joint` is -inf.
        """
        rows, p = asked_rows(self, x), self.as_parameters()
        equal = replace(p, logits=torch.zeros_like(p.logits))
        own = math.log(self.n_components)
        if tracks(self, rows):
            with full_precision(rows.device):
                return joint_log_prob(rows, equal) + own
        shape = (self.n_components,)
        return by_chunk(self, rows, lambda joint: joint.mT + own, trailing=shape, of=equal)

    def mahalanobis(self, x: Any) -> Tensor:
        """Squared distances `(x_n - mu_k)^T Sigma_k^-1 (x_n - mu_k)`, `(*B, N, K)`. Differentiable.

        Squared as in scikit-learn; of rows of their own component they are chi-squared with D
        degrees of freedom.

        Example:
            >>> import torchgmm as tg
            >>> mixture = tg.GaussianMixture.from_covariances(
            ...     [1.0], [[0.0, 0.0]], [[1.0, 4.0]], "diagonal")
            >>> mixture.mahalanobis([[3.0, 4.0]]).round(decimals=4).tolist()
            [[13.0]]
        """
        rows = asked_rows(self, x)
        with full_precision(rows.device):
            if tracks(self, rows):
                return squared_distances(rows, self.as_parameters())
            own = (self.n_components,)
            return by_chunk(self, rows, lambda d: d.mT, own, chunks=Dense().distances)

    def responsibilities(self, x: Any) -> Tensor:
        """Posterior probability of each component for every row, `(*B, N, K)`. Differentiable."""
        return self.log_joint(x).softmax(-1)

    def membership_entropy(self, x: Any) -> Tensor:
        """`-sum_k r_nk log r_nk`, `(*B, N)`, in nats: how doubtful the component of each row is.

        0 where one component is certain, `log K` where all are equally likely. Differentiable.
        """
        rows = asked_rows(self, x)
        if tracks(self, rows):
            return assignment_entropy(self.log_joint(rows).mT)
        return by_chunk(self, rows, assignment_entropy)

    def predict(self, x: Any) -> Tensor:
        """The most probable component of every row, `(*B, N)`, int64."""
        rows = asked_rows(self, x)
        if is_traced():
            return self.log_joint(rows).argmax(-1)
        return by_chunk(self, rows, lambda joint: joint.argmax(-2), dtype=torch.int64)

    def score(self, x: Any, weights: Any = None) -> Tensor:
        """Mean log-likelihood per row, `(*B,)`, in nats; with weights `(N,)` or `(*B, N)` theirs.

        A figure to look at: no gradient is kept. For training take `log_prob(x).mean()`.

        Args:
            x: rows `(N, D)` or `(*B, N, D)`. One mixture also reads whatever `fit` reads, block by
                block: files, loaders, sources. Of several processes, which must all ask, each
                reads its share of such a source.
            weights: as in `fit`.
        """
        return totals(self, x, weights).mean.to(self.device)

    # choice of model: the same rows -------------------------------------------------------------

    def bic(self, x: Any, weights: Any = None) -> Tensor:
        """Bayesian information criterion, `-2 log L + p log N`; lower is better (Schwarz 1978).

        In float64, as `aic` and `icl`: on the CPU where the mixture's device has none.
        """
        found = totals(self, x, weights)
        return -2 * found.log_likelihood + self._n_free * found.weight.log()

    def aic(self, x: Any, weights: Any = None) -> Tensor:
        """Akaike's information criterion, `-2 log L + 2 p`; lower is better."""
        return -2 * totals(self, x, weights).log_likelihood + 2 * self._n_free

    def icl(self, x: Any, weights: Any = None) -> Tensor:
        """BIC plus twice the entropy of the responsibilities; lower is better.

        The integrated completed likelihood (Biernacki, Celeux & Govaert 2000, in the entropy form
        of McLachlan & Peel 2000): prefers components that do not overlap.
        """
        found = totals(self, x, weights, entropy=True)
        return 2 * (found.entropy - found.log_likelihood) + self._n_free * found.weight.log()

    # fitting ------------------------------------------------------------------------------------

    def fit(self, data: Any, *args: Any, **options: Any) -> FitResult:
        """Fit to `data` in place: `torchgmm.fit(self, data, ...)`, whose docstring says all.

        Example:
            >>> import torch, torchgmm as tg
            >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
            >>> tg.GaussianMixture(1, covariance="diagonal").fit(x).status.name
            'CONVERGED'
        """
        from ..fitting import fit  # the one door upwards: a method that users expect here

        return fit(self, data, *args, **options)


def stack(mixtures: Sequence[GaussianMixture]) -> GaussianMixture:
    """Several mixtures as one batch, along a new first axis; they are copied.

    Mixtures with fewer components than the others are filled up with components of weight 0, which
    a fit of the batch leaves out, and which `mixture[b]` drops again. Mixtures without
    `n_features` stay so: `stack([GaussianMixture(k) for k in range(1, 9)]).fit(x)` is a sweep over
    the number of components.

    Args:
        mixtures: of one family, dtype, number of features and batch shape.

    Raises:
        InputError: none, or mixtures that differ in more than their number of components.

    Example:
        >>> import torchgmm as tg
        >>> mixtures = tg.stack([tg.GaussianMixture(2, 3), tg.GaussianMixture(5, 3)])
        >>> mixtures.batch_shape, mixtures.n_components, mixtures[0].n_components
        (torch.Size([2]), 5, 2)
    """
    if not mixtures:
        raise InputError("there is no mixture to stack")
    kinds = [(m.covariance, m.n_features, m.batch_shape, m.dtype, m.device) for m in mixtures]
    for number, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise InputError(f"mixture {number} is {mixtures[number]}, the first one {mixtures[0]}")
    most = max(m.n_components for m in mixtures)
    if not mixtures[0].is_sized:
        first, shape = mixtures[0], (len(mixtures), *mixtures[0].batch_shape)
        whole = GaussianMixture(
            most, None, first.family, batch_shape=shape, dtype=first.dtype, device=first.device
        )
        with torch.no_grad():
            for own, mixture in zip(whole.logits, mixtures, strict=True):
                own[..., mixture.n_components :] = -math.inf
        return whole
    each = [filled_up(m.as_parameters().map(Tensor.detach), most) for m in mixtures]
    return GaussianMixture.from_parameters(stacked(each))
