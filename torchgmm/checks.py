"""What a user hands in: rank, size, dtype, finiteness, weights, seeds. Errors name the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .exact import exact, has_float64

__all__ = [
    "as_generator",
    "check_count",
    "check_device",
    "check_finite",
    "check_kind",
    "check_leading",
    "check_real",
    "check_rows",
    "check_weights",
    "compute_dtype",
    "largest_allowed",
    "numbers_of",
    "place_of",
]

# Sums of squares of whitened rows must stay finite: (1e15 / sqrt(reg_covar))^2 * rows < 3e38.
_LARGEST = {torch.float32: 1e15, torch.float64: 1e140}
# Weights go into float32 sums with squares of rows; their largest is where those keep their digits.
_WEIGHTS = (1e-30, 1e30)
# Above this float32 no longer holds every integer.
_EXACT_INTEGERS = 2**24


def largest_allowed(dtype: torch.dtype) -> float:
    """The largest absolute value that rows computed in `dtype` may have."""
    return _LARGEST[dtype]


def check_device(device: torch.device) -> None:
    """Refuse devices on which nothing can be exact.

    Raises:
        InputError: the device has no float64, and what was asked for needs it there.
    """
    if not has_float64(device):
        raise InputError(
            f"device {device.type} has no float64, in which this is computed: move mixture and "
            "rows to the CPU, .cpu(), or to a CUDA device"
        )


def compute_dtype(
    rows: torch.dtype, mixture: torch.dtype, device: torch.device | None = None
) -> torch.dtype:
    """The dtype in which rows and mixture meet: torch's promotion, and never below float32.

    Integer and half-precision rows are computed in the dtype of the mixture, and all rows in
    float32 on a device that has no float64.

    Raises:
        InputError: the rows are complex.
    """
    if rows.is_complex:
        raise InputError(
            f"rows are {rows}, but a Gaussian mixture has real features: "
            "stack real and imaginary parts as columns"
        )
    if device is not None and not has_float64(device):
        return torch.float32
    return torch.promote_types(torch.promote_types(rows, mixture), torch.float32)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`; booleans and floats are refused."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
    return int(value)


def as_generator(
    generator: torch.Generator | int | None, device: torch.device | str = "cpu"
) -> torch.Generator:
    """What randomness comes from: a generator as it is, or one on `device` from a seed.

    Without either the seed is drawn from torch's global generator.

    Raises:
        InputError: neither, or a seed below 0.
    """
    if isinstance(generator, torch.Generator):
        return generator
    if generator is None:
        generator = int(torch.randint(2**62, ()))
    seed = check_count("the seed (generator=)", generator, least=0)
    return torch.Generator(device).manual_seed(seed)


def check_kind(name: str, value: Any, kind: type, such_as: str) -> None:
    """Refuse what is no object of `kind`, and say so of a class in its place.

    Args:
        name: of the argument, for the message.
        value: the argument.
        kind: the class it must have.
        such_as: how one is written, for the message.
    """
    if isinstance(value, kind):
        return
    got = f"{value!r} ({type(value).__name__})"
    if isinstance(value, type):
        got = f"the class {value.__name__}"
        got += f": write {value.__name__}()" if issubclass(value, kind) else ""
    raise InputError(f"{name} must be of type {kind.__name__}, such as {such_as}, got {got}")


def check_real(name: str, value: Any) -> None:
    """Refuse what is no real number, a tensor of one element aside."""
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(value).__name__
        raise InputError(f"{name} must be a number, got {value!r} ({kind})") from error
    if isinstance(value, str):
        raise InputError(f"{name} must be a number, got the text {value!r}")


def check_rows(
    shape: tuple[int, ...], n_features: int | None, n_batch: int = 0, *, none: bool = False
) -> None:
    """Rank and width of rows `(*B, N, D)`; `none` where no rows at all are rows too.

    Raises:
        InputError: wrong rank, no rows, no columns, or not `n_features` columns.
    """
    if len(shape) < 2:
        hint = "x.reshape(-1, 1) for one feature, x.reshape(1, -1) for one row"
        raise InputError(f"rows must be a table (N, D), got shape {tuple(shape)}: use {hint}")
    if len(shape) > 2 + n_batch:
        wanted = "(*B, N, D)" if n_batch else "(N, D)"
        raise InputError(
            f"rows must be {wanted}, got shape {tuple(shape)}: flatten the leading axes, "
            "x.flatten(0, -2), or the trailing ones, x.flatten(1)"
        )
    if 0 in (shape[:-2] + shape[-1:] if none else shape):
        raise InputError(f"rows are empty: shape {tuple(shape)}")
    if n_features is not None and shape[-1] != n_features:
        raise InputError(f"rows have {shape[-1]} columns, the mixture has n_features={n_features}")


def check_leading(shape: tuple[int, ...], batch: tuple[int, ...]) -> None:
    """Refuse rows `(..., N, D)` whose leading axes do not broadcast to those of the mixtures."""
    if any(a not in (1, b) for a, b in zip(shape[-3::-1], batch[::-1], strict=False)):
        raise InputError(
            f"rows {shape} do not fit a batch of mixtures of shape {tuple(batch)}: give a table "
            f"(N, D) for all, or {(*batch, 'N', 'D')}"
        )


def check_finite(
    x: Tensor,
    dtype: torch.dtype,
    *,
    offset: int = 0,
    kept: Tensor | None = None,
    what: str = "rows",
) -> None:
    """Refuse NaN, infinities, and values whose squares `dtype` cannot sum.

    Args:
        x: `(..., N, D)`, any real dtype.
        dtype: the dtype of the computation.
        offset: number of the first row, for the message.
        kept: `(N,)` numbers of the rows, counted from `offset`, where they are not consecutive.
        what: the name of the argument, for the message.

    Raises:
        InputError: with the number of bad entries, the first bad row and column, the remedy.
    """
    if x.numel() == 0:
        return
    if not x.dtype.is_floating_point:
        if dtype == torch.float32 and x.dtype in (torch.int32, torch.int64):
            _check_integers(x, what)
        return
    x = x.detach()
    # of what does not lie in one piece, as blocks of columns, aminmax would make a copy first
    ends = torch.aminmax(x) if x.is_contiguous() else (x.amin(), x.amax())
    low, high = (float(v) for v in ends)  # NaN comes through
    reach = max(abs(low), abs(high))
    if reach <= largest_allowed(dtype):
        return
    bad = ~torch.isfinite(x)
    if bool(bad.any()):
        *_, row, column = (int(i) for i in bad.nonzero()[0])
        row = row if kept is None else int(kept[row])
        raise InputError(
            f"{what} hold {int(bad.sum())} NaN or infinite value(s), the first {float(x[bad][0])} "
            f"in row {offset + row}, column {column}: drop those rows, fill them, or give them "
            "weight 0"
        )
    raise InputError(
        f"{what} reach {reach:g}, whose squares overflow {dtype} sums "
        f"(limit {largest_allowed(dtype):g}): rescale the columns"
        + (", or pass float64" if dtype == torch.float32 else "")
    )


def _check_integers(x: Tensor, what: str) -> None:
    low, high = (int(v) for v in torch.aminmax(x))
    reach = max(abs(low), abs(high))
    if reach > _EXACT_INTEGERS:
        raise InputError(
            f"{what} are integers up to {reach}, but float32 is exact only to {_EXACT_INTEGERS}: "
            "build the mixture with dtype=torch.float64, or convert the rows yourself"
        )


def check_weights(weights: Any, n_rows: int, *, part: bool = False) -> Tensor:
    """Row weights as a float64 tensor `(N,)` on their own device, or the CPU.

    Args:
        weights: one number per row.
        n_rows: N.
        part: these are the weights of some rows only, which may all be zero.

    Raises:
        InputError: wrong size, negative, not finite, all zero, or all so small or one so large that
            sums in float32 would not hold them.
    """
    if isinstance(weights, Tensor):
        w = weights.detach()
    else:
        try:
            table = np.asarray(weights)
            numbers = table.dtype.kind in "fiub"
            w = torch.from_numpy(np.array(table, dtype=np.float64 if numbers else table.dtype))
        except (TypeError, ValueError) as error:
            raise InputError(f"weights must be numbers, one per row: {error}") from error
    if w.dtype.is_complex:
        raise InputError(f"weights must be real, got {w.dtype}")
    if tuple(w.shape) != (n_rows,):
        raise InputError(
            f"weights must be one number per row, ({n_rows},), got shape {tuple(w.shape)}"
        )
    w = exact(w)
    if not bool(torch.isfinite(w).all()):
        bad = ~torch.isfinite(w)
        raise InputError(
            f"weights hold {int(bad.sum())} NaN or infinite value(s), the first in row "
            f"{int(bad.nonzero()[0])}"
        )
    if bool((w < 0).any()):
        raise InputError(
            f"weights hold {int((w < 0).sum())} negative value(s), the least {float(w.min()):g} "
            f"in row {int(w.argmin())}: weights count rows"
        )
    largest = float(w.max()) if len(w) else 0.0
    if not part and largest == 0:
        raise InputError(f"all {n_rows} weights are zero: nothing is left to fit or score")
    if largest > _WEIGHTS[1] or (not part and largest < _WEIGHTS[0]):
        raise InputError(
            f"the largest weight is {largest:g}, and sums in float32 take {_WEIGHTS[0]:g} to "
            f"{_WEIGHTS[1]:g}: only the ratios of weights matter to a fit, divide them by their "
            "largest"
        )
    return w


def place_of(data: Any, device: torch.device | str | None) -> torch.device:
    """Where to compute: as asked, else where a tensor is, else on the CPU."""
    if device is not None:
        return torch.device(device)
    return data.device if isinstance(data, Tensor) else torch.device("cpu")


def numbers_of(mask: Tensor) -> list[Any]:
    """Where a mask is true: numbers, or for more than one axis tuples of them."""
    found = mask.nonzero().tolist()
    return [place[0] if len(place) == 1 else tuple(place) for place in found]
