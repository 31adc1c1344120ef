"""`log_prob` for autograd: backward is one more `accumulate`, in memory O(chunk).

Two `autograd.Function`s join the arithmetic (`operators.py`) to autograd and `torch.func`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from ..covariance import Family, as_family, families
from ..parameters import Parameters
from .dense import joint_log_prob
from .operators import backward_of, backward_op, log_prob_of, log_prob_op
from .precision import full_precision

__all__ = ["is_traced", "log_prob"]


def log_prob(
    x: Tensor,  # (N, D) or (*B, N, D), in the dtype of the computation
    parameters: Parameters,
) -> Tensor:
    """Log-density of every row, `(*B, N)`, in nats, in memory O(chunk) forward and backward.

    Differentiable in the rows and in all parameters, as often as is wanted: the second derivative
    takes the dense definition (`joint_log_prob`), whose memory is O(N K D).
    """
    p = parameters
    if x.dim() > 2:
        x = x.expand(*p.batch_shape, *x.shape[-2:])
    compiling = torch.compiler.is_compiling()
    known = p.family.name in families() and as_family(p.family.name) == p.family
    empty = not compiling and not x.shape[-2]
    if not known or empty or (compiling and _transformed()):
        # Operators know families by name, and chunks that have rows; dynamo cannot trace vmap
        # over an autograd.Function.
        return _dense(p.family, x, p.logits, p.means, p.scale)
    call: Any = _LogProb if compiling else _ForwardLogProb  # nor forward-mode derivatives
    return cast(Tensor, call.apply(x, p.logits, p.means, p.scale, p.family.name))


def is_traced() -> bool:
    """Whether values cannot be looked at: under `torch.compile`, `torch.export`, `torch.func`."""
    return torch.compiler.is_compiling() or _transformed()


def _transformed() -> bool:
    return bool(torch._C._are_functorch_transforms_active())


def _dense(family: Family, x: Tensor, *tensors: Tensor) -> Tensor:
    with full_precision(x.device):
        return joint_log_prob(x, _mixture(tensors, family)).logsumexp(-1)


def _mixture(tensors: Sequence[Tensor], family: Family) -> Parameters:
    logits, means, scale = tensors
    return Parameters(logits, means, scale, family)


class _LogProb(Function):
    """log p of the rows; only the inputs are kept for the backward pass."""

    @staticmethod
    def forward(x: Tensor, logits: Tensor, means: Tensor, scale: Tensor, family: str) -> Tensor:
        call = log_prob_op if torch.compiler.is_compiling() else log_prob_of
        return cast(Tensor, call(x, logits, means, scale, family))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, logits, means, scale, family = inputs
        ctx.save_for_backward(x, logits, means, scale)
        ctx.save_for_forward(x, logits, means, scale)
        ctx.family = family

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, logits, means, scale = ctx.saved_tensors
        needed = ctx.needs_input_grad
        of_parameters = needed[1] or needed[2] or needed[3]
        call: Any = _Backward if torch.compiler.is_compiling() else _ForwardBackward
        by = call.apply(g, x, logits, means, scale, ctx.family, needed[0], of_parameters)
        return (
            by[0] if needed[0] else None,
            by[1] if needed[1] else None,
            by[2] if needed[2] else None,
            by[3] if needed[3] else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        x, *tensors, family = args
        if all(axis is None for axis in in_dims[1:4]):
            x = x.movedim(in_dims[0], -3)  # one mixture: all their rows in one call
            out = log_prob(x.flatten(-3, -2), _mixture(tensors, as_family(family)))
            out = out.reshape(*out.shape[:-1], info.batch_size, x.shape[-2])
            return out, out.dim() - 2
        lifted = _lifted(info.batch_size, in_dims[1:4], tensors)
        if in_dims[0] is not None or x.dim() > 2:
            x = _lifted_rows(info.batch_size, in_dims[0], x, lifted[1])
        return log_prob(x, _mixture(lifted, as_family(family))), 0


class _ForwardLogProb(_LogProb):
    """The same with forward-mode derivatives, which `torch.func.jvp` and `hessian` ask for."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        saved = ctx.saved_tensors
        f = functools.partial(_dense, as_family(ctx.family))
        return cast(Tensor, _pushed(f, saved, tangents[:4]))


