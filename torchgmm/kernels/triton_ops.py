"""The fused log-density, E-step and nearest centre as operators whose launches a compiler sees.

`log_prob` of a mixture is one opaque operator in a compiled or exported graph (`operators.py`),
whatever kernel it takes inside. These are for graphs that must hold the Triton kernels themselves,
to be compiled ahead of time or to run without this package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..covariance import as_family
from ..parameters import Parameters
from .triton_nearest import nearest
from .triton_run import Launcher, densities

__all__ = ["fused_log_prob", "fused_moments", "nearest_centre"]

_BUDGET = 128 * 2**20  # bytes of a chunk: a graph cannot ask what is free


def _fused_log_prob(
    x: Tensor, centre: Tensor, shift: Tensor | None, factor: Tensor, log_norm: Tensor
) -> Tensor:
    """Log-density `(B, n)` of rows `(n, D)` or `(B, n, D)`; the rest as in `densities`."""
    return densities(x.contiguous(), centre, shift, factor, log_norm, "ieee", keep=False)[0]


# torch 2.6 is the first with both; a custom operator is the same to a caller
_register = getattr(torch.library, "triton_op", torch.library.custom_op)

fused_log_prob = _register(
    "torchgmm::fused_log_prob",
    _fused_log_prob,
    mutates_args=(),
    schema="(Tensor x, Tensor centre, Tensor? shift, Tensor factor, Tensor log_norm) -> Tensor",
)


def _shape(
    x: Tensor, centre: Tensor, shift: Tensor | None, factor: Tensor, log_norm: Tensor
) -> Tensor:
    return x.new_empty(centre.shape[0], x.shape[-2])


fused_log_prob.register_fake(_shape)


def _fused_moments(
    x: Tensor, w: Tensor | None, logits: Tensor, means: Tensor, scale: Tensor, family: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `Moments` but the frame: of whitened rows, about the means, in float64."""
    parameters = Parameters(logits, means, scale, as_family(family))
    found = Launcher(parameters, x, "ieee", _BUDGET).moments(x, w, None)
    return found.weight, found.first, found.second, found.log_prob, found.rows.clone()


fused_moments = _register(
    "torchgmm::fused_moments",
    _fused_moments,
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor? w, Tensor logits, Tensor means, Tensor scale, str family) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)


def _sums(
    x: Tensor, w: Tensor | None, logits: Tensor, means: Tensor, scale: Tensor, family: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    exact = means.new_empty(0, dtype=torch.float64)
    batch = means.shape[:-2]
    shapes = (logits.shape, means.shape, scale.shape, batch, batch)
    weight, first, second, log_prob, rows = (exact.new_empty(shape) for shape in shapes)
    return weight, first, second, log_prob, rows


fused_moments.register_fake(_sums)


def _nearest_centre(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and distances `(B, n)` of rows `(B, n, D)` or `(1, n, D)`; see `nearest`."""
    return nearest(x.contiguous(), centres)


nearest_centre = _register(
    "torchgmm::nearest_centre",
    _nearest_centre,
    mutates_args=(),
    schema="(Tensor x, Tensor centres) -> (Tensor, Tensor)",
)


def _labels(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    shape = (centres.shape[0], x.shape[-2])
    return x.new_empty(shape, dtype=torch.int32), x.new_empty(shape)


nearest_centre.register_fake(_labels)
