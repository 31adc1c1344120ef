"""The fused kernel: an E-step in two launches, without anything of size rows x components."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..errors import InputError, MissingExtraError
from ..moments import Moments
from ..parameters import Parameters
from .base import PRECISIONS, Kernel, can_launch, checked_precision, has_triton, register
from .dense import Dense, in_plain_coordinates
from .memory import spared

if TYPE_CHECKING:
    from .triton_run import Launcher

__all__ = ["Triton", "is_fused", "require"]

_MOST_FEATURES = 128  # a matrix of more does not fit into the registers of a program


def is_fused(x: Tensor, parameters: Parameters) -> bool:
    """Whether the fused kernel can take such rows on a GPU: what `auto` asks."""
    return x.is_cuda and has_triton() and _fits(parameters)


def _fits(p: Parameters) -> bool:
    return p.family.n_axes == 1 or p.n_features <= _MOST_FEATURES


@register
class Triton(Kernel):
    """Subtracts, whitens and sums inside one kernel, on a CUDA device.

    The same arithmetic as `dense`, and as exact, but responsibilities and whitened rows live in
    registers (for variances along the axes, log-joints of a chunk in the device's cache). Sums are
    made per slab of rows and joined in float64 in a fixed order, so equal calls give equal bits.
    A matrix of more than 128 features does not fit; `dense` takes such mixtures over.

    Args:
        budget: bytes of the buffers of a chunk; at most 128 MiB if not given.
        precision: of matrix products of float32 rows. `ieee` is float32 itself; `tf32x3` makes
            three products of tensor cores, with nearly its digits; `tf32` and `bf16` make one,
            with relative errors near 1e-3 and 1e-2 of the squared distances.

    Raises:
        InputError: the rows are not on a CUDA device, or the precision is none.
        MissingExtraError: Triton is not installed.
    """

    name: ClassVar[str] = "triton"
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS

    def __init__(self, budget: int | None = None, precision: str = "ieee") -> None:
        self.budget, self.precision = budget, checked_precision(precision)

    @property
    def ran(self) -> str:
        return self.name if self.precision == "ieee" else f"{self.name}:{self.precision}"

    def log_joint(self, x: Tensor, parameters: Parameters) -> Iterator[tuple[slice, Tensor]]:
        if not _fits(parameters):
            yield from Dense(self.budget).log_joint(x, parameters)
            return
        yield from self._launcher(x, parameters).log_joint(x)

    @spared
    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        if not _fits(parameters):
            return Dense(self.budget).log_prob(x, parameters)
        return self._launcher(x, parameters).log_prob(x)

    @spared
    def accumulate(self, x: Tensor, w: Tensor | None, parameters: Parameters) -> Moments:
        if not _fits(parameters):
            return Dense(self.budget).accumulate(x, w, parameters)
        launcher = self._launcher(x, parameters)

        def moments(centre: Tensor | None) -> Moments:
            return launcher.moments(x, w, centre)

        return in_plain_coordinates(moments, parameters, x.dtype)

    def _launcher(self, x: Tensor, parameters: Parameters) -> Launcher:
        require(x.device, self.name)
        from .triton_run import Launcher

        precision = self.precision if x.dtype == torch.float32 else "ieee"
        return Launcher(parameters, x, precision, self.bytes_for(x))


def require(device: torch.device, kernel: str) -> None:
    """Refuse what cannot run here."""
    if importlib.util.find_spec("triton") is None:
        raise MissingExtraError("triton", "gpu", f"kernel {kernel!r}")
    if not can_launch(device):
        raise InputError(
            f"kernel {kernel!r} runs on CUDA devices, the rows are on {device}: choose 'auto', or "
            "set TRITON_INTERPRET=1 before Python starts to try it (slowly) on the CPU"
        )
