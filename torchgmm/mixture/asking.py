"""Rows in memory as a mixture reads them, and answers about them, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..exact import exact_device, tell_rounding
from ..kernels import as_kernel, full_precision, is_traced, retried
from ..kernels.turns import turns
from ..parameters import Parameters
from .tensors import MixtureTensors, as_tensor

__all__ = ["asked_rows", "by_chunk", "tracks", "weighted_rows"]


def asked_rows(mixture: MixtureTensors, x: Any) -> Tensor:
    """Rows `(N, D)` or `(*B, N, D)`, checked, on the mixture's device and in its arithmetic.

    No rows are rows: a batch of which a mask left none has as many answers.

    Raises:
        InputError: rows that are none of this mixture's.
        NotSizedError: the mixture does not know its number of features.
    """
    mixture.require_size("log_prob")
    rows = as_tensor(x)
    n_batch = len(mixture.batch_shape)
    checks.check_rows(tuple(rows.shape), mixture.n_features, n_batch, none=True)
    checks.check_leading(tuple(rows.shape), mixture.batch_shape)
    dtype = checks.compute_dtype(rows.dtype, mixture.dtype, mixture.device)
    if rows.device != mixture.device and rows.device.type != "cpu":
        raise InputError(f"rows are on {rows.device}, the mixture on {mixture.device}: move one")
    if not is_traced():
        checks.check_finite(rows, dtype)
        tell_rounding(rows, mixture.device)
    return rows.to(device=mixture.device, dtype=dtype)


def weighted_rows(mixture: MixtureTensors, x: Any, weights: Any) -> tuple[Tensor, Tensor | None]:
    """Rows as `asked_rows` has them, and what they weigh: `(N,)`, or `(*B, N)` under each mixture.

    A weight of 0 is absence, whatever the row says: such rows leave before they are checked.
    """
    rows = as_tensor(x)
    checks.check_rows(tuple(rows.shape), None, len(mixture.batch_shape))
    if weights is None:
        return asked_rows(mixture, rows), None
    if mixture.batch_shape and getattr(weights, "ndim", 1) > 1:
        return _weighted_each(mixture, rows, as_tensor(weights))
    w = checks.check_weights(weights, rows.shape[-2])
    kept = (w > 0).to(rows.device)
    return asked_rows(mixture, rows[..., kept, :]), w[w > 0].to(exact_device(mixture.device))


def _weighted_each(mixture: MixtureTensors, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(*B, N, D)` and their weights `(*B, N)` under each mixture of a batch."""
    shape = (*mixture.batch_shape, rows.shape[-2])
    if tuple(weights.shape) != shape:
        raise InputError(f"weights must be (N,) or {shape}, got shape {tuple(weights.shape)}")
    w = checks.check_weights(weights.reshape(-1), weights.numel()).view(shape)
    if not bool((w.sum(-1) > 0).all()):
        raise InputError("all weights of a mixture of the batch are zero")
    there = (w > 0).unsqueeze(-1).to(rows.device)
    return asked_rows(mixture, torch.where(there, rows, 0)), w.to(exact_device(mixture.device))


def tracks(mixture: MixtureTensors, rows: Tensor) -> bool:
    """Whether an answer about these rows must be differentiable, or can be compiled."""
    if is_traced():  # `by_chunk` writes into tensors
        return True
    tensors = (rows, mixture.logits, mixture.means, mixture.scale)
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


@torch.no_grad()
def by_chunk(
    mixture: MixtureTensors,
    x: Tensor,
    answer: Any,  # (*B, K, n) -> (*B, n, *trailing)
    trailing: tuple[int, ...] = (),
    dtype: torch.dtype | None = None,
    of: Parameters | None = None,
    chunks: Callable[[Tensor, Parameters], Iterable[tuple[slice, Tensor]]] | None = None,
) -> Tensor:
    """Answers from `log_joint` of some rows and some mixtures at a time, `(*B, N, *trailing)`.

    Args:
        mixture: who answers.
        x: as `asked_rows` returns them.
        answer: what is made of the log-joint of a chunk.
        trailing: the shape of the answer about one row.
        dtype: of the answers; that of the rows if not given.
        of: other parameters than the mixture's.
        chunks: what is computed in place of `log_joint`.
    """
    kernel, p = as_kernel("auto"), of or mixture.as_parameters()
    run = kernel.log_joint if chunks is None else chunks
    shape = (*mixture.batch_shape, x.shape[-2], *trailing)
    out = torch.empty(shape, dtype=dtype or x.dtype, device=x.device)
    if not out.numel():
        return out
    flat = out.view(-1, *shape[len(mixture.batch_shape) :])

    def gathered() -> Tensor:
        for part, some, own, _ in turns(p, x):
            axis, mine = len(some.batch_shape), flat[part]
            mine = mine.view(*some.batch_shape, *mine.shape[1:])
            for rows, chunk in run(own, some):
                mine.narrow(axis, rows.start, rows.stop - rows.start).copy_(answer(chunk))
        return out

    with full_precision(x.device):
        return retried(kernel.bytes_for, x, gathered)
