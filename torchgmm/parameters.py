"""Parameters: a mixture as plain tensors and its family, a frozen value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .covariance import Family, Floor, as_family, floor_of
from .errors import InputError
from .exact import reachable
from .moments import Moments

__all__ = [
    "Parameters",
    "check_shapes",
    "concatenated",
    "filled_up",
    "from_moments",
    "one_each",
    "stacked",
    "to_moments",
    "without_absent",
]

_Shape = Callable[[int, int], Sequence[int]]


@dataclass(frozen=True)
class Parameters:
    """What a mixture holds, without the module: fits pass these around, in float64.

    Attributes:
        logits: `(*B, K)`, unnormalised log-weights.
        means: `(*B, K, D)`.
        scale: `(*B, H, ...)`, the factors of the covariances in unconstrained form (`Family`).
        family: the structure of the covariances.
    """

    logits: Tensor  # (*B, K)
    means: Tensor  # (*B, K, D)
    scale: Tensor  # (*B, H, ...)
    family: Family

    @property
    def batch_shape(self) -> torch.Size:
        """The leading axes `B`."""
        return self.means.shape[:-2]

    @property
    def n_components(self) -> int:
        """K."""
        return self.means.shape[-2]

    @property
    def n_features(self) -> int:
        """D."""
        return self.means.shape[-1]

    @property
    def log_weights(self) -> Tensor:
        """`log pi (*B, K)`, normalised."""
        return self.logits.log_softmax(-1)

    def __getitem__(self, index: Any) -> Parameters:
        """One mixture, or some, of a batch: `index` is of the leading axes."""
        if not self.batch_shape:
            raise InputError("this is one mixture: only a batch of mixtures is indexed")
        # an Ellipsis would reach the axes of the components
        full = (*index, ...) if isinstance(index, tuple) else (index, ...)
        return self.map(lambda t: t[full])

    def put(self, index: Any, other: Parameters) -> Parameters:
        """With the mixtures at `index` of the leading axis replaced by others."""
        return Parameters(
            self.logits.index_put((index,), other.logits),
            self.means.index_put((index,), other.means),
            self.scale.index_put((index,), other.scale),
            self.family,
        )

    def flat(self) -> Parameters:
        """The same mixtures along one leading axis; a single one is a batch of one."""
        axes = len(self.batch_shape)
        return self.map(lambda t: t.reshape(-1, *t.shape[axes:]))

    def shaped(self, batch_shape: Sequence[int]) -> Parameters:
        """Mixtures along one leading axis, in a batch of this shape."""
        return self.map(lambda t: t.reshape(*batch_shape, *t.shape[1:]))

    def map(self, change: Callable[[Tensor], Tensor]) -> Parameters:
        """The same mixture with every tensor passed through `change`."""
        return Parameters(change(self.logits), change(self.means), change(self.scale), self.family)

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Parameters:
        """The same mixture in another dtype or on another device."""
        own = (self.means, self.logits, self.scale)
        if all(dtype in (None, t.dtype) and device in (None, t.device) for t in own):
            return self
        return self.map(lambda t: t.to(device=device, dtype=dtype))

    def exact(self) -> Parameters:
        """The same mixture in float64, on the CPU where its device has none."""
        if self.means.dtype == self.scale.dtype == self.logits.dtype == torch.float64:
            return self
        return self.map(lambda t: reachable(t).to(torch.float64))

    def unstructured(self) -> Parameters:
        """The same density; with `full` covariances where the family is not `closed`.

        Parts, maps and products of such covariances have no structure that would be kept.
        """
        if self.family.closed:
            return self
        full = as_family("full")
        factor = self.family.dense_tril(self.scale, self.n_components, self.n_features)
        return Parameters(self.logits, self.means, full.unconstrained(factor), full)

    def is_finite(self) -> bool:
        """Whether every number is finite."""
        tensors = (self.logits, self.means, self.scale)
        return all(bool(torch.isfinite(t).all()) for t in tensors)

    @classmethod
    def from_covariances(
        cls,
        weights: Tensor,  # (*B, K)
        means: Tensor,  # (*B, K, D)
        covariances: Tensor,  # (*B, *family.covariance_shape)
        covariance: str | Family = "full",
    ) -> Parameters:
        """Parameters from a mixture in its usual form; covariances as scikit-learn shapes them.

        Raises:
            InputError: shapes that do not fit together, weights that are negative or do not sum
                to one, covariances that are none.
        """
        family = as_family(covariance)
        wanted = family.covariance_shape
        check_shapes(means, family, weights=(weights, one_each), covariances=(covariances, wanted))
        for name, given in ("weights", weights), ("covariances", covariances), ("means", means):
            if not bool(torch.isfinite(given).all()):
                raise InputError(f"{name} hold NaN or infinite values")
        total = weights.sum(-1)
        # float32 weights as somebody printed or stored them sum to one within about 1e-6 * K
        if bool((weights < 0).any()) or bool(((total - 1).abs() > 1e-3).any()):
            raise InputError(
                f"weights must be at least 0 and sum to 1, got a least of {float(weights.min()):g} "
                f"and a sum of {float(total.flatten()[(total - 1).abs().argmax()]):g}"
            )
        scale = family.from_covariances(covariances, means.shape[-1])
        return cls(weights.log(), means, scale, family)


def one_each(n_components: int, n_features: int) -> tuple[int, ...]:
    """The shape of what is one number per component, such as weights."""
    return (n_components,)


def check_shapes(means: Tensor, family: Family, **others: tuple[Tensor, _Shape]) -> None:
    """Refuse tensors that do not describe one batch of mixtures.

    Args:
        means: `(*B, K, D)`.
        family: of the covariances.
        others: by their name, tensors `(*B, ...)` and what the shape after B is for K and D.

    Raises:
        InputError: which shape was wanted.
    """
    if means.dim() < 2:
        raise InputError(f"means must be (*B, K, D), got shape {tuple(means.shape)}")
    *batch, k, d = means.shape
    for name, (given, shape_of) in others.items():
        shape = (*batch, *shape_of(k, d))
        if tuple(given.shape) != shape:
            raise InputError(
                f"{name} must have shape {shape} to go with means {tuple(means.shape)} and "
                f"{family.name} covariances, got {tuple(given.shape)}"
            )


def stacked(each: Sequence[Parameters]) -> Parameters:
    """Several mixtures of one kind as a batch `(B, ...)`."""
    return Parameters(
        torch.stack([p.logits for p in each]),
        torch.stack([p.means for p in each]),
        torch.stack([p.scale for p in each]),
        each[0].family,
    )


def concatenated(parts: Sequence[Parameters]) -> Parameters:
    """Batches of mixtures of one kind after each other, along their first axis."""
    return Parameters(
        torch.cat([p.logits for p in parts]),
        torch.cat([p.means for p in parts]),
        torch.cat([p.scale for p in parts]),
        parts[0].family,
    )


def filled_up(p: Parameters, n_components: int) -> Parameters:
    """The same densities with more components, of weight 0: in a batch these are none."""
    more = n_components - p.n_components
    if not more:
        return p
    logits = torch.nn.functional.pad(p.logits, (0, more), value=-math.inf)
    means = torch.cat([p.means, *[p.means[..., :1, :]] * more], -2)
    axis = -1 - p.family.n_axes
    first = p.scale.narrow(axis, 0, 1)
    scale = p.scale if p.family.tied else torch.cat([p.scale, *[first] * more], axis)
    return Parameters(logits, means, scale, p.family)


def without_absent(p: Parameters) -> Parameters:
    """One mixture without its components of weight 0: the inverse of `filled_up`."""
    present = p.logits > -math.inf
    if bool(present.all()):
        return p
    scale = p.scale if p.family.tied else p.scale[present]
    return Parameters(p.logits[present], p.means[present], scale, p.family)


def to_moments(parameters: Parameters, rows: float = 1.0) -> Moments:
    """The moments that `rows` rows drawn from a mixture would have on average, about its means.

    `from_moments` of them gives the mixture back. Online fits start from these.
    """
    p = parameters.exact()
    weight = p.log_weights.exp() * rows
    unit = p.family.unit_second(weight, p.n_features)
    nothing = weight.new_zeros(p.batch_shape)
    return Moments(
        weight,
        torch.zeros_like(p.means),
        p.family.colour_second(unit, p.family.factor(p.scale)),
        nothing,
        nothing + rows,
        p.means,
    )


def from_moments(
    moments: Moments,
    family: Family,
    floor: Floor | Tensor,
    central: Tensor | None = None,
    before: Parameters | None = None,
) -> tuple[Parameters, Tensor]:
    """The M-step: the parameters that maximise the likelihood of these moments.

    A component without weight keeps the mean of its frame, and its covariance means nothing:
    callers replace or refuse it (`Rescue`).

    Args:
        moments: float64 sums.
        family: the structure of the covariances.
        floor: added to the covariances' diagonals (`reg_covar`), in squared units of the data; a
            relative one is resolved by these moments, which must then be of all rows.
        central: `family.central(moments)`, where it is known.
        before: the mixture of the E-step, which the answer is never worse than.

    Returns:
        The parameters and a mask `(*B, H)` of covariances that have no spread and no floor.
    """
    means = moments.frame + moments.mean
    n = moments.present
    logits = n.log() - n.sum(-1, keepdim=True).log()
    floor = floor_of(floor, moments, family)
    last = None if before is None else before.scale.to(moments.second.dtype)
    scale, hopeless = family.estimate(moments, floor, central, last)
    return Parameters(logits, means, scale, family), hopeless
