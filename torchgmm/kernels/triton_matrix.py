"""Fused E-step for covariances that are matrices (full, tied), in Triton.

Both kernels subtract first and whiten after, as `dense` does, so they keep the same digits. The
first goes over the rows and holds one tile of them while the components pass by; the second goes
over pairs of component and slab of rows and holds the component's sums in registers. Products run
over `BJ` features at a time: a whole row and a whole factor would not fit into registers. Sizes
that change from chunk to chunk are no reason to compile again (`do_not_specialize`).
"""

import triton
import triton.language as tl

__all__ = ["log_prob_matrix", "sums_matrix"]


@triton.jit(do_not_specialize=["n_rows"])
def log_prob_matrix(
    x,  # rows, (b, n, d) by the strides below
    centre,  # (B, K, D)
    shift,  # (B, K, D), added to z; read only if HAS_SHIFT
    factor,  # (B, H, D, D)
    log_norm,  # (B, K)
    log_prob,  # out: (B, n)
    joint,  # out: log pi_k N(x_n; k), (B, K, n); written only if WITH_JOINT
    n_rows,
    n_components,
    n_features,
    stride_xb,
    stride_xn,
    stride_fb,
    stride_fk,  # 0 where all components share one covariance
    LIMIT: tl.constexpr,  # largest squared distance that is told apart
    LOWEST: tl.constexpr,  # the lowest number of the dtype
    HAS_SHIFT: tl.constexpr,
    WITH_JOINT: tl.constexpr,
    PRECISION: tl.constexpr,
    BN: tl.constexpr,
    BJ: tl.constexpr,
    BD: tl.constexpr,
):
    """Log-density of every row, by an online log-sum-exp over the components."""
    program = tl.program_id(0).to(tl.int64)
    tiles = (program * 0 + n_rows + BN - 1) // BN  # in 64 bits
    b, tile = program // tiles, program % tiles
    rows = tile * BN + tl.arange(0, BN)
    d = tl.arange(0, BD)
    there, real = rows < n_rows, d < n_features
    at_x = x + b * stride_xb + rows[:, None] * stride_xn
    top = tl.full((BN,), LOWEST, log_prob.dtype.element_ty)
    total = tl.full((BN,), 0.0, log_prob.dtype.element_ty)
    for k in range(0, n_components):
        own = b * n_components + k
        own_factor = factor + b * stride_fb + (own - b * n_components) * stride_fk  # 64 bits
        z = tl.full((BN, BD), 0.0, log_prob.dtype.element_ty)
        for start in range(0, n_features, BJ):
            j = start + tl.arange(0, BJ)
            known = j < n_features
            c = tl.load(centre + own * n_features + j, mask=known, other=0.0)
            both = there[:, None] & known[None, :]
            from_mean = tl.load(at_x + j[None, :], mask=both, other=0.0) - c[None, :]
            at_f = own_factor + j[:, None] * n_features + d[None, :]
            f = tl.load(at_f, mask=known[:, None] & real[None, :], other=0.0)
            if PRECISION == "bf16":
                z = tl.dot(from_mean.to(tl.bfloat16), f.to(tl.bfloat16), acc=z)
            else:
                z = tl.dot(from_mean, f, acc=z, input_precision=PRECISION, out_dtype=z.dtype)
        if HAS_SHIFT:
            z += tl.load(shift + own * n_features + d, mask=real, other=0.0)[None, :]
        nats = tl.load(log_norm + own) - 0.5 * tl.minimum(tl.sum(z * z, 1), LIMIT)
        if WITH_JOINT:
            tl.store(joint + own * n_rows + rows, nats, mask=there)
        higher = tl.maximum(top, nats)
        total = total * tl.exp(top - higher) + tl.exp(nats - higher)
        top = higher
    tl.store(log_prob + b * n_rows + rows, top + tl.log(total), mask=there)


