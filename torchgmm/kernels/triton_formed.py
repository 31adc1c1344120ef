"""Products with features that are formed where they are used and stored nowhere, in Triton.

A feature of a row is the product of two of its coordinates `y`, of which one is always 1: so one
pair of places per feature says all that there is to know of a family's features. The first kernel
multiplies them with coefficients and leaves the log-joint of a chunk of rows, small enough to stay
in the device's cache; the second multiplies responsibilities, made from that, with the same
features. A row of `y` is one coordinate of all rows of the chunk, filled up to whole tiles.
"""

import triton
import triton.language as tl

__all__ = ["joint_formed", "shares", "sums_formed"]


@triton.jit
def _exp(nats, SHORT: tl.constexpr):
    """exp(), to the digits of float32 if SHORT: in float64 it costs as much as 30 products."""
    if SHORT:
        return tl.exp(nats.to(tl.float32)).to(nats.dtype)
    return tl.exp(nats)


@triton.jit(do_not_specialize=["n_rows"])
def joint_formed(
    y,  # (b, R, stride), by `stride_yb`
    left,  # (P,), int32: where in y the first factor of a feature begins
    right,  # (P,), int32
    theta,  # (B, K, P), zero where features fill up
    constant,  # (B, K), in theta's place for the feature that is 1
    slope,  # (B, K), that of the last coordinate of y, which is added apart; only if HAS_EXTRA
    joint,  # out: log pi_k N(x_n; k), (B, K, stride)
    log_prob,  # out: (B, stride)
    n_rows,
    n_components,
    n_features,  # P, whole tiles of the second kernel
    n_used,  # of them; whole tiles of this one
    n_coordinates,  # R
    stride_yb,  # 0 where all mixtures share the rows
    stride,
    LOWEST: tl.constexpr,
    HAS_EXTRA: tl.constexpr,
    SHORT: tl.constexpr,  # responsibilities need the digits of float32 alone
    PRECISION: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BP: tl.constexpr,
):
    """Log-joint and log-density of one tile of rows, which the components pass by."""
    program = tl.program_id(0).to(tl.int64)
    tiles = (program * 0 + n_rows + BN - 1) // BN  # in 64 bits
    b, tile = program // tiles, program % tiles
    rows = tile * BN + tl.arange(0, BN)
    own = y + b * stride_yb
    at_y = own + rows[None, :]
    top = tl.full((BN,), LOWEST, joint.dtype.element_ty)
    total = tl.full((BN,), 0.0, joint.dtype.element_ty)
    for first in range(0, n_components, BK):
        k = (first + tl.arange(0, BK)).to(tl.int64)
        known = k < n_components
        place = b * n_components + k
        nats = tl.full((BK, BN), 0.0, joint.dtype.element_ty)
        for start in range(0, n_used, BP):
            p = start + tl.arange(0, BP)
            # whole tiles of rows: so the loads are wide, and nothing need be masked
            i = tl.multiple_of(tl.load(left + p), (16,))
            j = tl.multiple_of(tl.load(right + p), (16,))
            phi = tl.load(at_y + i[:, None]) * tl.load(at_y + j[:, None])
            at = theta + place[:, None] * n_features + p[None, :]
            t = tl.load(at, mask=known[:, None], other=0.0)
            if PRECISION == "bf16":
                nats = tl.dot(t.to(tl.bfloat16), phi.to(tl.bfloat16), acc=nats)
            else:
                nats = tl.dot(t, phi, acc=nats, input_precision=PRECISION, out_dtype=nats.dtype)
        nats += tl.load(constant + place, mask=known, other=-float("inf"))[:, None]
        if HAS_EXTRA:
            size = tl.load(own + (program * 0 + n_coordinates - 1) * stride + rows)
            nats += tl.load(slope + place, mask=known, other=0.0)[:, None] * size[None, :]
        tl.store(joint + place[:, None] * stride + rows[None, :], nats, mask=known[:, None])
        higher = tl.maximum(top, tl.max(nats, 0))
        total = total * _exp(top - higher, SHORT) + tl.sum(_exp(nats - higher[None, :], SHORT), 0)
        top = higher
    tl.store(log_prob + b * stride + rows, top + tl.log(total))


