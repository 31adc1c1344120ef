"""`as_groups`: the door through which the rows of a batch of mixtures come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from .arrays import as_table, as_tensor
from .checked import Checked
from .door import as_source
from .groups import Groups, SharedGroups
from .packed_groups import PackedGroups

__all__ = ["as_groups", "labelled"]


def as_groups(
    data: Any,
    batch_shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    weights: Any = None,
    labels: Any = None,
    encoder: Any = None,
) -> Groups:
    """Rows for a batch of mixtures from whatever holds them.

    | data | read |
    |---|---|
    | `(*B, N, D)` | a table per mixture |
    | list of B tables `(n_b, D)` | of different length |
    | `(M, D)` with `labels (M,)` | each row belongs to the mixture of its label |
    | batches `(rows, labels, ...)`, `labels` their place in the tuple or key | the same, streamed |
    | anything else that `as_source` takes | the same rows for all |

    Args:
        data: the rows.
        batch_shape: of the mixtures.
        dtype: of the mixtures.
        device: theirs.
        weights: shaped as the rows are, without their last axis; `(N,)` where all share them.
        labels: numbers of the mixtures, in the order of the flattened batch; negative: of none.
        encoder: as in `as_source`.

    Raises:
        InputError: rows, weights or labels that do not fit the batch or each other.
    """
    n_groups = int(np.prod(batch_shape))
    if n_groups < 1:
        raise InputError(f"a batch of shape {tuple(batch_shape)} holds no mixture to fit")
    if isinstance(labels, (str, int)):
        from .grouped_streams import StreamedGroups  # which comes back here for its batches

        streamed = StreamedGroups(data, labels, n_groups, dtype, device, weights)
        _check_weighted(streamed.counts)
        return streamed
    if labels is not None:
        return _labelled(data, weights, labels, n_groups, dtype, device)
    many = isinstance(data, (list, tuple)) and len(data) > 0
    if many and encoder is None and all(getattr(x, "ndim", 0) == 2 for x in data):
        return _listed(data, weights, n_groups, dtype, device)
    if encoder is None and isinstance(data, (Tensor, np.ndarray)) and data.ndim > 2:
        return _stacked(as_table(data), weights, tuple(batch_shape), dtype, device)
    w = None if weights is None or isinstance(weights, (str, int)) else as_tensor(as_table(weights))
    own = w is not None and w.dim() > 1
    source = as_source(data, None if own else weights, encoder=encoder)
    read = Checked(source, checks.compute_dtype(source.dtype, dtype, device), device)
    if not own:
        return SharedGroups(read, n_groups)
    assert w is not None
    shape = (*batch_shape, source.n_rows)
    if tuple(w.shape) != shape:
        raise InputError(f"weights must be (N,) or {shape}, got shape {tuple(w.shape)}")
    w = w.reshape(n_groups, -1)
    flat = checks.check_weights(w.flatten(), w.numel()).view(w.shape)
    _check_weighted((flat > 0).sum(-1))
    return SharedGroups(read, n_groups, flat)


def _stacked(
    table: Tensor | np.ndarray,
    weights: Any,
    batch_shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Groups:
    shape = tuple(table.shape)
    if shape[:-2] != batch_shape:
        raise InputError(
            f"rows of shape {shape} do not fit a batch of shape {batch_shape}: give "
            f"{(*batch_shape, 'N', 'D')}, one table (N, D) for all, or a list of tables"
        )
    checks.check_rows(shape, None, len(batch_shape))
    b, n = int(np.prod(batch_shape)), shape[-2]
    if weights is not None:
        w = as_tensor(as_table(weights))
        if tuple(w.shape) not in ((n,), shape[:-1]):
            raise InputError(f"weights must be {shape[:-1]} or ({n},), got {tuple(w.shape)}")
        weights = w.expand(shape[:-1]).reshape(-1)
    counts = torch.full((b,), n)
    found = _packed(table.reshape(-1, shape[-1]), weights, None, counts, dtype, device)
    _check_weighted(found.counts)
    return found


def _listed(
    tables: Sequence[Any], weights: Any, n_groups: int, dtype: torch.dtype, device: torch.device
) -> Groups:
    if len(tables) != n_groups:
        raise InputError(f"{len(tables)} tables of rows do not fit a batch of {n_groups} mixtures")
    parts = [as_tensor(as_table(x)) for x in tables]
    for number, part in enumerate(parts):
        if part.shape[1] != parts[0].shape[1] or not len(part):
            raise InputError(
                f"table {number} has the shape {tuple(part.shape)}, the first one "
                f"{tuple(parts[0].shape)}: all need rows, and the same columns"
            )
    if weights is not None:
        given = [as_tensor(as_table(w)) for w in weights]
        sizes = [(len(w), len(part)) for w, part in zip(given, parts, strict=False)]
        if len(given) != len(parts) or any(a != b for a, b in sizes):
            raise InputError("weights must be a list as the rows are: one number per row of each")
        weights = torch.cat(given)
    counts = torch.tensor([len(part) for part in parts])
    found = _packed(torch.cat(parts), weights, None, counts, dtype, device)
    _check_weighted(found.counts)
    return found


def _labelled(
    data: Any,
    weights: Any,
    labels: Any,
    n_groups: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Groups:
    table = as_table(data)
    checks.check_rows(tuple(table.shape), None)
    own = as_tensor(as_table(labels)).cpu()
    if tuple(own.shape) != (len(table),) or own.dtype.is_floating_point:
        raise InputError(
            f"groups must be one integer per row, ({len(table)},), got {own.dtype} of shape "
            f"{tuple(own.shape)}"
        )
    if int(own.max()) >= n_groups:
        raise InputError(
            f"groups must lie in 0..{n_groups - 1} (negative: of none), the largest is "
            f"{int(own.max())}"
        )
    _, counts = _sorted(own, n_groups)
    _check_weighted(counts)
    found = labelled(table, weights, own, n_groups, dtype, device)
    assert found is not None
    _check_weighted(found.counts)
    return found


def _sorted(labels: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Row numbers group by group, and how many each has; negative labels are left out."""
    order = labels.argsort(stable=True)
    order = order[int((labels < 0).sum()) :]
    return order, labels[order].bincount(minlength=n_groups)