@triton.jit(do_not_specialize=["n_rows", "n_batch", "slab_rows"])
def sums_matrix(
    x,
    w,  # row weights (b, n); read only if HAS_W
    centre,
    shift,
    factor,
    log_norm,
    about,  # (B, K, D), subtracted from z; read only if ABOUT
    log_prob,  # (B, n), from the kernel above
    weight,  # out: (slabs, B, K)
    first,  # out: (slabs, B, K, D)
    second,  # out: (slabs, B, K, D, D)
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
    LIMIT: tl.constexpr,
    LEAST: tl.constexpr,  # exp() of less is an exact zero
    HAS_W: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    ABOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BN: tl.constexpr,
    BJ: tl.constexpr,
    BD: tl.constexpr,
):
    """Moments of z, one component and one slab of rows per program: nobody else writes there."""
    program = tl.program_id(0).to(tl.int64)
    k = program % n_components
    b = (program // n_components) % n_batch
    slab = program // n_components // n_batch
    own = b * n_components + k
    d = tl.arange(0, BD)
    real = d < n_features
    square = real[:, None] & real[None, :]
    entries = d[:, None] * n_features + d[None, :]
    norm = tl.load(log_norm + own)
    sum_r = tl.full((BN,), 0.0, norm.dtype)
    sum_z = tl.full((BD,), 0.0, norm.dtype)
    sum_zz = tl.full((BD, BD), 0.0, norm.dtype)
    for start in range(0, slab_rows, BN):
        rows = slab * slab_rows + start + tl.arange(0, BN)
        there = (rows < n_rows) & (start + tl.arange(0, BN) < slab_rows)
        at_x = x + b * stride_xb + rows[:, None] * stride_xn
        z = tl.full((BN, BD), 0.0, norm.dtype)
        for first_j in range(0, n_features, BJ):
            j = first_j + tl.arange(0, BJ)
            known = j < n_features
            c = tl.load(centre + own * n_features + j, mask=known, other=0.0)
            both = there[:, None] & known[None, :]
            from_mean = tl.load(at_x + j[None, :], mask=both, other=0.0) - c[None, :]
            at_f = factor + b * stride_fb + k * stride_fk + j[:, None] * n_features + d[None, :]
            f = tl.load(at_f, mask=known[:, None] & real[None, :], other=0.0)
            if PRECISION == "bf16":
                z = tl.dot(from_mean.to(tl.bfloat16), f.to(tl.bfloat16), acc=z)
            else:
                z = tl.dot(from_mean, f, acc=z, input_precision=PRECISION, out_dtype=z.dtype)
        if HAS_SHIFT:
            z += tl.load(shift + own * n_features + d, mask=real, other=0.0)[None, :]
        nats = norm - 0.5 * tl.minimum(tl.sum(z * z, 1), LIMIT)
        share = nats - tl.load(log_prob + b * n_rows + rows, mask=there, other=0.0)
        r = tl.where(there & (share > LEAST), tl.exp(share), 0.0)
        if HAS_W:
            r *= tl.load(w + b * stride_wb + rows, mask=there, other=0.0)
        if ABOUT:
            z -= tl.load(about + own * n_features + d, mask=real, other=0.0)[None, :]
        z = tl.where((r > 0.0)[:, None], z, 0.0)  # an overflow far away is not felt
        rz = r[:, None] * z
        sum_r += r
        sum_z += tl.sum(rz, 0)
        if PRECISION == "bf16":
            sum_zz = tl.dot(tl.trans(rz).to(tl.bfloat16), z.to(tl.bfloat16), acc=sum_zz)
        else:
            sum_zz = tl.dot(
                tl.trans(rz), z, acc=sum_zz, input_precision=PRECISION, out_dtype=norm.dtype
            )
    place = (slab * n_batch + b) * n_components + k
    tl.store(weight + place, tl.sum(sum_r, 0))
    tl.store(first + place * n_features + d, sum_z, mask=real)
    tl.store(second + place * n_features * n_features + entries, sum_zz, mask=square)
