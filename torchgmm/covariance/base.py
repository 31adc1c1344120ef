"""The interface of a covariance family, and the registry that turns a name into one.

Inside, every family keeps a *head* axis `H` before the axes of its factor: `H = K` where each
component has its own covariance, `H = 1` where all share one. So tied families differ from the
others by a sum over one axis and by nothing else. `factor` is what `H` holds one of: a Cholesky
factor `(D, D)` or another square root, standard deviations `(D,)`, or one of them `(1,)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from .. import linalg
from ..errors import InputError
from ..moments import Moments

__all__ = ["Family", "Whitened", "as_family", "families", "register"]


@dataclass(frozen=True)
class Whitened:
    """A chunk of rows seen from every component: `z = L_k^-1 (x - mean_k)` and what follows."""

    z: Tensor  # (*B, K, n, D)
    squares: Tensor  # (*B, K, n, D)  z * z; a buffer that `scatter` may overwrite
    mahalanobis: Tensor  # (*B, K, n)     |z|^2


class Family(ABC):
    """The structure of the covariances: everything that depends on it, and only that.

    Stateless. `scale` is the unconstrained form of the factors (logs on the diagonal), the tensor
    that a module holds and optimisers move; every value of it is a valid covariance.
    """

    name: ClassVar[str]
    tied: ClassVar[bool] = False
    n_axes: ClassVar[int]  # axes of one factor: 2 for a matrix, 1 for a vector
    # whether components with covariances of their own are not estimated one by one
    coupled: ClassVar[bool] = False
    # whether parts, linear maps and products of such Gaussians have the structure too
    closed: ClassVar[bool] = True
    # whether `whiten` and `scatter` take buffers `(*B, K, n, D)` that lie feature by feature
    reads_columns: ClassVar[bool] = True

    # shapes ---------------------------------------------------------------------------------

    def heads(self, n_components: int) -> int:
        """Size of the head axis."""
        return 1 if self.tied else n_components

    @abstractmethod
    def factor_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of one factor."""

    def scale_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of `scale` without the batch axes, `(H, *factor_shape)`."""
        return (self.heads(n_components), *self.factor_shape(n_features))

    @abstractmethod
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Public shape of the covariances without the batch axes, as scikit-learn has it."""

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of all covariances together."""

    @abstractmethod
    def min_rows(self, n_features: int) -> int:
        """Rows that one component needs for a covariance of full rank."""

    # forms of the parameter -----------------------------------------------------------------

    @abstractmethod
    def factor(self, scale: Tensor) -> Tensor:
        """Factors from their unconstrained form."""

    @abstractmethod
    def unconstrained(self, factor: Tensor) -> Tensor:
        """The inverse of `factor`."""

    def from_tril(self, factor: Tensor) -> Tensor:
        """`scale` from Cholesky factors `(*B, H, D, D)`, for families of matrices."""
        return self.unconstrained(factor)

    @abstractmethod
    def half_log_det(self, scale: Tensor, n_features: int) -> Tensor:
        """Half the log-determinants of the covariances, `(*B, H)`."""

    @abstractmethod
    def dense_tril(self, scale: Tensor, n_components: int, n_features: int) -> Tensor:
        """Lower Cholesky factors as matrices for every component, `(*B, K, D, D)`."""

    @abstractmethod
    def covariances(self, scale: Tensor) -> Tensor:
        """Covariances in the family's public shape, as scikit-learn has them."""

    @abstractmethod
    def precisions(self, scale: Tensor) -> Tensor:
        """Inverse covariances in the family's public shape."""

    @abstractmethod
    def from_covariances(self, covariances: Tensor, n_features: int) -> Tensor:
        """`scale` from covariances in the public shape; refuses what is not a covariance."""

    # what moves in the unconstrained form ---------------------------------------------------

    @abstractmethod
    def by_scale(self, excess: Tensor, scale: Tensor) -> Tensor:
        """The gradient in `scale` of a log-likelihood, from `excess`, `sum r (z z^T - I)`."""

    def unitless(self, change: Tensor, spread: Tensor) -> Tensor:
        """A small change of `scale` in units of the deviations `spread (D,)` of the features."""
        return change

    def walked(self, frame: Tensor, point: Tensor) -> Tensor:
        """`scale` at a point about a frame: the factors multiplied, so 0 is the frame itself."""
        own, moved = self.factor(frame), self.factor(point)
        return self.unconstrained(own @ moved if self.n_axes == 2 else own * moved)

    def replaced(self, scale: Tensor, which: Tensor, other: Tensor) -> Tensor:
        """`scale` with the covariances of some components, a mask `(*B, K)`, from another."""
        mask = which.reshape(*which.shape, *[1] * self.n_axes)
        return scale if self.tied else torch.where(mask, other, scale)

    @abstractmethod
    def rounded(self, scale: Tensor, share: Tensor, variance: Tensor) -> Tensor:
        """`scale` of `(1 - share) Sigma + share variance I`; both are `(*B, H)`."""

    # E-step ---------------------------------------------------------------------------------

    @abstractmethod
    def whitener(self, scale: Tensor) -> Tensor:
        """What `whiten` multiplies by: the inverse factors."""

    @abstractmethod
    def whiten(
        self, d: Tensor, whitener: Tensor, shift: Tensor | None, out: Tensor | None
    ) -> Tensor:
        """`z (*B, K, n, D)` from `d = x - c (*B, K, n, D)`; `shift (*B, K, 1, D)` is added to z.

        `d` may be overwritten when `out` is given.
        """

    @abstractmethod
    def scatter(self, seen: Whitened, r: Tensor) -> Tensor:
        """Second moments of z under `r (*B, K, n)`, `(*B, H, ...)`; overwrites `seen.squares`."""

    @abstractmethod
    def colour(self, whitened: Tensor, factor: Tensor) -> Tensor:
        """The inverse of whitening for vectors `(*B, H|K, ..., D)` with `factor (*B, H, ...)`."""

    @abstractmethod
    def colour_second(self, whitened: Tensor, factor: Tensor) -> Tensor:
        """Second moments of `L z` from those of z, both `(*B, H, ...)`."""

    def packed(self, second: Tensor) -> Tensor:
        """Second moments without the entries that symmetry tells, `(*B, H, P)`."""
        return second

    def unpacked(self, packed: Tensor, n_features: int) -> Tensor:
        """The inverse of `packed`."""
        return packed

    @abstractmethod
    def unit_second(self, weight: Tensor, n_features: int) -> Tensor:
        """Second moments of standard normal vectors of these weights `(*B, K)`, `(*B, H, ...)`."""

    # M-step ---------------------------------------------------------------------------------

    @abstractmethod
    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        """The family's part of `a b^T` for vectors `(*B, K, D)`, summed over K where tied."""

    @abstractmethod
    def estimate(
        self,
        moments: Moments,
        floor: float | Tensor,
        central: Tensor | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Maximum-likelihood `scale` with `floor` added to the covariances' diagonals.

        Args:
            moments: of the rows.
            floor: one number, or positive ones `(*B, 1, D)` (`floor_of`).
            central: of these moments, where it is known.
            before: the last `scale`, than which the answer is no worse where a family has to
                search for it.

        Returns:
            `scale (*B, H, ...)` in float64 and a mask `(*B, H)` of the covariances that have no
            spread and no floor, whose entries mean nothing.
        """

    def raised(self, scale: Tensor, less: float, more: float) -> Tensor:
        """`scale` of `Sigma - less I` (at least 0) `+ more I`."""
        factor = self.factor(scale)
        if self.n_axes == 1:
            return self.unconstrained(((factor.square() - less).clamp_min(0) + more).sqrt())
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        return self.unconstrained(linalg.cholesky(factor @ factor.mT - less * eye, more)[0])

    def pool(self, summands: Tensor, n_axes: int) -> Tensor:
        """Sum over the component axis where tied; `n_axes` axes follow that one."""
        return summands.sum(-1 - n_axes, keepdim=True) if self.tied else summands

    def diagonal(self, second: Tensor) -> Tensor:
        """Second moments of every feature, `(*B, H, D)`, or their sum where no more is known."""
        return second.diagonal(dim1=-2, dim2=-1) if self.n_axes == 2 else second

    def squares(self, a: Tensor, b: Tensor) -> Tensor:
        """The `diagonal` of `outer(a, b)`, without the rest of it."""
        return self.pool(a * b, 1) if self.n_axes == 2 else self.outer(a, b)

    def within(self, moments: Moments) -> Tensor:
        """Summed second moments about the components' own means, `(*B, H, ...)`."""
        outer = self.outer(moments.first, moments.mean)
        return torch.sub(moments.second, outer, out=outer)  # fresh pages cost more than arithmetic

    def central(self, moments: Moments) -> Tensor:
        """Mean second moments about the components' own means, before a floor."""
        n = self.pool(moments.present, 0)
        return self.within(moments).div_(n.reshape(*n.shape, *[1] * self.n_axes))

    def pooled(self, moments: Moments) -> Tensor:
        """Summed second moments of all rows about their component's mean, `(*B, 1, ...)`."""
        return self.within(moments).sum(-1 - self.n_axes, keepdim=True)

    def moved(self, moments: Moments, frame: Tensor) -> Moments:
        """The same moments about other origins `frame (*B, K, D)`, exactly, without the rows."""
        delta = moments.frame - frame
        shift = moments.weight.unsqueeze(-1) * delta
        second = (
            moments.second
            + self.outer(moments.first, delta)
            + self.outer(delta, moments.first)
            + self.outer(shift, delta)
        )
        first = moments.first + shift
        return Moments(moments.weight, first, second, moments.log_prob, moments.rows, frame)

    def __repr__(self) -> str:
        """The name, which is all that there is to a stateless thing."""
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        """Two families are equal when they are of one class."""
        return type(self) is type(other)

    def __hash__(self) -> int:
        """Equal families hash alike."""
        return hash(type(self))


_REGISTRY: dict[str, Family] = {}
# scikit-learn's word for one of them
_ALIASES = {"diag": "diagonal"}

F = TypeVar("F", bound=type[Family])


def register(cls: F) -> F:
    """Class decorator: makes a family known by its name."""
    _REGISTRY[cls.name] = cls()
    return cls


def families() -> tuple[str, ...]:
    """The names of all families.

    Example:
        >>> import torchgmm as tg
        >>> tg.families()
        ('diagonal', 'spherical', 'tied_diagonal', 'tied_spherical', 'full', 'tied', 'common_axes')
    """
    return tuple(_REGISTRY)


def as_family(family: str | Family | Any) -> Family:
    """A family from its name; a family is handed back."""
    if isinstance(family, Family):
        return family
    found = _REGISTRY.get(_ALIASES.get(family, family)) if isinstance(family, str) else None
    if found is None:
        raise InputError(f"covariance must be one of {', '.join(_REGISTRY)}, got {family!r}")
    return found