def labelled(
    table: Tensor | np.ndarray,
    weights: Any,
    labels: Tensor,  # (M,) on the CPU
    n_groups: int,
    dtype: torch.dtype,
    device: torch.device,
) -> PackedGroups | None:
    """Groups of the rows by their labels; some may have none. None where all are empty."""
    order, counts = _sorted(labels, n_groups)
    if not len(order):
        return None
    return _packed(table, weights, order, counts, dtype, device)


def _packed(
    table: Tensor | np.ndarray,
    weights: Any,
    order: Tensor | None,
    counts: Tensor,
    dtype: torch.dtype,
    device: torch.device,
) -> PackedGroups:
    """Rows of weight 0 leave the order, whatever they hold."""
    w = None if weights is None else checks.check_weights(weights, len(table), part=True).cpu()
    every = (order, counts.cumsum(0) - counts, counts)
    if w is not None and not bool(w.all()):
        order = torch.arange(len(table)) if order is None else order
        there = w[order] > 0
        group = torch.arange(len(counts)).repeat_interleave(counts)
        order, counts = order[there], group[there].bincount(minlength=len(counts))
    wanted = checks.compute_dtype(as_tensor(table[:1]).dtype, dtype, device)
    starts = counts.cumsum(0) - counts
    return PackedGroups(table, w, order, starts, counts, wanted, device, every)


def _check_weighted(counts: Tensor) -> None:
    if bool((counts == 0).any()):
        empty = (counts == 0).nonzero().flatten().tolist()
        shown = ", ".join(map(str, empty[:8])) + (", ..." if len(empty) > 8 else "")
        raise InputError(
            f"{len(empty)} group(s) have no row of positive weight: {shown}: leave those mixtures "
            "out of the batch"
        )
