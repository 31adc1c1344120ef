"""A function of many rows, some of them at a time, in the backward pass as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..kernels.memory import chunk_budget, retried

__all__ = ["by_chunk"]

T = TypeVar("T")


def by_chunk(
    answer: Callable[..., Tensor], size: int, budget: int, x: Tensor, *tensors: Tensor
) -> Tensor:
    """`answer(x, *tensors) (*B, N, C)`, computed `size` rows `x (..., N, D)` at a time.

    Differentiable in x and in the tensors: the backward pass computes every chunk again, and so
    takes memory for one. It can be differentiated again only where one chunk holds all rows.

    Args:
        answer: gives every row an answer that depends on no other row.
        size: rows of a chunk; fewer on a device that runs out of memory.
        budget: bytes of one of the buffers of that many rows.
        x: the rows.
        tensors: whatever else has a part in the answer and may need a gradient.
    """
    if x.shape[-2] <= size:
        return answer(x, *tensors)
    found: Tensor = _ByChunk.apply(answer, size, budget, x, *tensors)  # type: ignore[no-untyped-call]
    return found


class _ByChunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, answer, size, budget, x, *tensors):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN205
        ctx.save_for_backward(x, *tensors)
        ctx.answer, ctx.size, ctx.budget = answer, size, budget
        n_rows = x.shape[-2]

        def whole(size: int) -> Tensor | None:
            found = None
            for start in range(0, n_rows, size):
                rows = min(size, n_rows - start)
                part = answer(x.narrow(-2, start, rows), *tensors)
                if found is None:  # one piece of memory: what the chunks free is not cut up
                    found = part.new_empty(*part.shape[:-2], n_rows, part.shape[-1])
                found.narrow(-2, start, rows).copy_(part)
            return found

        return _retried(whole, size, budget, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        x, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]

        def whole(size: int) -> list[Tensor | None]:
            all_given = zip((x, *tensors), wanted, strict=True)
            sums = [torch.zeros_like(t) if w else None for t, w in all_given]
            for start in range(0, x.shape[-2], size):
                rows = min(size, x.shape[-2] - start)
                given = [t.detach() for t in (x.narrow(-2, start, rows), *tensors)]
                leaves = [t.requires_grad_() for t, w in zip(given, wanted, strict=True) if w]
                with torch.enable_grad():
                    part = ctx.answer(*given)
                pulled = iter(torch.autograd.grad(part, leaves, gradient.narrow(-2, start, rows)))
                for i, total in enumerate(sums):
                    if total is not None:
                        into = total if i else total.narrow(-2, start, rows)
                        into.add_(next(pulled))
            return sums

        return None, None, None, *_retried(whole, ctx.size, ctx.budget, x)


def _retried(whole: Callable[[int], T], size: int, budget: int, x: Tensor) -> T:
    """`whole(rows of a chunk)`, with as many as `budget` or what the device bears allow."""

    def bytes_for(x: Tensor) -> int:
        return chunk_budget(budget, 0, x.device)

    return retried(bytes_for, x, lambda: whole(max(1, size * bytes_for(x) // budget)))
