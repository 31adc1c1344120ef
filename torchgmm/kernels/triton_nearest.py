"""k-means on a GPU: the nearest centre of every row, and the sums of the rows of every cluster.

No distance is ever stored, only the least one of a row; sums are made over rows sorted by their
cluster, tile by tile, and tiles are joined in fixed order: equal calls give equal bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_launch import Tile, cells, interpreted, launch
from .triton_tuned import Use, tuned

__all__ = ["cluster_sums", "joined", "nearest", "use_of", "usual_tile"]

# rows that one program sums, rows at once, and their features
_SUMMED, _AT_ONCE, _FEATURES = 512, 32, 64


def usual_tile() -> Tile:
    """For the nearest centre: rows, centres, features of a product."""
    return Tile((1024, 64, 64)) if interpreted() else Tile((128, 64, 16), 8)


def use_of(k: int, d: int, dtype: torch.dtype) -> Use:
    """What its tiles are kept under."""
    return Use("nearest", tuple(next((s for s in (16, 64) if n <= s), 128) for n in (k, d)), dtype)


def nearest(
    x: Tensor,  # (b, n, D), b being B or 1 for rows that all data sets share
    centres: Tensor,  # (B, K, D), in the dtype of x
) -> tuple[Tensor, Tensor]:
    """The nearest centre of every row (of several the first), `(B, n)`, int32.

    And how far it is: `|c|^2 - 2 c x (B, n)`, to which `|x|^2` is wanting.
    """
    b, k, d = centres.shape
    n = x.shape[-2]
    near = centres.contiguous()
    norms = (near * near).sum(-1)
    label = torch.empty(b, n, dtype=torch.int32, device=x.device)
    away = x.new_empty(b, n)
    (tile,) = tuned(use_of(k, d, x.dtype), x.device, (usual_tile(),))
    strides = (x.stride(0) if len(x) == b > 1 else 0, x.stride(1), x.stride(2))
    arguments = (x, near, norms, label, away, n, k, d, *strides)
    launch(nearest_centre, b * cells(n, tile.sizes[0]), x.device, arguments, tile)
    return label, away


def cluster_sums(
    x: Tensor,  # (b, n, D), as in `nearest`
    w: Tensor | None,  # (B, n)
    label: Tensor,  # (B, n), from 0 to K - 1
    n_clusters: int,
) -> tuple[Tensor, Tensor]:
    """Weights `(B, K)` and weighted sums `(B, K, D)` of the rows of every cluster, in float64."""
    (b, n), d = label.shape, x.shape[-1]
    every = b * n_clusters
    of_set = torch.arange(b, dtype=torch.int32, device=x.device).unsqueeze(-1) * n_clusters
    cluster, order = (label + of_set).flatten().sort(stable=True)
    # which of the sorted rows belong to a cluster, and which tiles; then whose a tile is
    numbers = torch.arange(every + 1, dtype=torch.int32, device=x.device)
    edge = torch.searchsorted(cluster, numbers)
    tiles = torch.nn.functional.pad((-(-edge.diff() // _SUMMED)).cumsum(0), (1, 0))
    most = b * n // _SUMMED + every
    owner = torch.searchsorted(tiles[1:], torch.arange(most, device=x.device), right=True)
    weight, sums = x.new_empty(most), x.new_empty(most, d)
    size = _summing(d)
    strides = (x.stride(0) if len(x) == b > 1 else 0, x.stride(1), x.stride(2))
    weights, stride_w = (weight, 0) if w is None else (w.contiguous(), n)
    arguments = (x, weights, order, edge, tiles, owner, weight, sums, n, every, d, *strides,
                 stride_w if b > 1 else 0, w is not None, _SUMMED)  # fmt: skip
    launch(sum_tiles, most * cells(d, size.sizes[1]), x.device, arguments, size)
    total = x.new_empty(b, n_clusters, dtype=torch.float64)
    first = x.new_empty(b, n_clusters, d, dtype=torch.float64)
    joined(weight, sums, tiles, total.view(-1), first.view(every, d))
    return total, first


def joined(
    weight: Tensor,  # (tiles,)
    sums: Tensor,  # (tiles, F)
    first: Tensor,  # (C + 1,), the first tile of each of C clusters
    all_weight: Tensor,  # (C,), float64; overwritten
    all_sums: Tensor,  # (C, F), float64; overwritten
) -> None:
    """Sums of tiles for the clusters they belong to, in fixed order."""
    width = sums.shape[1]
    size = _summing(width)
    programs = (len(first) - 1) * cells(width, size.sizes[1])
    arguments = (weight, sums, first, all_weight, all_sums, width)
    launch(join_tiles, programs, sums.device, arguments, size)


def _summing(width: int) -> Tile:
    if interpreted():  # where a program costs the same for many numbers as for one
        return Tile((_SUMMED, _power_of_two(width)))
    return Tile((_AT_ONCE, min(_FEATURES, _power_of_two(width))))


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


@triton.jit(do_not_specialize=["n_rows"])
def nearest_centre(
    x,
    centre,  # (B, K, D)
    norm,  # (B, K), |c|^2
    label,  # out: (B, n)
    away,  # out: (B, n)
    n_rows,
    n_components,
    n_features,
    stride_xb,
    stride_xn,
    stride_xd,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BJ: tl.constexpr,
):
    """One tile of rows, which the centres pass by."""
    program = tl.program_id(0).to(tl.int64)
    tiles = (program * 0 + n_rows + BN - 1) // BN  # in 64 bits
    b, tile = program // tiles, program % tiles
    rows = tile * BN + tl.arange(0, BN)
    there = rows < n_rows
    at_x = x + b * stride_xb + rows[:, None] * stride_xn
    best = tl.full((BN,), float("inf"), norm.dtype.element_ty)
    which = tl.full((BN,), 0, tl.int32)
    for first in range(0, n_components, BK):
        k = first + tl.arange(0, BK)
        known = k < n_components
        at_c = centre + (b * n_components + k)[None, :] * n_features
        cross = tl.full((BN, BK), 0.0, norm.dtype.element_ty)
        for start in range(0, n_features, BJ):
            j = (start + tl.arange(0, BJ)).to(tl.int64)
            real = j < n_features
            both = there[:, None] & real[None, :]
            own = tl.load(at_x + j[None, :] * stride_xd, mask=both, other=0.0)
            c = tl.load(at_c + j[:, None], mask=real[:, None] & known[None, :], other=0.0)
            cross = tl.dot(own, c, acc=cross, input_precision="ieee", out_dtype=cross.dtype)
        length = tl.load(norm + b * n_components + k, mask=known, other=float("inf"))
        gap = length[None, :] - 2.0 * cross
        least = tl.min(gap, 1)
        of_equals = tl.where(gap == least[:, None], k[None, :], n_components)
        closer = least < best
        which = tl.where(closer, tl.min(of_equals, 1), which)
        best = tl.where(closer, least, best)
    tl.store(label + b * n_rows + rows, which, mask=there)
    tl.store(away + b * n_rows + rows, best, mask=there)


@triton.jit(do_not_specialize=["n_rows", "n_clusters"])
def sum_tiles(
    x,
    w,  # (B, n); read only if HAS_W
    order,  # (B n,), rows by their cluster
    edge,  # (C + 1,), where the rows of a cluster begin in it
    first,  # (C + 1,), the first tile of a cluster
    owner,  # (tiles,), the cluster of a tile; C where there is no such tile
    weight,  # out: (tiles,)
    total,  # out: (tiles, D)
    n_rows,
    n_clusters,
    n_features,
    stride_xb,
    stride_xn,
    stride_xd,
    stride_wb,
    HAS_W: tl.constexpr,
    SUMMED: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """One tile of the rows of one cluster, and some features of theirs."""
    columns = (n_features + BD - 1) // BD
    program = tl.program_id(0).to(tl.int64)
    tile, column = program // columns, program % columns
    c = tl.load(owner + tile)
    exists = c < n_clusters
    begin = tl.load(edge + c, mask=exists, other=0)
    begin += (tile - tl.load(first + c, mask=exists, other=0)) * SUMMED
    end = tl.load(edge + c + 1, mask=exists, other=0)
    d = column * BD + tl.arange(0, BD)
    real = d < n_features
    sum_w = tl.full((BN,), 0.0, total.dtype.element_ty)
    sum_x = tl.full((BN, BD), 0.0, total.dtype.element_ty)
    for start in range(0, SUMMED, BN):
        at = begin + start + tl.arange(0, BN)
        there = at < end
        place = tl.load(order + at, mask=there, other=0)
        b, row = place // n_rows, place % n_rows
        from_x = x + (b * stride_xb + row * stride_xn)[:, None] + d[None, :] * stride_xd
        own = tl.load(from_x, mask=there[:, None] & real[None, :], other=0.0)
        if HAS_W:
            share = tl.load(w + b * stride_wb + row, mask=there, other=0.0)
            sum_w += share
            own *= share[:, None]
        else:
            sum_w += tl.where(there, 1.0, 0.0).to(sum_w.dtype)
        sum_x += own
    tl.store(weight + tile, tl.sum(sum_w, 0), mask=column == 0)
    tl.store(total + tile * n_features + d, tl.sum(sum_x, 0), mask=real)


@triton.jit
def join_tiles(
    weight,  # (tiles,)
    total,  # (tiles, D)
    first,  # (C + 1,)
    all_weight,  # out: (C,), float64
    all_total,  # out: (C, D), float64
    n_features,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """All tiles of one cluster, and some features, in fixed order."""
    columns = (n_features + BD - 1) // BD
    program = tl.program_id(0).to(tl.int64)
    c, column = program // columns, program % columns
    d = column * BD + tl.arange(0, BD)
    real = d < n_features
    sum_w = tl.full((BN,), 0.0, tl.float64)
    sum_x = tl.full((BN, BD), 0.0, tl.float64)
    start, end = tl.load(first + c), tl.load(first + c + 1)
    while start < end:
        tile = start + tl.arange(0, BN)
        there = tile < end
        sum_w += tl.load(weight + tile, mask=there, other=0.0).to(tl.float64)
        both = there[:, None] & real[None, :]
        at = total + tile[:, None] * n_features + d[None, :]
        sum_x += tl.load(at, mask=both, other=0.0).to(tl.float64)
        start += BN
    tl.store(all_weight + c, tl.sum(sum_w, 0), mask=column == 0)
    tl.store(all_total + c * n_features + d, tl.sum(sum_x, 0), mask=real)
