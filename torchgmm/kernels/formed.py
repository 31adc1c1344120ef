"""The quadratic kernel on a GPU without its features: they are formed where they are multiplied."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..parameters import Parameters
from .base import Kernel, register
from .chunks import MOST_ROWS, Assign, Chunks
from .features import Features, Linear, Products
from .quadratic import Quadratic, QuadraticPlan
from .triton import Triton, require

__all__ = ["TritonQuadratic"]

_QUICK = ((8, 0), (9, 0), (10, 0))  # elsewhere float64 takes 32 or 64 times as long as float32
WHOLE = 512  # rows are filled up to so many: whole tiles of every kernel
_LARGEST_PLACE = 2**31 - 1


@register
class TritonQuadratic(Quadratic):
    """`quadratic` in three launches per chunk, on a CUDA device.

    The same products with the same digits. But no feature is ever stored: a product of two
    coordinates is made in registers, on its way into the matrix product. What passes through the
    device's memory is a copy of a chunk of rows and its log-joint, both of which its cache can
    hold. For full covariances that is a third of the arithmetic of `triton`, and `1 / D` of the
    traffic of `quadratic`.

    Where float32 would lose digits, products of its rows are made in float64 if the device has
    tensor cores for that, as an H100 does; else `triton` takes over.

    Args:
        budget: bytes of the buffers of a chunk; at most 128 MiB if not given.
        precision: of matrix products of float32 rows, as `Triton` has them.

    Raises:
        InputError: the rows are not on a CUDA device, or the precision is none.
        MissingExtraError: Triton is not installed.
    """

    name: ClassVar[str] = "triton_quadratic"

    def log_joint(self, x: Tensor, parameters: Parameters) -> Iterator[tuple[slice, Tensor]]:
        require(x.device, self.name)
        return super().log_joint(x, parameters)

    def plan(self, x: Tensor, parameters: Parameters) -> QuadraticPlan:
        require(x.device, self.name)
        found = super().plan(x, parameters)
        if _is_quick(x.device):
            return found
        return replace(found, dtypes=tuple(dtype for dtype in found.dtypes if dtype == x.dtype))

    def _chunks(self, features: Features, x: Tensor, dtype: torch.dtype) -> Chunks:
        precision = self.precision if dtype == torch.float32 else "ieee"
        return _FormedChunks(features, x, dtype, self.bytes_for(x), precision)

    def _dense(self) -> Kernel:
        return Triton(self.budget)


class _Coordinates:
    """Coordinates of a chunk of rows, `(*B, R, stride)`: D of them, a one, and maybe a square.

    What `Features.load` fills: to it this is a layout like the others.
    """

    def __init__(self, features: Features, stride: int, like: Tensor) -> None:
        self._d, self.by_columns = features.d, isinstance(features, Products)
        # squares of which only the sum is wanted
        self.has_extra = not self.by_columns and features.n_second == 1 != features.d
        # zero, as rows past the last are read too, under no weight
        self.y = like.new_zeros(*features.batch, self._d + 1 + self.has_extra, stride)
        self.y[..., self._d, :] = 1
        self._n = stride

    def room(self, x: Tensor) -> Tensor:
        """Where the coordinates of the chunk `x (*B, n, D)` go."""
        self._n = x.shape[-2]
        own = self.y[..., : self._d, : self._n]
        return own if self.by_columns else own.mT

    def multiply(self) -> None:
        """Nothing: that is the point."""

    def square(self) -> None:
        """Sums of squares where nothing else is wanted of them."""
        if self.has_extra:
            own = self.y[..., : self._d, : self._n]
            torch.sum(own * own, -2, out=self.y[..., self._d + 1, : self._n])

    @property
    def linear(self) -> Tensor:
        """The coordinates `(*B, n, D)`."""
        return self.y[..., : self._d, : self._n].mT


class _FormedChunks(Chunks):
    """Chunks whose features are formed by the kernels that multiply them."""

    def __init__(
        self, features: Features, x: Tensor, dtype: torch.dtype, budget: int, precision: str
    ) -> None:
        from . import triton_quadratic

        p, d = features.parameters, features.d
        self.features, self.dtype = features, dtype
        self._x = x if x.dim() > 2 else x.expand(*features.batch, *x.shape)
        self._shape, batch = (*p.batch_shape, p.n_components), p.batch_shape.numel()
        pairs, every = features.size - 1, math.prod(self._shape)
        numbers = (d + 2) * math.prod(features.batch) + every + batch
        numbers += every * pairs // triton_quadratic._LARGEST_SLAB[dtype]  # sums of slabs
        most = min(budget // (numbers * dtype.itemsize), MOST_ROWS, _LARGEST_PLACE // (d + 2))
        stride = min(max(most // WHOLE, 1), -(-x.shape[-2] // WHOLE)) * WHOLE
        self._rows = stride
        like = torch.empty(0, dtype=dtype, device=x.device)
        self.layout = _Coordinates(features, stride, like)
        extra = int(self.layout.has_extra)
        theta = features.coefficients().to(dtype).reshape(batch, p.n_components, -1)
        n_second, size = features.n_second - extra, theta.shape[-1] - 1 - extra
        padded = triton_quadratic.padded(p.n_components, size, like, precision)
        # what a scatter of all rows is compared with must be theirs to the last digit
        shares = dtype if isinstance(features, Linear) else x.dtype
        places = _places(d, n_second, self.layout.by_columns, stride, padded, x.device)
        self._products = triton_quadratic.Products(
            places,
            theta[..., extra:-1],
            theta[..., -1].contiguous(),
            theta[..., 0].contiguous() if extra else None,
            stride,
            precision,
            shares,
        )

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self._x.shape[-2], self._rows):
            part = slice(start, min(start + self._rows, self._x.shape[-2]))
            self.features.load(self._x[..., part, :], self.layout)
            yield part, self._products.joint(self._y, part.stop - start)

    def sums(self, joint: Tensor, w: Tensor | None, assign: Assign) -> tuple[Tensor, Tensor]:
        n = joint.shape[-1]
        if w is not None and w.dim() > 1:
            w = w.reshape(-1, n)
        log_prob, sums = self._products.sums(self._y, n, w)
        return log_prob.view(*self._shape[:-1], n), sums.view(*self._shape, -1)

    @property
    def _y(self) -> Tensor:
        return self.layout.y.view(-1, *self.layout.y.shape[-2:])  # type: ignore[no-any-return]


def _is_quick(device: torch.device) -> bool:
    """Whether tensor cores multiply float64, as fast as others do float32: A100, H100, B200."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) in _QUICK


@functools.lru_cache(maxsize=32)
def _places(
    d: int, n_second: int, by_columns: bool, stride: int, padded: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where the two coordinates of every feature begin, int32; what fills up is one times one."""
    single = torch.arange(d, device=device)
    left, right = single, torch.full_like(single, d)  # times one
    if by_columns:
        i, j = torch.triu_indices(d, d, device=device).unbind()
        left, right = torch.cat([i, left]), torch.cat([j, right])
    elif n_second:
        left, right = torch.cat([single, left]), torch.cat([single, right])
    filling = (0, padded - len(left))
    left, right = (torch.nn.functional.pad(t, filling, value=d) for t in (left, right))
    return (left * stride).int(), (right * stride).int()
