"""Rows as vectors in which `log N(x; k)` is linear, so that an E-step is two matrix products.

With `y = x - c` about one origin c for all components, `log pi_k N(x; k) = theta_k . phi(x)`, and
the moments are `R phi^T`. What `phi` holds follows from the structure of the covariances:

| covariances | phi | entries |
|---|---|---|
| a matrix per component | `y_i y_j (i <= j), y, 1` | `D (D + 3) / 2 + 1` |
| variances per component | `y_i^2, y, 1`, or `|y|^2, y, 1` | `2 D + 1`, `D + 2` |
| shared by all | `y` in whitened coordinates, and 1 | `D + 1` |

How they lie in memory is the business of `layouts`.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .. import linalg
from ..covariance import Family
from ..parameters import Parameters
from .layouts import Columns, Layout, Rows

__all__ = ["Features", "Linear", "Products", "Squares", "features_of"]


class Features(ABC):
    """A feature map and what goes with it, for parameters in float64 about an origin.

    `second` moments and quadratic coefficients come per component, flattened to `(*B, K, S)`.

    Args:
        parameters: in float64.
        centre: the origin c, `(*B, D)`; or `(D,)` for a batch whose rows are the same, which then
            share their features too.
    """

    def __init__(self, parameters: Parameters, centre: Tensor) -> None:
        self.family: Family = parameters.family
        self.d = parameters.n_features
        self.centre = centre
        self.parameters = parameters
        self.offset = parameters.means - centre.unsqueeze(-2)  # (*B, K, D)

    @property
    def batch(self) -> tuple[int, ...]:
        """Leading axes of the features: none where all mixtures of a batch share them."""
        return self.centre.shape[:-1]

    @property
    @abstractmethod
    def n_second(self) -> int:
        """S: how many of the features are products of two coordinates; they come first."""

    @property
    def size(self) -> int:
        """P: how many features there are."""
        return self.n_second + self.d + 1

    @abstractmethod
    def layout(self, rows: int, like: Tensor) -> Layout:
        """Buffers for chunks of at most `rows` rows, in the dtype of `like`."""

    @abstractmethod
    def load(self, x: Tensor, layout: Any) -> None:
        """Put the features of the rows `x (*B, n, D)` into what `layout` made; any dtype."""

    @abstractmethod
    def coefficients(self) -> Tensor:
        """`theta (*B, K, P)`."""

    @abstractmethod
    def second(self, flat: Tensor) -> Tensor:
        """Second moments in the family's shape, from their `(*B, K, S)` entries."""

    @abstractmethod
    def spread(self) -> Tensor:
        """The root mean square of the coordinates under each component, `(*B, K, D)`."""

    @abstractmethod
    def magnitude(self, spread: Tensor) -> tuple[Tensor, Tensor]:
        """How large the terms are that cancel, where rows have the root mean square `spread`.

        Args:
            spread: `(*B, K, D)`, of the coordinates y under each component.

        Returns:
            The sum of the absolute terms of `log N`, and of those of a variance relative to it,
            both `(*B, K)`. Times the rounding unit they say what a dtype loses.
        """

    def _log_norm(self) -> Tensor:
        p = self.parameters
        half_log_det = p.family.half_log_det(p.scale, self.d)
        return p.log_weights - half_log_det - 0.5 * self.d * math.log(2 * math.pi)


class Products(Features):
    """A matrix per component: all products of two coordinates."""

    def __init__(self, parameters: Parameters, centre: Tensor) -> None:
        super().__init__(parameters, centre)
        whitener = self.family.whitener(parameters.scale)  # (*B, K, D, D), z = y @ whitener
        self._precision = whitener @ whitener.mT

    @property
    def n_second(self) -> int:
        return self.d * (self.d + 1) // 2

    def layout(self, rows: int, like: Tensor) -> Columns:
        return Columns(self.batch, self.d, self.n_second, rows, like)

    def load(self, x: Tensor, layout: Columns) -> None:
        room = layout.room(x)
        _difference(x.mT, self.centre.unsqueeze(-1), room)
        layout.multiply()

    def coefficients(self) -> Tensor:
        linear = linalg.apply(self._precision, self.offset)
        constant = self._log_norm() - 0.5 * (linear * self.offset).sum(-1)
        upper, _, share = _upper(self.d, linear.device)
        products = self._precision.flatten(-2).index_select(-1, upper) * share
        return torch.cat([products, linear, constant.unsqueeze(-1)], -1)

    def second(self, flat: Tensor) -> Tensor:
        _, every, _ = _upper(self.d, flat.device)
        return flat.index_select(-1, every).view(*flat.shape[:-1], self.d, self.d)

    def spread(self) -> Tensor:
        variance = self.family.factor(self.parameters.scale).square().sum(-1)
        return (variance + self.offset.square()).sqrt()

    def magnitude(self, spread: Tensor) -> tuple[Tensor, Tensor]:
        size = spread + self.offset.abs()
        terms = (linalg.apply(self._precision.abs(), size) * size).sum(-1)
        return terms, terms


