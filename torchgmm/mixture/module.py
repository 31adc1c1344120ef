"""GaussianMixture: the `nn.Module` that holds a mixture and answers questions about rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributions, nn
from torch.nn.parameter import UninitializedParameter, is_lazy

from . import checks
from .covariance import Family, as_family
from .errors import InputError, NotSizedError
from .kernels import as_kernel, joint_log_prob
from .parameters import Parameters

if TYPE_CHECKING:
    from .fitting import FitResult

__all__ = ["Estimate", "GaussianMixture"]

_TENSORS = ("logits", "means", "scale")


class Estimate(NamedTuple):
    """A Monte-Carlo estimate and its standard error, both `(*B,)`."""

    value: Tensor
    standard_error: Tensor


class GaussianMixture(nn.Module):
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

    def __init__(
        self,
        n_components: int,
        n_features: int | None = None,
        covariance: str | Family = "full",
        *,
        batch_shape: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_components = checks.check_count("n_components", n_components)
        self.family = as_family(covariance)
        self.batch_shape = torch.Size(batch_shape)
        if dtype is not None and dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"a mixture is held in torch.float32 or torch.float64, got dtype={dtype}"
            )
        dtype = dtype or torch.get_default_dtype()
        logits = torch.zeros(*batch_shape, n_components, dtype=dtype, device=device)
        self.logits = nn.Parameter(logits)
        self.means: nn.Parameter = UninitializedParameter(dtype=dtype, device=device)  # type: ignore[call-arg, assignment]
        self.scale: nn.Parameter = UninitializedParameter(dtype=dtype, device=device)  # type: ignore[call-arg, assignment]
        if n_features is not None:
            self.materialize(checks.check_count("n_features", n_features))
            with torch.no_grad():
                self.means.normal_(generator=generator)

    # building and filling ---------------------------------------------------------------------

    @classmethod
    def from_parameters(
        cls, parameters: Parameters, *, dtype: torch.dtype | None = None
    ) -> GaussianMixture:
        """A mixture that holds these numbers (copied), in `dtype` or their own."""
        mixture = cls(
            parameters.n_components,
            parameters.n_features,
            parameters.family,
            batch_shape=parameters.batch_shape,
            dtype=dtype or parameters.means.dtype,
            device=parameters.means.device,
        )
        mixture.assign(parameters)
        return mixture

    @classmethod
    def from_covariances(
        cls,
        weights: Any,
        means: Any,
        covariances: Any,
        covariance: str | Family = "full",
        *,
        dtype: torch.dtype | None = None,
    ) -> GaussianMixture:
        """A mixture from known weights, means and covariances, without a fit.

        Args:
            weights: `(*B, K)`, summing to one.
            means: `(*B, K, D)`.
            covariances: as scikit-learn shapes them: full `(*B, K, D, D)`, tied `(*B, D, D)`,
                diagonal `(*B, K, D)`, spherical `(*B, K)`, tied_diagonal `(*B, D)`,
                tied_spherical `(*B,)`.
            covariance: the family.
            dtype: of the mixture; torch's default dtype if not given.

        Raises:
            InputError: shapes that do not fit, weights that are none, covariances not positive.

        Example:
            >>> import torchgmm as tg
            >>> mixture = tg.GaussianMixture.from_covariances(
            ...     [0.3, 0.7], [[0.0], [5.0]], [[1.0], [4.0]], "diagonal")
            >>> mixture.predict([[0.1], [6.0]])
            tensor([0, 1])
        """
        pi, mu, sigma = (_as_tensor(t).to(torch.float64) for t in (weights, means, covariances))
        parameters = Parameters.from_covariances(pi, mu, sigma, covariance)
        return cls.from_parameters(parameters, dtype=dtype or torch.get_default_dtype())

    @property
    def is_sized(self) -> bool:
        """Whether the number of features is known."""
        return not is_lazy(self.means)

    @property
    def n_features(self) -> int | None:
        """D, or None before the first fit of a mixture built without it."""
        return self.means.shape[-1] if self.is_sized else None

    @property
    def covariance(self) -> str:
        """The name of the covariance family."""
        return self.family.name

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors."""
        return self.logits.dtype

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.logits.device

    def materialize(self, n_features: int) -> None:
        """Give a mixture that was built without `n_features` its tensors: standard normals."""
        k = self.n_components
        for tensor, shape in (
            (self.means, (k, n_features)),
            (self.scale, self.family.scale_shape(k, n_features)),
        ):
            if isinstance(tensor, UninitializedParameter):
                tensor.materialize((*self.batch_shape, *shape))
                with torch.no_grad():
                    tensor.zero_()

    def as_parameters(self, dtype: torch.dtype | None = None) -> Parameters:
        """The three tensors as a value, still attached to autograd."""
        self._require_size("as_parameters")
        own = Parameters(self.logits, self.means, self.scale, self.family)
        return own if dtype is None else own.to(dtype)

    @torch.no_grad()
    def assign(self, parameters: Parameters) -> None:
        """Copy numbers into the tensors, in place: the one way in which a fit changes a mixture."""
        if parameters.family != self.family:
            raise InputError(
                f"{parameters.family.name} parameters do not fit a {self.covariance} mixture"
            )
        self.materialize(parameters.n_features)
        for name in _TENSORS:
            own, given = getattr(self, name), getattr(parameters, name)
            if own.shape != given.shape:
                raise InputError(
                    f"{name} of shape {tuple(given.shape)} do not fit a mixture with "
                    f"{name} of shape {tuple(own.shape)}"
                )
            own.copy_(given)

    # what it holds ------------------------------------------------------------------------------

    @property
    def weights(self) -> Tensor:
        """Mixing weights pi `(*B, K)`."""
        return self.logits.softmax(-1)

    @property
    def scale_tril(self) -> Tensor:
        """Lower Cholesky factors of the covariances as matrices, `(*B, K, D, D)`."""
        self._require_size("scale_tril")
        return self.family.dense_tril(self.scale, *self.means.shape[-2:])

    @property
    def covariances(self) -> Tensor:
        """Covariances in the family's shape, as scikit-learn has them."""
        self._require_size("covariances")
        return self.family.covariances(self.scale)

    @property
    def precisions(self) -> Tensor:
        """Inverse covariances in the family's shape."""
        self._require_size("precisions")
        return self.family.precisions(self.scale)

    @property
    def n_parameters(self) -> int:
        """Free parameters of one mixture: weights, means and covariances."""
        self._require_size("n_parameters")
        k, d = self.means.shape[-2:]
        return (k - 1) + k * d + self.family.n_parameters(k, d)

    def as_distribution(self) -> distributions.MixtureSameFamily:
        """The mixture as a `torch.distributions` object on the same tensors."""
        self._require_size("as_distribution")
        components: distributions.Distribution
        if self.family.n_axes == 2:
            components = distributions.MultivariateNormal(self.means, scale_tril=self.scale_tril)
        else:
            spread = self.family.factor(self.scale).expand_as(self.means)
            components = distributions.Independent(distributions.Normal(self.means, spread), 1)
        return distributions.MixtureSameFamily(
            distributions.Categorical(logits=self.logits), components
        )

    # questions about rows -----------------------------------------------------------------------

    def forward(self, x: Any) -> Tensor:
        """`log_prob(x)`."""
        return self.log_prob(x)

    def log_prob(self, x: Any) -> Tensor:
        """Log-density of every row, `(*B, N)`, in nats.

        Differentiable in `x` and in the three tensors. Where no gradient is asked for, memory is
        that of one chunk.
        """
        rows = self._rows(x)
        if self._tracks(rows):
            return joint_log_prob(rows, self.as_parameters()).logsumexp(-1)
        return self._by_chunk(rows, lambda joint: joint.logsumexp(-2))

    def log_joint(self, x: Any) -> Tensor:
        """`log pi_k + log N(x_n; mu_k, Sigma_k)`, `(*B, N, K)`, in nats. Differentiable."""
        rows = self._rows(x)
        if self._tracks(rows):
            return joint_log_prob(rows, self.as_parameters())
        return self._by_chunk(rows, lambda joint: joint.mT, trailing=(self.n_components,))

    def responsibilities(self, x: Any) -> Tensor:
        """Posterior probability of each component for every row, `(*B, N, K)`. Differentiable."""
        return self.log_joint(x).softmax(-1)

    def predict(self, x: Any) -> Tensor:
        """The most probable component of every row, `(*B, N)`, int64."""
        rows = self._rows(x)
        return self._by_chunk(rows, lambda joint: joint.argmax(-2), dtype=torch.int64)

    def score(self, x: Any, weights: Any = None) -> Tensor:
        """Mean log-likelihood per row, `(*B,)`, in nats; with row weights `(N,)` their mean."""
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

    # drawing ------------------------------------------------------------------------------------

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
        self._require_size("sample")
        count = torch.Size(sample_shape).numel()
        k, d = self.means.shape[-2:]
        weights = self.weights.reshape(-1, k)
        labels = torch.multinomial(weights, count, replacement=True, generator=generator)  # (B, n)
        noise = torch.randn(
            (len(weights), count, d), dtype=self.dtype, device=self.device, generator=generator
        )
        heads = self.family.heads(k)
        factor = self.family.factor(self.scale)
        factor = factor.reshape(-1, heads, *factor.shape[len(self.batch_shape) + 1 :])
        means = self.means.reshape(-1, k, d)
        for b in range(len(weights)):
            for j in (
                labels[b].bincount().nonzero().flatten().tolist()
            ):  # one factor at a time: no (n, D, D) gather
                mine = labels[b] == j
                own = factor[b, j if heads > 1 else 0]
                noise[b, mine] = means[b, j] + self.family.colour(noise[b, mine], own)
        rows = noise.transpose(0, 1).reshape(*sample_shape, *self.batch_shape, d)
        return rows, labels.mT.reshape(*sample_shape, *self.batch_shape)

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

    # fitting ------------------------------------------------------------------------------------

    def fit(self, data: Any, *args: Any, **options: Any) -> FitResult:
        """Fit to `data` in place: `torchgmm.fit(self, data, ...)`, whose docstring says all.

        Example:
            >>> import torch, torchgmm as tg
            >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
            >>> tg.GaussianMixture(1, covariance="diagonal").fit(x).status.name
            'CONVERGED'
        """
        from .fitting import fit  # the one door upwards: a method that users expect here

        return fit(self, data, *args, **options)

    # inside -------------------------------------------------------------------------------------

    def _require_size(self, call: str) -> None:
        if not self.is_sized:
            raise NotSizedError(call)

    def _rows(self, x: Any) -> Tensor:
        self._require_size("log_prob")
        rows = _as_tensor(x)
        checks.check_rows(tuple(rows.shape), self.n_features, len(self.batch_shape))
        dtype = checks.compute_dtype(rows.dtype, self.dtype)
        if rows.device != self.device and rows.device.type != "cpu":
            raise InputError(f"rows are on {rows.device}, the mixture on {self.device}: move one")
        if not torch.compiler.is_compiling():
            checks.check_finite(rows, dtype)
        return rows.to(device=self.device, dtype=dtype)

    def _weighted_rows(self, x: Any, weights: Any) -> tuple[Tensor, Tensor | None]:
        # a weight of 0 is absence, whatever the row says: such rows leave before they are checked
        if weights is None:
            return self._rows(x), None
        rows = _as_tensor(x)
        checks.check_rows(tuple(rows.shape), None, len(self.batch_shape))
        w = checks.check_weights(weights, rows.shape[-2])
        kept = (w > 0).to(rows.device)
        return self._rows(rows[..., kept, :]), w[w > 0].to(self.device)

    def _tracks(self, rows: Tensor) -> bool:
        tensors = (rows, self.logits, self.means, self.scale)
        return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)

    @torch.no_grad()
    def _by_chunk(
        self,
        x: Tensor,
        answer: Any,  # (*B, K, n) -> (*B, n, *trailing)
        trailing: tuple[int, ...] = (),
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        shape = (*self.batch_shape, x.shape[-2], *trailing)
        out = torch.empty(shape, dtype=dtype or x.dtype, device=x.device)
        axis = len(self.batch_shape)
        for rows, joint in as_kernel("auto").log_joint(x, self.as_parameters()):
            out.narrow(axis, rows.start, rows.stop - rows.start).copy_(answer(joint))
        return out

    def extra_repr(self) -> str:
        """Shapes and family, for `repr`."""
        parts = [f"n_components={self.n_components}", f"n_features={self.n_features}"]
        parts.append(f"covariance={self.covariance!r}")
        if self.batch_shape:
            parts.append(f"batch_shape={tuple(self.batch_shape)}")
        parts.append(f"dtype={self.dtype}")
        if self.device.type != "cpu":
            parts.append(f"device={str(self.device)!r}")
        return ", ".join(parts)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.is_sized:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            return
        for name in _TENSORS:  # an uninitialised parameter cannot be detached
            destination[prefix + name] = getattr(self, name)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        means = state_dict.get(prefix + "means")
        if not self.is_sized and means is not None and not is_lazy(means):
            self.materialize(means.shape[-1])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _as_tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))


def _assignment_entropy(joint: Tensor) -> Tensor:
    log_r = joint.log_softmax(-2)
    return -(log_r.exp() * log_r.clamp_min(torch.finfo(log_r.dtype).min)).sum(-2)
