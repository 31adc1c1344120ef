"""The interface of a kernel, its registry, and what kernels share: chunks and the soft-max."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from ..moments import Moments
from ..parameters import Parameters
from .memory import chunk_budget, onward, spared

__all__ = [
    "PRECISIONS",
    "Kernel",
    "as_kernel",
    "can_launch",
    "checked_precision",
    "chunk_rows",
    "has_triton",
    "kernels",
    "members",
    "one_hot",
    "register",
    "soft_assign",
]

# Of products on a GPU: float32 itself; three products of TF32, with nearly its digits; one of TF32;
# one of bfloat16. The last two keep relative errors near 1e-3 and 1e-2 of the squared distances.
PRECISIONS = ("ieee", "tf32x3", "tf32", "bf16")

T = TypeVar("T")

# exp() below this makes denormal numbers, which cost a hundred times a normal one
_LEAST_EXPONENT = {torch.float32: -80.0, torch.float64: -700.0}


class Kernel(ABC):
    """Computes a mixture on rows. Every kernel passes one contract suite against `Dense`.

    Rows are `(N, D)` shared by all mixtures of a batch, or `(*B, N, D)`; they come checked and in
    the dtype of the computation. Parameters may have more digits than the rows. Nothing here
    tracks gradients.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ()  # of products, where there is a choice
    needs_float64: ClassVar[bool] = True  # where the rows are
    usual_budget: ClassVar[int] = 16 * 2**20
    budget: int | None = None  # bytes of the buffers of a chunk; by the device if None

    @property
    def ran(self) -> str:
        """The name of the kernel that did the last `accumulate`; one that chooses says which."""
        return self.name

    def bytes_for(self, x: Tensor) -> int:
        """Bytes of the buffers of a chunk of such rows."""
        return chunk_budget(self.budget, self.usual_budget, x.device)

    @abstractmethod
    def log_joint(
        self,
        x: Tensor,  # (N, D) or (*B, N, D)
        parameters: Parameters,
    ) -> Iterator[tuple[slice, Tensor]]:
        """`log pi_k N(x_n; k)` chunk by chunk: a slice of the rows and `(*B, K, n)`, in nats.

        The tensor is a buffer: it is overwritten by the next chunk.
        """

    def each(
        self,
        x: Tensor,  # (N, D) or (*B, N, D)
        parameters: Parameters,
        answer: Callable[[slice, Tensor], T],
    ) -> Iterator[T]:
        """What `answer` makes of the slices and tensors of `log_joint`, chunk by chunk.

        Out of memory, in the answer too, it goes on behind the last chunk with half the bytes.
        """
        chunks: Iterator[tuple[slice, Tensor]] | None = None

        def following(done: int) -> tuple[int, T]:
            nonlocal chunks
            ahead = self._behind(done, x, parameters) if chunks is None else chunks
            chunks = None  # of no use after a failure
            part, joint = next(ahead)
            found = answer(part, joint)
            chunks = ahead
            return part.stop, found

        return onward(self.bytes_for, x, following)

    def _behind(
        self, start: int, x: Tensor, parameters: Parameters
    ) -> Iterator[tuple[slice, Tensor]]:
        for part, joint in self.log_joint(x[..., start:, :], parameters):
            yield slice(start + part.start, start + part.stop), joint

    @spared
    def log_prob(
        self,
        x: Tensor,  # (N, D) or (*B, N, D)
        parameters: Parameters,
    ) -> Tensor:
        """Log-density of every row, `(*B, N)`, in nats."""
        out = x.new_empty(*parameters.batch_shape, x.shape[-2])
        for rows, joint in self.log_joint(x, parameters):
            out[..., rows] = joint.logsumexp(-2)
        return out

    @abstractmethod
    def accumulate(
        self,
        x: Tensor,  # (N, D) or (*B, N, D)
        w: Tensor | None,  # (N,) or (*B, N), in the dtype of x
        parameters: Parameters,
    ) -> Moments:
        """Moments of the rows about the current means, in float64: one E-step."""


def chunk_rows(n_components: int, n_features: int, dtype: torch.dtype, budget: int) -> int:
    """Rows per chunk so that one `(K, n, D)` buffer has about `budget` bytes.

    At least 32 rows, so that a huge K x D still makes products worth calling; at most 65,536,
    past which nothing is gained.
    """
    size = 4 if dtype == torch.float32 else 8
    rows = budget // (n_components * n_features * size)
    return max(32, min(rows, 65_536))


def soft_assign(
    log_joint: Tensor,  # (*B, K, n); overwritten
) -> tuple[Tensor, Tensor]:
    """Responsibilities `(*B, K, n)`, in place, and `log p(x) (*B, n)`.

    Terms that exp() would turn into denormals are exact zeros: they are below rounding by far.
    They are cut off on both sides of exp(), which takes six times as long where it meets -inf.
    """
    least = _LEAST_EXPONENT[log_joint.dtype]
    if log_joint.is_cuda and has_triton() and log_joint.is_contiguous():
        from . import triton_soft

        return triton_soft.soft_assign(log_joint, least)
    top = log_joint.amax(-2, keepdim=True)
    r = log_joint.sub_(top).clamp_min_(least).exp_()
    torch.threshold_(r, 2 * math.exp(least), 0.0)
    total = r.sum(-2, keepdim=True)
    r.div_(total)
    return r, (total.log_() + top).squeeze(-2)


def one_hot(values: Tensor, best: Tensor) -> Tensor:
    """1 where `values (..., K, n)` are the `best (..., 1, n)` over K, of several the first; 0 else.

    Overwrites the values.
    """
    member = members(values, best)
    if not bool((member.sum(-2) == 1).all()):
        member *= member.cumsum(-2) == 1
    return member


def members(values: Tensor, best: Tensor) -> Tensor:
    """The same, and 1 for every one of several."""
    return torch.eq(values, best, out=values)  # written as numbers: no pass over truth values


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed and compiles: in its interpreter it is for tests alone."""
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    return importlib.util.find_spec("triton") is not None and not interpreted


def can_launch(device: torch.device) -> bool:
    """Whether Triton's kernels run on tensors of the device: a GPU, or any in the interpreter."""
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        return importlib.util.find_spec("triton") is not None
    return device.type == "cuda" and has_triton()


def checked_precision(precision: str) -> str:
    """The name of a precision of products, refused if it is none."""
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision


_REGISTRY: dict[str, type[Kernel]] = {}

C = TypeVar("C", bound=type[Kernel])


def register(cls: C) -> C:
    """Class decorator: makes a kernel known by its name."""
    _REGISTRY[cls.name] = cls
    return cls


def kernels() -> tuple[str, ...]:
    """The names of all kernels."""
    return tuple(_REGISTRY)


def as_kernel(kernel: str | Kernel) -> Kernel:
    """A kernel from its name, `auto` for the best one; a kernel is kept.

    One that knows several precisions takes another than its own after a colon: `triton:tf32x3`.
    """
    if isinstance(kernel, Kernel):
        return kernel
    name, _, precision = str(kernel).partition(":")
    if name not in _REGISTRY:
        named = ", ".join(name for name in _REGISTRY if name != "auto")
        raise InputError(f"kernel must be auto or one of {named}, got {kernel!r}")
    cls = _REGISTRY[name]
    if not precision:
        return cls()
    if precision not in cls.precisions:
        known = ", ".join(f"{name}:{word}" for word in cls.precisions) or name
        raise InputError(f"kernel {name!r} has no precision {precision!r}: choose from {known}")
    return cls(precision=precision)  # type: ignore[call-arg]
