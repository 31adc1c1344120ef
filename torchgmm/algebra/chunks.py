"""A function of many rows, some of them at a time, in the backward pass as well."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["by_chunk"]


def by_chunk(answer: Callable[..., Tensor], size: int, x: Tensor, *tensors: Tensor) -> Tensor:
    """`answer(x, *tensors) (*B, N, C)`, computed `size` rows `x (..., N, D)` at a time.

    Differentiable in x and in the tensors: the backward pass computes every chunk again, and so
    takes memory for one. It can be differentiated again only where one chunk holds all rows.

    Args:
        answer: gives every row an answer that depends on no other row.
        size: rows of a chunk.
        x: the rows.
        tensors: whatever else has a part in the answer and may need a gradient.
    """
    if x.shape[-2] <= size:
        return answer(x, *tensors)
    found: Tensor = _ByChunk.apply(answer, size, x, *tensors)  # type: ignore[no-untyped-call]
    return found


class _ByChunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, answer, size, x, *tensors):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN205
        ctx.save_for_backward(x, *tensors)
        ctx.answer, ctx.size = answer, size
        n_rows, found = x.shape[-2], None
        for start in range(0, n_rows, size):
            rows = min(size, n_rows - start)
            part = answer(x.narrow(-2, start, rows), *tensors)
            if found is None:  # one piece of memory, so that what the chunks free is not cut up
                found = part.new_empty(*part.shape[:-2], n_rows, part.shape[-1])
            found.narrow(-2, start, rows).copy_(part)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        x, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        sums = [
            torch.zeros_like(t) if w else None for t, w in zip((x, *tensors), wanted, strict=True)
        ]
        for start in range(0, x.shape[-2], ctx.size):
            rows = min(ctx.size, x.shape[-2] - start)
            given = [t.detach() for t in (x.narrow(-2, start, rows), *tensors)]
            leaves = [t.requires_grad_() for t, w in zip(given, wanted, strict=True) if w]
            with torch.enable_grad():
                part = ctx.answer(*given)
            pulled = iter(torch.autograd.grad(part, leaves, gradient.narrow(-2, start, rows)))
            for i, total in enumerate(sums):
                if total is not None:
                    into = total if i else total.narrow(-2, start, rows)
                    into.add_(next(pulled))
        return None, None, *sums
