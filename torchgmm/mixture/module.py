"""GaussianMixture: the `nn.Module` that holds a mixture and answers questions about rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..kernels import (
    Dense,
    as_kernel,
    full_precision,
    is_traced,
    joint_log_prob,
    log_prob,
    retried,
    squared_distances,
)
from ..parameters import Parameters
from .drawing import Drawing, Estimate
from .tensors import as_tensor

if TYPE_CHECKING:
    from ..fitting import FitResult

__all__ = ["Estimate", "GaussianMixture"]


class GaussianMixture(Drawing):
    r"""A Gaussian mixture, `p(x) = sum_k pi_k N(x; mu_k, Sigma_k)`, as three tensors.

    `logits (*B, K)`, `means (*B, K, D)` and `scale` (the Cholesky factors of the covariances, the
    log on their diagonal) are `nn.Parameter`s: any value of them is a valid mixture, so
    `state_dict`, `.to()`, optimisers and data-parallel training need no special care. `fit`
    changes them in place.

    Rows are `(N, D)` (or `(*B, N, D)` with a batch of mixtures): a tensor, or anything that
    `torch.as_tensor` takes. They are computed in torch's promotion of their dtype and the
    mixture's, integers and half precision in the mixture's. All log-probabilities are in nats.

    Args:
        n_components: K.
        n_features: D; left out, it is learnt at the first fit or `load_state_dict`.
        covariance: a family or its name (`families()` lists them).
        batch_shape: leading axes of independent mixtures.
        dtype: of the tensors; torch's default dtype if not given.
        device: of the tensors.
        generator: for the start of the means, standard normal, where `n_features` is given.

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
        return log_prob(self._rows(x), self.as_parameters())

    def log_joint(self, x: Any) -> Tensor:
        """`log pi_k + log N(x_n; mu_k, Sigma_k)`, `(*B, N, K)`, in nats. Differentiable."""
        rows = self._rows(x)
        if self._tracks(rows):
            with full_precision(rows.device):
                return joint_log_prob(rows, self.as_parameters())
        return self._by_chunk(rows, lambda joint: joint.mT, trailing=(self.n_components,))

    def component_log_prob(self, x: Any) -> Tensor:
        """`log N(x_n; mu_k, Sigma_k)`, `(*B, N, K)`, in nats, whatever the weights. Differentiable.

        Of a component of weight zero too, where `log_joint` is -inf.
        """
        rows, p = self._rows(x), self.as_parameters()
        equal = replace(p, logits=torch.zeros_like(p.logits))
        own = math.log(self.n_components)
        if self._tracks(rows):
            with full_precision(rows.device):
                return joint_log_prob(rows, equal) + own
        shape = (self.n_components,)
        return self._by_chunk(rows, lambda joint: joint.mT + own, trailing=shape, of=equal)

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
        rows = self._rows(x)
        with full_precision(rows.device):
            if self._tracks(rows):
                return squared_distances(rows, self.as_parameters())
            chunks = Dense().distances(rows, self.as_parameters())
            return self._gathered(rows, chunks, lambda d: d.mT, (self.n_components,))

    def responsibilities(self, x: Any) -> Tensor:
        """Posterior probability of each component for every row, `(*B, N, K)`. Differentiable."""
        return self.log_joint(x).softmax(-1)

    def membership_entropy(self, x: Any) -> Tensor:
        """`-sum_k r_nk log r_nk`, `(*B, N)`, in nats: how doubtful the component of each row is.

        0 where one component is certain, `log K` where all are equally likely. Differentiable.
        """
        rows = self._rows(x)
        if self._tracks(rows):
            return _assignment_entropy(self.log_joint(rows).mT)
        return self._by_chunk(rows, _assignment_entropy)

    def predict(self, x: Any) -> Tensor:
        """The most probable component of every row, `(*B, N)`, int64."""
        rows = self._rows(x)
        if is_traced():
            return self.log_joint(rows).argmax(-1)
        return self._by_chunk(rows, lambda joint: joint.argmax(-2), dtype=torch.int64)

    @torch.no_grad()
    def score(self, x: Any, weights: Any = None) -> Tensor:
        """Mean log-likelihood per row, `(*B,)`, in nats; with row weights `(N,)` their mean.

        A figure to look at: no gradient is kept. For training take `log_prob(x).mean()`.
        """
        rows, w = self._weighted_rows(x, weights)
        log_prob = self.log_prob(rows)
        return log_prob.mean(-1) if w is None else (log_prob * w).sum(-1) / w.sum()

    # choice of model ----------------------------------------------------------------------------

    @torch.no_grad()
    def bic(self, x: Any, weights: Any = None) -> Tensor:
        """Bayesian information criterion, `-2 log L + p log N`; lower is better (Schwarz 1978)."""
        log_likelihood, n = self._log_likelihood(x, weights)
        return -2 * log_likelihood + self.n_parameters * n.log()

    @torch.no_grad()
    def aic(self, x: Any, weights: Any = None) -> Tensor:
        """Akaike's information criterion, `-2 log L + 2 p`; lower is better."""
        log_likelihood, _ = self._log_likelihood(x, weights)
        return -2 * log_likelihood + 2 * self.n_parameters

    @torch.no_grad()
    def icl(self, x: Any, weights: Any = None) -> Tensor:
        """BIC plus twice the entropy of the responsibilities; lower is better.

        The integrated completed likelihood (Biernacki, Celeux & Govaert 2000, in the entropy form
        of McLachlan & Peel 2000): prefers components that do not overlap.
        """
        rows, w = self._weighted_rows(x, weights)
        entropy = self._by_chunk(rows, _assignment_entropy).double()
        total = entropy.sum(-1) if w is None else (entropy * w).sum(-1)
        return self.bic(rows, w) + 2 * total

    def _log_likelihood(self, x: Any, weights: Any) -> tuple[Tensor, Tensor]:
        rows, w = self._weighted_rows(x, weights)
        log_prob = self.log_prob(rows).double()
        if w is None:
            w = log_prob.new_ones(log_prob.shape[-1])
        return (log_prob * w).sum(-1), w.sum()

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

    # inside -------------------------------------------------------------------------------------

    def _rows(self, x: Any) -> Tensor:
        self._require_size("log_prob")
        rows = as_tensor(x)
        checks.check_rows(tuple(rows.shape), self.n_features, len(self.batch_shape))
        dtype = checks.compute_dtype(rows.dtype, self.dtype)
        if rows.device != self.device and rows.device.type != "cpu":
            raise InputError(f"rows are on {rows.device}, the mixture on {self.device}: move one")
        if not is_traced():
            checks.check_finite(rows, dtype)
        return rows.to(device=self.device, dtype=dtype)

    def _weighted_rows(self, x: Any, weights: Any) -> tuple[Tensor, Tensor | None]:
        # a weight of 0 is absence, whatever the row says: such rows leave before they are checked
        if weights is None:
            return self._rows(x), None
        rows = as_tensor(x)
        checks.check_rows(tuple(rows.shape), None, len(self.batch_shape))
        w = checks.check_weights(weights, rows.shape[-2])
        kept = (w > 0).to(rows.device)
        return self._rows(rows[..., kept, :]), w[w > 0].to(self.device)

    def _tracks(self, rows: Tensor) -> bool:
        if is_traced():  # `_by_chunk` writes into tensors
            return True
        tensors = (rows, self.logits, self.means, self.scale)
        return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)

    @torch.no_grad()
    def _by_chunk(
        self,
        x: Tensor,
        answer: Any,  # (*B, K, n) -> (*B, n, *trailing)
        trailing: tuple[int, ...] = (),
        dtype: torch.dtype | None = None,
        of: Parameters | None = None,
    ) -> Tensor:
        with full_precision(x.device):
            kernel, p = as_kernel("auto"), of or self.as_parameters()

            def gathered() -> Tensor:
                return self._gathered(x, kernel.log_joint(x, p), answer, trailing, dtype)

            return retried(kernel, x, gathered)

    @torch.no_grad()
    def _gathered(
        self,
        x: Tensor,
        chunks: Iterable[tuple[slice, Tensor]],
        answer: Any,  # (*B, K, n) -> (*B, n, *trailing)
        trailing: tuple[int, ...] = (),
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        shape = (*self.batch_shape, x.shape[-2], *trailing)
        out = torch.empty(shape, dtype=dtype or x.dtype, device=x.device)
        axis = len(self.batch_shape)
        for rows, chunk in chunks:
            out.narrow(axis, rows.start, rows.stop - rows.start).copy_(answer(chunk))
        return out


def _assignment_entropy(joint: Tensor) -> Tensor:
    log_r = joint.log_softmax(-2)
    return -(log_r.exp() * log_r.clamp_min(torch.finfo(log_r.dtype).min)).sum(-2)