class _Backward(Function):
    """The gradients of `sum g log p`; what is not wanted comes as an empty tensor."""

    @staticmethod
    def forward(
        g: Tensor,
        x: Tensor,
        logits: Tensor,
        means: Tensor,
        scale: Tensor,
        family: str,
        of_rows: bool,
        of_parameters: bool,
    ) -> tuple[Tensor, ...]:
        call = backward_op if torch.compiler.is_compiling() else backward_of
        by = call(g, x, logits, means, scale, family, of_rows, of_parameters)
        return cast("tuple[Tensor, ...]", by)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        g, x, logits, means, scale, family, of_rows, of_parameters = inputs
        ctx.save_for_backward(g, x, logits, means, scale)
        ctx.save_for_forward(g, x, logits, means, scale)
        ctx.definition = _gradients(as_family(family), of_rows, of_parameters)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        _, pull = _vjp(ctx.definition, *ctx.saved_tensors)
        return (*pull(cotangents), None, None, None)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        g, x, *tensors, family, of_rows, of_parameters = args
        n = info.batch_size
        rest = (family, of_rows, of_parameters)
        apply = cast(Any, _ForwardBackward).apply
        shared = all(axis is None for axis in in_dims[2:5])
        if shared and not of_parameters:  # one mixture: all their rows in one call
            g = g.movedim(in_dims[0], -2) if in_dims[0] is not None else g.unsqueeze(-2)
            x = x.movedim(in_dims[1], -3) if in_dims[1] is not None else x.unsqueeze(-3)
            g = g.expand(*g.shape[:-2], n, g.shape[-1]).flatten(-2)
            x = x.expand(*x.shape[:-3], n, *x.shape[-2:]).flatten(-3, -2)
            by_rows, *by = apply(g, x, *tensors, *rest)
            by_rows = by_rows.unflatten(-2, (n, -1))
            return (by_rows, *by), (by_rows.dim() - 3, None, None, None)
        lifted = _lifted(n, in_dims[2:5], tensors)
        (g,) = _lifted(n, in_dims[:1], [g])
        own = x.dim() - (in_dims[1] is not None)  # axes of the rows of one
        x = _lifted_rows(n, in_dims[1], x, lifted[1])
        by_rows, *by = apply(g, x, *lifted, *rest)
        if of_rows and own == 2 and x.dim() > 3:
            by_rows = by_rows.sum(tuple(range(1, x.dim() - 2)))
        axes = (0 if of_rows else None, *[0 if of_parameters else None] * 3)
        return (by_rows, *by), axes


class _ForwardBackward(_Backward):
    """The same with forward-mode derivatives."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        return cast("tuple[Tensor, ...]", _pushed(ctx.definition, ctx.saved_tensors, tangents[:5]))


def _gradients(
    family: Family, of_rows: bool, of_parameters: bool
) -> Callable[..., tuple[Tensor, ...]]:
    """The definition of `_Backward`, which can be differentiated again and again."""

    def definition(g: Tensor, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        _, pull = _vjp(functools.partial(_dense, family), x, *tensors)
        by_rows, *by = pull(g)
        nothing = x.new_empty(0)
        if not of_parameters:
            by = [nothing, nothing, nothing]
        return (by_rows if of_rows else nothing, *by)

    return definition


def _vjp(f: Callable[..., Any], *primals: Tensor) -> tuple[Any, Callable[..., Any]]:
    out = torch.func.vjp(f, *primals)
    return out[0], out[1]


def _pushed(f: Callable[..., Any], primals: tuple[Tensor, ...], tangents: tuple[Any, ...]) -> Any:
    """The directional derivative of f, by reverse mode twice: forward mode does not nest."""
    tangents = tuple(
        torch.zeros_like(p) if t is None else t for p, t in zip(primals, tangents, strict=True)
    )
    out, pull = _vjp(f, *primals)
    start = torch.utils._pytree.tree_map(torch.zeros_like, out)
    _, push = _vjp(pull, start)
    return push(tangents)[0]


def _lifted(size: int, in_dims: tuple[Any, ...], tensors: list[Tensor]) -> list[Tensor]:
    """Tensors with vmap's axis in front."""
    return [
        t.expand(size, *t.shape) if axis is None else t.movedim(axis, 0)
        for axis, t in zip(in_dims, tensors, strict=True)
    ]


def _lifted_rows(size: int, axis: int | None, x: Tensor, means: Tensor) -> Tensor:
    """Rows `(V, *B, N, D)` for mixtures of means `(V, *B, K, D)`."""
    (x,) = _lifted(size, (axis,), [x])
    batch = means.shape[1:-2]
    if x.dim() == 3:
        x = x.reshape(size, *[1] * len(batch), *x.shape[-2:])
    return x.expand(size, *batch, *x.shape[-2:])
