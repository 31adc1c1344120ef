"""Matrix products on tensor cores in a precision that is asked for by name, in Triton.

`tf32x3` splits every number into two of TF32 and makes three products: nearly the digits of
float32, at a third of the rate of TF32. The library's own products know float32 and TF32 alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_launch import Tile, cells, interpreted, launch
from .triton_tuned import Use, tuned

__all__ = ["into", "summed", "usual_tile"]

_SLAB = 1024  # terms that one program sums: partial sums are joined in fixed order


def usual_tile() -> Tile:
    """Rows, columns, terms."""
    return Tile((128, 128, 128)) if interpreted() else Tile((64, 64, 32), 4)


def into(left: Tensor, right: Tensor, out: Tensor, precision: str, *, add: bool = False) -> Tensor:
    """`out = left @ right`, or what is there plus it: `(*B, m, k) @ (*B, k, n)`."""
    size = left.shape[-1]
    return _product(left, right, out.unsqueeze(0), precision, size, add=add).squeeze(0)


def summed(left: Tensor, right: Tensor, precision: str) -> Tensor:
    """`left @ right` with many terms per sum, `(*B, m, n)` in float64: slab by slab."""
    size = left.shape[-1]
    slabs = cells(size, _SLAB)
    out = left.new_empty(slabs, *left.shape[:-1], right.shape[-1])
    _product(left, right, out, precision, min(_SLAB, size), add=False)
    return out.sum(0, dtype=torch.float64)


def _product(
    left: Tensor, right: Tensor, out: Tensor, precision: str, slab: int, *, add: bool
) -> Tensor:
    (m, size), n = left.shape[-2:], right.shape[-1]
    batch = left.shape[:-2].numel()
    a, b = (t.reshape(-1, *t.shape[-2:]) for t in (left, right))
    c = out.view(len(out), -1, m, n)
    use = Use("product", (), left.dtype, precision)
    (tile,) = tuned(use, left.device, (usual_tile(),))
    rows, columns, _ = tile.sizes
    programs = len(out) * batch * cells(m, rows) * cells(n, columns)
    strides = (*a.stride(), *b.stride(), *c.stride())
    arguments = (a, b, c, m, n, size, batch, slab, *strides, add, precision)
    launch(_tiles, programs, left.device, arguments, tile)
    return out


@triton.jit
def _tiles(
    left,
    right,
    out,
    n_rows,
    n_columns,
    n_terms,
    n_batch,
    slab_terms,
    stride_lb,
    stride_lm,
    stride_lk,
    stride_rb,
    stride_rk,
    stride_rn,
    stride_os,
    stride_ob,
    stride_om,
    stride_on,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One tile of one slab of terms."""
    program = tl.program_id(0).to(tl.int64)
    row_tiles = (program * 0 + n_rows + BM - 1) // BM  # in 64 bits
    column_tiles = (program * 0 + n_columns + BN - 1) // BN
    m = program % row_tiles * BM + tl.arange(0, BM)
    n = program // row_tiles % column_tiles * BN + tl.arange(0, BN)
    b = program // row_tiles // column_tiles % n_batch
    slab = program // row_tiles // column_tiles // n_batch
    in_m, in_n = m < n_rows, n < n_columns
    mask = in_m[:, None] & in_n[None, :]
    at = out + slab * stride_os + b * stride_ob + m[:, None] * stride_om + n[None, :] * stride_on
    total = tl.full((BM, BN), 0.0, out.dtype.element_ty)
    if ADD:
        total += tl.load(at, mask=mask, other=0.0)
    at_left = left + b * stride_lb + m[:, None] * stride_lm
    at_right = right + b * stride_rb + n[None, :] * stride_rn
    for start in range(0, slab_terms, BK):
        inside = start + tl.arange(0, BK)
        k = slab * slab_terms + inside
        there = (k < n_terms) & (inside < slab_terms)
        x = tl.load(
            at_left + k[None, :] * stride_lk, mask=in_m[:, None] & there[None, :], other=0.0
        )
        y = tl.load(
            at_right + k[:, None] * stride_rk, mask=there[:, None] & in_n[None, :], other=0.0
        )
        if PRECISION == "bf16":
            total = tl.dot(x.to(tl.bfloat16), y.to(tl.bfloat16), acc=total)
        else:
            total = tl.dot(x, y, acc=total, input_precision=PRECISION, out_dtype=total.dtype)
    tl.store(at, total, mask=mask)