@triton.jit(do_not_specialize=["n_rows"])
def shares(
    joint,  # (B, K, stride); responsibilities afterwards
    log_prob,  # (B, stride)
    w,  # row weights (b, n); read only if HAS_W
    n_rows,
    n_components,
    stride,
    stride_wb,
    LEAST: tl.constexpr,  # exp() of less is an exact zero
    HAS_W: tl.constexpr,
    SHORT: tl.constexpr,
    BN: tl.constexpr,
):
    """Weighted responsibilities in place, where the second kernel would make them many times."""
    program = tl.program_id(0).to(tl.int64)
    tiles = (program * 0 + n_rows + BN - 1) // BN  # in 64 bits
    tile, pair = program % tiles, program // tiles
    rows = tile * BN + tl.arange(0, BN)
    at = joint + pair * stride + rows
    b, there = pair // n_components, rows < n_rows
    share = tl.load(at) - tl.load(log_prob + b * stride + rows)
    r = tl.where(there & (share > LEAST), _exp(share, SHORT), 0.0)
    if HAS_W:
        r *= tl.load(w + b * stride_wb + rows, mask=there, other=0.0)
    tl.store(at, r)


@triton.jit(do_not_specialize=["n_rows", "n_batch"])
def sums_formed(
    y,
    left,
    right,
    w,  # row weights (b, n); read only if HAS_W
    joint,  # log-joint, or weighted responsibilities if READY
    log_prob,
    out,  # (slabs, B, K, P)
    weight,  # out: (slabs, B, K)
    extra,  # out: (slabs, B, K), of the last coordinate; only if HAS_EXTRA
    n_rows,
    n_batch,
    n_components,
    n_features,
    n_coordinates,
    slab_rows,  # a multiple of 16, and known to be: so loads are wide
    stride_yb,
    stride,
    stride_wb,
    LEAST: tl.constexpr,
    HAS_W: tl.constexpr,
    HAS_EXTRA: tl.constexpr,
    READY: tl.constexpr,
    SHORT: tl.constexpr,
    PRECISION: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BP: tl.constexpr,
):
    """Sums of one tile of components and features and one slab of rows per program."""
    k_tiles, p_tiles = (n_components + BK - 1) // BK, n_features // BP
    program = tl.program_id(0).to(tl.int64)
    p_tile = program % p_tiles
    k_tile = program // p_tiles % k_tiles
    b = program // p_tiles // k_tiles % n_batch
    slab = program // p_tiles // k_tiles // n_batch
    p, k = p_tile * BP + tl.arange(0, BP), k_tile * BK + tl.arange(0, BK)
    known = k < n_components
    own = y + b * stride_yb
    at_left = own + tl.multiple_of(tl.load(left + p), (16,))[:, None]
    at_right = own + tl.multiple_of(tl.load(right + p), (16,))[:, None]
    at_joint = joint + (b * n_components + k)[:, None] * stride
    at_extra = own + (program * 0 + n_coordinates - 1) * stride
    sum_r = tl.full((BK, BN), 0.0, joint.dtype.element_ty)
    sum_extra = tl.full((BK, BN), 0.0, joint.dtype.element_ty)
    total = tl.full((BK, BP), 0.0, joint.dtype.element_ty)
    start = slab * slab_rows
    end = tl.minimum(start + slab_rows, n_rows)
    while start < end:
        rows = start + tl.arange(0, BN)
        r = tl.load(at_joint + rows[None, :], mask=known[:, None], other=0.0)
        if not READY:
            there = known[:, None] & (rows < n_rows)[None, :]
            share = r - tl.load(log_prob + b * stride + rows)[None, :]
            r = tl.where(there & (share > LEAST), _exp(share, SHORT), 0.0)
            if HAS_W:
                r *= tl.load(w + b * stride_wb + rows, mask=rows < n_rows, other=0.0)[None, :]
        sum_r += r
        if HAS_EXTRA:
            sum_extra += r * tl.load(at_extra + rows)[None, :]
        phi = tl.load(at_left + rows[None, :]) * tl.load(at_right + rows[None, :])
        if PRECISION == "bf16":
            phi = tl.trans(phi.to(tl.bfloat16))
            total = tl.dot(r.to(tl.bfloat16), phi, acc=total)
        else:
            phi = tl.trans(phi)
            total = tl.dot(r, phi, acc=total, input_precision=PRECISION, out_dtype=total.dtype)
        start += BN
    place = (slab * n_batch + b) * n_components + k
    alone = known & (p_tile == 0)
    tl.store(weight + place, tl.sum(sum_r, 1), mask=alone)
    if HAS_EXTRA:
        tl.store(extra + place, tl.sum(sum_extra, 1), mask=alone)
    tl.store(out + place[:, None] * n_features + p[None, :], total, mask=known[:, None])
