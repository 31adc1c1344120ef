"""`Projection`: rows onto a few axes, back, and mixtures with them."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from ..algebra import affine
from ..algebra.common import M
from ..errors import InputError
from ..mixture.tensors import as_tensor

__all__ = ["Projection"]


class Projection(nn.Module):
    """The map `z = axes (x - mean)` of rows, as a module without parameters to learn.

    Its tensors are buffers in float64: rows are centred before they are rounded, and come out in
    their own dtype. As an `encoder=` of `fit` it takes rows of any shape, flattened.

    Attributes:
        mean: the origin, `(D,)`.
        axes: `(m, D)`.
        back: `(D, m)`: `mean + back z` is the row nearest to x that z can tell of.
    """

    mean: Tensor
    axes: Tensor
    back: Tensor
    _TENSORS: tuple[str, ...] = ("mean", "axes", "back")

    def __init__(self, mean: Any = None, axes: Any = None, back: Any = None) -> None:
        super().__init__()
        for name in self._TENSORS:
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))
        if mean is not None and axes is not None:
            matrix = as_tensor(axes).double()
            self._hold(
                mean=as_tensor(mean).double(),
                axes=matrix,
                back=torch.linalg.pinv(matrix) if back is None else as_tensor(back).double(),
            )

    @property
    def is_fitted(self) -> bool:
        """Whether the axes are known."""
        return self.axes.dim() == 2

    @property
    def n_features(self) -> int:
        """D."""
        self._require_axes("n_features")
        return self.axes.shape[1]

    @property
    def log_det(self) -> Tensor:
        """The logarithm of the volume that a unit of volume along the axes becomes, a scalar.

        `log p(z) + log_det` is the density of a row's part along the axes in the units of the row:
        the same whatever the axes' scale, and with as many axes as features that of the row.
        """
        self._require_axes("log_det")
        scales: Tensor = torch.linalg.svdvals(self.axes)
        return scales.log().sum()

    def forward(self, x: Any) -> Tensor:
        """`z (*B, N, m)` of rows `(*B, N, D)`. Differentiable."""
        self._require_axes("forward")
        rows = self._rows(x)
        z = (rows.to(self.mean) - self.mean) @ self.axes.mT
        return z.to(_float(rows.dtype))

    def inverse(self, z: Any) -> Tensor:
        """The rows `(*B, N, D)` that z `(*B, N, m)` stands for. Differentiable.

        `forward(inverse(z))` is z; `inverse(forward(x))` is x without what the axes do not see.
        """
        self._require_axes("inverse")
        given = as_tensor(z)
        if given.shape[-1] != len(self.axes):
            raise InputError(f"z must have {len(self.axes)} columns, got {given.shape[-1]}")
        return (self.mean + given.to(self.mean) @ self.back.mT).to(_float(given.dtype))

    def project(self, mixture: M) -> M:
        """The mixture of z where x has the given one, exactly (see `affine`)."""
        self._require_axes("project")
        return affine(mixture, self.axes, -self.axes @ self.mean)

    # inside -------------------------------------------------------------------------------------

    def _rows(self, x: Any) -> Tensor:
        rows = as_tensor(x)
        if rows.dim() > 2 and rows.shape[-1] != self.n_features:
            rows = rows.flatten(1)  # images
        if rows.dim() < 2 or rows.shape[-1] != self.n_features:
            raise InputError(
                f"rows must be (N, {self.n_features}), got shape {tuple(as_tensor(x).shape)}"
            )
        return rows

    def _hold(self, **tensors: Tensor) -> None:
        for name, value in tensors.items():
            setattr(self, name, value)

    def _require_axes(self, call: str) -> None:
        if not self.is_fitted:
            raise InputError(f"{call}() needs axes: fit the PCA first, or load a state_dict")

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves between devices, and stays in float64: the axes are the arithmetic, not data."""
        for name in self._TENSORS:
            tensor = getattr(self, name)
            setattr(self, name, tensor.to(fn(tensor.new_empty(0)).device))
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in self._TENSORS:
            found = state_dict.get(prefix + name)
            if found is not None:  # of any size: a projection learns its own
                setattr(self, name, getattr(self, name).new_empty(found.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Shapes, for `repr`."""
        return f"{self.axes.shape[1]} -> {self.axes.shape[0]}" if self.is_fitted else "not fitted"


def _float(dtype: torch.dtype) -> torch.dtype:
    """Rows that are no floating point numbers come out in torch's default dtype."""
    return dtype if dtype.is_floating_point else torch.get_default_dtype()
