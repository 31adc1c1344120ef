"""What lies between two matrix products on a GPU, in one launch each: soft-max and features."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_launch import Tile, cells, launch

__all__ = ["multiply", "soft_assign"]

_ROWS, _COMPONENTS, _PAIRS = 128, 16, 8


def soft_assign(
    joint: Tensor,  # (*B, K, n), contiguous; overwritten
    least: float,
) -> tuple[Tensor, Tensor]:
    """Responsibilities `(*B, K, n)`, in place, and `log p(x) (*B, n)`; see `base.soft_assign`."""
    k, n = joint.shape[-2:]
    log_prob = joint.new_empty(*joint.shape[:-2], n)
    programs = joint[..., 0, 0].numel() * cells(n, _ROWS)
    tile = Tile((_ROWS, min(_COMPONENTS, 1 << (k - 1).bit_length())))
    lowest = torch.finfo(joint.dtype).min
    launch(_soft_assign, programs, joint.device, (joint, log_prob, n, k, lowest, least), tile)
    return joint, log_prob


def multiply(
    linear: Tensor,  # (*B, D, n), n the rows' stride and the batch evenly spaced
    out: Tensor,  # (*B, S or more, n), of the same strides
    left: Tensor,  # (S,), int32
    right: Tensor,  # (S,), int32
) -> None:
    """`out[s] = linear[left[s]] * linear[right[s]]`: all products of two coordinates."""
    n, pairs = linear.shape[-1], len(left)
    programs = linear[..., 0, 0].numel() * cells(pairs, _PAIRS) * cells(n, _ROWS)
    stride = linear.stride(-3) if linear.dim() > 2 else 0
    sizes = (n, pairs, stride, linear.stride(-2))
    tile = Tile((_ROWS, _PAIRS))
    launch(_multiply, programs, linear.device, (linear, out, left, right, *sizes), tile)


@triton.jit(do_not_specialize=["n_rows"])
def _soft_assign(
    joint,
    log_prob,
    n_rows,
    n_components,
    LOWEST: tl.constexpr,
    LEAST: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    tiles = (program * 0 + n_rows + BN - 1) // BN  # in 64 bits
    b, tile = program // tiles, program % tiles
    rows = tile * BN + tl.arange(0, BN)
    there = rows < n_rows
    start = joint + b * n_components * n_rows + rows[None, :]
    top = tl.full((BN,), LOWEST, joint.dtype.element_ty)
    total = tl.full((BN,), 0.0, joint.dtype.element_ty)
    for first in range(0, n_components, BK):
        k = (first + tl.arange(0, BK)).to(tl.int64)
        mask = (k < n_components)[:, None] & there[None, :]
        nats = tl.load(start + k[:, None] * n_rows, mask=mask, other=-float("inf"))
        higher = tl.maximum(top, tl.max(nats, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(nats - higher[None, :]), 0)
        top = higher
    whole = top + tl.log(total)
    tl.store(log_prob + b * n_rows + rows, whole, mask=there)
    for first in range(0, n_components, BK):
        k = (first + tl.arange(0, BK)).to(tl.int64)
        mask = (k < n_components)[:, None] & there[None, :]
        share = tl.load(start + k[:, None] * n_rows, mask=mask, other=0.0) - whole[None, :]
        r = tl.where(share > LEAST, tl.exp(share), 0.0)
        tl.store(start + k[:, None] * n_rows, r, mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _multiply(
    linear,
    out,
    left,
    right,
    n_rows,
    n_pairs,
    stride_b,
    stride_row,
    BN: tl.constexpr,
    BS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row_tiles = (program * 0 + n_rows + BN - 1) // BN  # in 64 bits
    pair_tiles = (n_pairs + BS - 1) // BS
    rows = program % row_tiles * BN + tl.arange(0, BN)
    pairs = program // row_tiles % pair_tiles * BS + tl.arange(0, BS)
    start = program // row_tiles // pair_tiles * stride_b + rows[None, :]
    there = pairs < n_pairs
    i = tl.load(left + pairs, mask=there, other=0).to(tl.int64)
    j = tl.load(right + pairs, mask=there, other=0).to(tl.int64)
    mask = there[:, None] & (rows < n_rows)[None, :]
    a = tl.load(linear + start + i[:, None] * stride_row, mask=mask, other=0.0)
    c = tl.load(linear + start + j[:, None] * stride_row, mask=mask, other=0.0)
    tl.store(out + start + pairs[:, None] * stride_row, a * c, mask=mask)
