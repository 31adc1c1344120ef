"""The tensors of a mixture as an `nn.Module`: built, sized late, filled, shown, saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, distributions, nn
from torch.nn.parameter import UninitializedParameter, is_lazy

from .. import checks
from ..covariance import Family, as_family
from ..data import arrays
from ..errors import InputError, NotSizedError
from ..exact import exact_device, has_float64
from ..parameters import Parameters, without_absent
from .foreign import distribution_of, parameters_of

__all__ = ["MixtureTensors", "as_tensor"]

_TENSORS = ("logits", "means", "scale")


class MixtureTensors(nn.Module):
    """Three tensors and the family that says what they mean; `GaussianMixture` asks them things."""

    def __init__(
        self,
        n_components: int,
        n_features: int | None = None,
        covariance: str | Family = "full",
        *,
        batch_shape: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | int | None = None,
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
        if dtype == torch.float64 and device is not None and not has_float64(torch.device(device)):
            raise InputError(f"device {device} has no float64: give dtype=torch.float32")
        logits = torch.zeros(*batch_shape, n_components, dtype=dtype, device=device)
        self.logits = nn.Parameter(logits)
        self.means: nn.Parameter = UninitializedParameter(dtype=dtype, device=device)  # type: ignore[call-arg, assignment]
        self.scale: nn.Parameter = UninitializedParameter(dtype=dtype, device=device)  # type: ignore[call-arg, assignment]
        if n_features is not None:
            self.materialize(checks.check_count("n_features", n_features))
            if generator is not None:
                generator = checks.as_generator(generator, self.means.device)
            with torch.no_grad():
                like = self.means if generator is None else self.means.to(generator.device)
                self.means.copy_(torch.empty_like(like).normal_(generator=generator))

    # building and filling ---------------------------------------------------------------------

    @classmethod
    def from_parameters(cls, parameters: Parameters, *, dtype: torch.dtype | None = None) -> Self:
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
    ) -> Self:
        """A mixture from known weights, means and covariances, without a fit.

        Args:
            weights: `(*B, K)`, summing to one.
            means: `(*B, K, D)`.
            covariances: as scikit-learn shapes them: full `(*B, K, D, D)`, tied `(*B, D, D)`,
                diagonal `(*B, K, D)`, spherical `(*B, K)`, tied_diagonal `(*B, D)`,
                tied_spherical `(*B,)`; common_axes as full, with one set of eigenvectors.
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
        pi, mu, sigma = (as_tensor(t).to(torch.float64) for t in (weights, means, covariances))
        parameters = Parameters.from_covariances(pi, mu, sigma, covariance)
        return cls.from_parameters(parameters, dtype=dtype or torch.get_default_dtype())

    @classmethod
    def from_distribution(
        cls, distribution: distributions.Distribution, *, dtype: torch.dtype | None = None
    ) -> Self:
        """A mixture that holds the numbers of a `torch.distributions` object (copied).

        Args:
            distribution: a `MixtureSameFamily` of `Normal`, `Independent(Normal, 1)` or
                `MultivariateNormal`, or one of these three as a mixture of one component.
            dtype: of the mixture; that of the object if not given.

        Raises:
            InputError: it is no mixture of normals.

        Example:
            >>> import torch, torchgmm as tg
            >>> from torch.distributions import Categorical, MixtureSameFamily, Normal
            >>> weights = Categorical(torch.tensor([0.3, 0.7]))
            >>> given = MixtureSameFamily(weights, Normal(torch.tensor([0.0, 5.0]), 1.0))
            >>> mixture = tg.GaussianMixture.from_distribution(given)
            >>> mixture.covariance, mixture.mean.round(decimals=4)
            ('diagonal', tensor([3.5000], grad_fn=<RoundBackward1>))
        """
        return cls.from_parameters(parameters_of(distribution), dtype=dtype)

    @property
    def is_sized(self) -> bool:
        """Whether the number of features is known."""
        return not isinstance(self.means, UninitializedParameter)  # dynamo knows no `is_lazy`

    @property
    def n_features(self) -> int | None:
        """D, or None before the first fit of a mixture built without it."""
        return self.means.shape[-1] if self.is_sized else None

    @property
    def event_shape(self) -> torch.Size:
        """`(D,)`, the shape of one row, as torch.distributions has it."""
        self.require_size("event_shape")
        return self.means.shape[-1:]

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
        """The three tensors as a value, still attached to autograd.

        In float64 they are on the CPU where the mixture's device has none.
        """
        self.require_size("as_parameters")
        own = Parameters(self.logits, self.means, self.scale, self.family)
        if dtype == torch.float64:
            return own.exact()
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
        self.require_size("scale_tril")
        return self.family.dense_tril(self.scale, *self.means.shape[-2:])

    @property
    def covariances(self) -> Tensor:
        """Covariances in the family's shape, as scikit-learn has them."""
        self.require_size("covariances")
        return self.family.covariances(self.scale)

    @property
    def precisions(self) -> Tensor:
        """Inverse covariances in the family's shape."""
        self.require_size("precisions")
        return self.family.precisions(self.scale)

    @property
    def n_parameters(self) -> int:
        """Free parameters of one mixture: weights, means and covariances."""
        self.require_size("n_parameters")
        k, d = self.means.shape[-2:]
        return (k - 1) + k * d + self.family.n_parameters(k, d)

    @property
    def _n_free(self) -> int | Tensor:
        """`n_parameters`; of every mixture `(*B,)` where some have fewer components."""
        present = (self.logits > -math.inf).sum(-1)
        if not self.batch_shape or bool((present == self.n_components).all()):
            return self.n_parameters
        d = self.means.shape[-1]
        free = self.family.n_parameters
        cost = [k - 1 + k * d + free(k, d) for k in range(self.n_components + 1)]
        place = exact_device(self.device)
        return torch.tensor(cost, device=place)[present.to(place)]

    # batches of mixtures ------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Self:
        """One mixture of a batch, or some of them: a copy.

        Example:
            >>> import torchgmm as tg
            >>> mixtures = tg.GaussianMixture(3, 2, batch_shape=(5,))
            >>> mixtures[0].batch_shape, mixtures[1:4].batch_shape
            (torch.Size([]), torch.Size([3]))
        """
        own = self.as_parameters().map(Tensor.detach)[index]
        return type(self).from_parameters(own if own.batch_shape else without_absent(own))

    def unstack(self) -> list[Self]:
        """The mixtures along the first batch axis, each as a module of its own.

        Example:
            >>> import torchgmm as tg
            >>> mixtures = tg.GaussianMixture(3, 2, batch_shape=(5,)).unstack()
            >>> len(mixtures), tg.stack(mixtures).batch_shape
            (5, torch.Size([5]))
        """
        if not self.batch_shape:
            raise InputError("this is one mixture: only a batch of mixtures is unstacked")
        return [self[b] for b in range(self.batch_shape[0])]

    def as_distribution(self) -> distributions.MixtureSameFamily:
        """The mixture as a `torch.distributions` object on the same tensors."""
        self.require_size("as_distribution")
        return distribution_of(self.as_parameters())

    # inside -------------------------------------------------------------------------------------

    def require_size(self, call: str) -> None:
        """Refuse `call` while the number of features is not known.

        Raises:
            NotSizedError: which names the call.
        """
        if not self.is_sized:
            raise NotSizedError(call)

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


def as_tensor(x: Any) -> Tensor:
    """A tensor from anything array-like; a tensor keeps its gradients."""
    return arrays.dense(x) if isinstance(x, Tensor) else arrays.as_tensor(arrays.as_table(x))
