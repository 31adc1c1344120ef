"""Fused E-step for covariances along the axes (diagonal, spherical, tied or not), in Triton.

The first kernel leaves the log-joint of a chunk of rows, which is small enough to stay in the
device's cache; the second reads responsibilities from it, which costs less than a second pass over
all features. Tiles have three axes (rows, components, features), of which the one that is summed
over is walked through in small steps.
"""

import triton
import triton.language as tl

__all__ = ["joint_axes", "sums_axes"]


@triton.jit(do_not_specialize=["n_rows"])
def joint_axes(
    x,  # rows, (b, n, d) by the strides below
    centre,  # (B, K, D)
    shift,  # (B, K, D), added to z; read only if HAS_SHIFT
    factor,  # (B, H, D), inverse deviations
    log_norm,  # (B, K)
    log_prob,  # out: (B, n)
    joint,  # out: log pi_k N(x_n; k), by the strides below
    n_rows,
    n_components,
    n_features,
    stride_xb,
    stride_xn,
    stride_xd,
    stride_fb,
    stride_fk,  # 0 where all components share one covariance
    stride_jb,
    stride_jn,
    stride_jk,
    LIMIT: tl.constexpr,
    LOWEST: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    WITH_JOINT: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    """Log-joint and log-density of every row, by an online log-sum-exp over tiles of components."""
    program = tl.program_id(0).to(tl.int64)
    tiles = (program * 0 + n_rows + BN - 1) // BN  # in 64 bits
    b, tile = program // tiles, program % tiles
    rows = tile * BN + tl.arange(0, BN)
    there = rows < n_rows
    top = tl.full((BN,), LOWEST, log_prob.dtype.element_ty)
    total = tl.full((BN,), 0.0, log_prob.dtype.element_ty)
    for first in range(0, n_components, BK):
        k = (first + tl.arange(0, BK)).to(tl.int64)
        known = k < n_components
        own = (b * n_components + k)[None, :, None] * n_features
        heads = (b * stride_fb + k * stride_fk)[None, :, None]
        squares = tl.full((BN, BK, BD), 0.0, log_prob.dtype.element_ty)
        for start in range(0, n_features, BD):
            d = (start + tl.arange(0, BD)).to(tl.int64)[None, None, :]
            real = d < n_features
            both = known[None, :, None] & real
            at = x + b * stride_xb + rows[:, None, None] * stride_xn + d * stride_xd
            tile_x = tl.load(at, mask=there[:, None, None] & real, other=0.0)
            c = tl.load(centre + own + d, mask=both, other=0.0)
            z = (tile_x - c) * tl.load(factor + heads + d, mask=both, other=0.0)
            if HAS_SHIFT:
                z += tl.load(shift + own + d, mask=both, other=0.0)
            squares += z * z
        norm = tl.load(log_norm + b * n_components + k, mask=known, other=-float("inf"))
        nats = norm[None, :] - 0.5 * tl.minimum(tl.sum(squares, 2), LIMIT)
        if WITH_JOINT:
            out = joint + b * stride_jb + rows[:, None] * stride_jn + k[None, :] * stride_jk
            tl.store(out, nats, mask=there[:, None] & known[None, :])
        higher = tl.maximum(top, tl.max(nats, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(nats - higher[:, None]), 1)
        top = higher
    tl.store(log_prob + b * n_rows + rows, top + tl.log(total), mask=there)


@triton.jit(do_not_specialize=["n_rows", "n_batch", "slab_rows"])
def sums_axes(
    x,
    w,  # row weights (b, n); read only if HAS_W
    centre,
    shift,
    factor,
    about,  # (B, K, D), subtracted from z; read only if ABOUT
    log_prob,
    joint,
    weight,  # out: (slabs, B, K)
    first,  # out: (slabs, B, K, D)
    second,  # out: (slabs, B, K, D), squares of single features
    n_rows,
    n_batch,
    n_components,
    n_features,
    slab_rows,
    stride_xb,
    stride_xn,
    stride_wb,
    stride_fb,
    stride_fk,
    stride_jb,
    stride_jn,
    stride_jk,
    LEAST: tl.constexpr,  # exp() of less is an exact zero
    HAS_W: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    ABOUT: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    """Moments of z for one tile of components and features and one slab of rows per program."""
    k_tiles, d_tiles = (n_components + BK - 1) // BK, (n_features + BD - 1) // BD
    program = tl.program_id(0).to(tl.int64)
    d_tile = program % d_tiles
    k_tile = (program // d_tiles) % k_tiles
    b = (program // d_tiles // k_tiles) % n_batch
    slab = program // d_tiles // k_tiles // n_batch
    k, d = k_tile * BK + tl.arange(0, BK), d_tile * BD + tl.arange(0, BD)
    known, real = k < n_components, d < n_features
    both = known[:, None] & real[None, :]
    own = (b * n_components + k)[:, None] * n_features + d[None, :]
    heads = (b * stride_fb + k * stride_fk)[:, None] + d[None, :]
    c = tl.load(centre + own, mask=both, other=0.0)[None]
    f = tl.load(factor + heads, mask=both, other=0.0)[None]
    move = c * 0.0
    if HAS_SHIFT:
        move += tl.load(shift + own, mask=both, other=0.0)[None]
    if ABOUT:
        move -= tl.load(about + own, mask=both, other=0.0)[None]
    sum_r = tl.full((BN, BK), 0.0, c.dtype)
    sum_z = tl.full((BN, BK, BD), 0.0, c.dtype)
    sum_zz = tl.full((BN, BK, BD), 0.0, c.dtype)
    for start in range(0, slab_rows, BN):
        rows = slab * slab_rows + start + tl.arange(0, BN)
        there = (rows < n_rows) & (start + tl.arange(0, BN) < slab_rows)
        at = x + b * stride_xb + rows[:, None] * stride_xn + d[None, :]
        tile_x = tl.load(at, mask=there[:, None] & real[None, :], other=0.0)
        at = joint + b * stride_jb + rows[:, None] * stride_jn + k[None, :] * stride_jk
        pairs = there[:, None] & known[None, :]
        nats = tl.load(at, mask=pairs, other=0.0)
        share = nats - tl.load(log_prob + b * n_rows + rows, mask=there, other=0.0)[:, None]
        r = tl.where(pairs & (share > LEAST), tl.exp(share), 0.0)
        if HAS_W:
            r *= tl.load(w + b * stride_wb + rows, mask=there, other=0.0)[:, None]
        z = (tile_x[:, None, :] - c) * f + move
        rz = r[:, :, None] * z  # a square may overflow far away, where r is 0
        sum_r += r
        sum_z += rz
        sum_zz += rz * z
    place = (slab * n_batch + b) * n_components + k
    tl.store(weight + place, tl.sum(sum_r, 0), mask=known & (d_tile == 0))
    out = place[:, None] * n_features + d[None, :]
    tl.store(first + out, tl.sum(sum_z, 0), mask=both)
    tl.store(second + out, tl.sum(sum_zz, 0), mask=both)