class Squares(Features):
    """Variances per component: squares of the coordinates, or one sum of them."""

    def __init__(self, parameters: Parameters, centre: Tensor) -> None:
        super().__init__(parameters, centre)
        self._precision = (-2 * parameters.scale).exp()  # (*B, K, D) or (*B, K, 1)

    @property
    def n_second(self) -> int:
        return self._precision.shape[-1]

    def layout(self, rows: int, like: Tensor) -> Rows:
        return Rows(self.batch, self.d, self.n_second, rows, like)

    def load(self, x: Tensor, layout: Rows) -> None:
        _difference(x, self.centre.unsqueeze(-2), layout.room(x))
        layout.square()

    def coefficients(self) -> Tensor:
        linear = self._precision * self.offset
        constant = self._log_norm() - 0.5 * (linear * self.offset).sum(-1)
        return torch.cat([-0.5 * self._precision, linear, constant.unsqueeze(-1)], -1)

    def second(self, flat: Tensor) -> Tensor:
        return flat

    def spread(self) -> Tensor:
        return (self._precision.reciprocal() + self.offset.square()).sqrt()

    def magnitude(self, spread: Tensor) -> tuple[Tensor, Tensor]:
        terms = (spread + self.offset.abs()).square() * self._precision
        if self.n_second == self.d:
            return terms.sum(-1), terms.amax(-1)
        return terms.sum(-1), terms.mean(-1)


class Linear(Features):
    """Covariances shared by all: whitened coordinates alone, as `|z|^2` cancels between components.

    What cancels is still part of the density: `row_term` adds it per row, `scatter` sums it.
    """

    def __init__(self, parameters: Parameters, centre: Tensor) -> None:
        super().__init__(parameters, centre)
        self._whitener = self.family.whitener(parameters.scale)  # (*B, 1, ...)
        offset = self.offset.unsqueeze(-3)  # (*B, 1, K, D): the components as rows
        self.whitened = self.family.whiten(offset, self._whitener, None, None).squeeze(-3)

    @property
    def n_second(self) -> int:
        return 0

    def layout(self, rows: int, like: Tensor) -> Rows:
        return Rows(self.batch, self.d, 0, rows, like)

    def load(self, x: Tensor, layout: Rows) -> None:
        room = layout.room(x)
        y = _difference(x, self.centre.unsqueeze(-2), torch.empty_like(x, dtype=room.dtype))
        whitener = self._whitener.to(room.dtype).contiguous()
        self.family.whiten(y.unsqueeze(-3), whitener, None, room.unsqueeze(-3))

    def coefficients(self) -> Tensor:
        constant = self._log_norm() - 0.5 * self.whitened.square().sum(-1)
        return torch.cat([self.whitened, constant.unsqueeze(-1)], -1)

    def second(self, flat: Tensor) -> Tensor:
        raise NotImplementedError("see scatter")

    def spread(self) -> Tensor:
        return self.whitened.abs() + 1  # of whitened coordinates, and no less

    def row_term(self, z: Tensor) -> Tensor:
        """`-|z|^2 / 2` of every row, `(*B, 1, n)`, from whitened rows `z (*B, n, D)`."""
        return -0.5 * z.square().sum(-1).unsqueeze(-2)

    def scatter(self, z: Tensor, w: Tensor | None) -> Tensor:
        """Second moments of all rows, `(*B, 1, ...)`, from whitened rows `z (*B, n, D)`."""
        weighted = z if w is None else z * w.unsqueeze(-1)
        if self.family.n_axes == 2:
            return (weighted.mT @ z).unsqueeze(-3)
        squares = (weighted * z).sum(-2, keepdim=True)  # (*B, 1, D)
        alike = self.family.factor_shape(self.d)[0] == self.d
        return squares if alike else squares.sum(-1, keepdim=True)

    def magnitude(self, spread: Tensor) -> tuple[Tensor, Tensor]:
        # spread of whitened coordinates; what the whitening itself rounds, `dense` rounds too
        size = spread + self.whitened.abs()
        return (size * self.whitened.abs()).sum(-1), size.square().amax(-1)


@functools.lru_cache(maxsize=32)
def _upper(d: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """How the products of a symmetric matrix `(D, D)` lie in its upper triangle `(P,)`.

    Returns:
        The place of every product in the flat matrix; of every entry of that among the products,
        `(D * D,)`; and what a product has of an entry of a precision: both halves share one.
    """
    i, j = torch.triu_indices(d, d, device=device).unbind()
    every = torch.zeros(d, d, dtype=torch.int64, device=device)
    every[i, j] = every[j, i] = torch.arange(len(i), device=device)
    share = torch.where(i == j, -0.5, -1.0).double()
    return i * d + j, every.flatten(), share


def _difference(x: Tensor, centre: Tensor, out: Tensor) -> Tensor:
    """`x - centre` in the dtype of `out`, without a copy of x in it."""
    if x.dtype == out.dtype:
        return torch.sub(x, centre.to(out.dtype), out=out)
    return out.copy_(x).sub_(centre.to(out.dtype))


def features_of(parameters: Parameters, centre: Tensor) -> Features:
    """The feature map of a family. Both arguments are in float64."""
    if parameters.family.tied:
        return Linear(parameters, centre)
    return (Products if parameters.family.n_axes == 2 else Squares)(parameters, centre)
