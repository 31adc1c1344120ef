"""Time tiles of the fused kernels on a GPU: `python -m benchmarks.gpu.tune`.

Prints the fastest tiles as `torchgmm/kernels/triton_run.py` holds them. They stand
there as constants, because tiles decide the order of sums: a choice made anew in every process
would cost equal fits their equal bits.
"""

import argparse
import itertools
import statistics
import sys
import time

import torch

from torchgmm import GaussianMixture
from torchgmm.kernels import (
    Quadratic,
    TritonQuadratic,
    triton_nearest,
    triton_product,
    triton_quadratic,
    triton_run,
)
from torchgmm.kernels.triton_launch import Tile
from torchgmm.kernels.triton_run import Launcher, densities

MATRIX = tuple(itertools.product((32, 64, 128), (16, 32), (4, 8)))  # rows, features a time, warps
PASS = tuple(itertools.product((32, 64, 128), (16, 32, 64), (1, 2, 4), (4, 8)))
SUMS = tuple(itertools.product((1, 2, 4), (16, 32), (32, 64), (4, 8)))
# rows, components, features a time, warps, steps whose loads are under way
JOINTS = tuple(itertools.product((64, 128), (64, 128), (16, 32), (4, 8), (1, 2)))
FEATURES = tuple(itertools.product((16, 32), (64, 128), (64, 128), (4, 8), (1, 2)))
NEAREST = tuple(itertools.product((32, 64, 128), (32, 64, 128), (16, 32), (4, 8)))
PRODUCTS = tuple(itertools.product((64, 128), (64, 128), (16, 32), (4, 8)))
BUDGETS = (16, 32, 64, 128, 256)  # MiB
MOST = 128 * 128  # numbers of the tile that stays in registers


def seconds(call, device, repeats):
    """The median time of a call that was made before; None where it does not fit."""
    try:
        call()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
    except Exception as error:  # out of resources of a multiprocessor: said in many ways
        print(f"  {type(error).__name__}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
        return None
    return statistics.median(times)


def fastest(tiles, timed):
    """The best of the tiles; `timed` says how long one takes."""
    found = [(timed(tile), tile) for tile in tiles]
    known = [(s, tile) for s, tile in found if s is not None]
    return min(known, default=(float("nan"), None))


def tune(family, n, k, d, precision, device, repeats, most):
    """Tiles of both kernels for one size: the pass first, then the sums beside it."""
    mixture = GaussianMixture(k, d, family, device=device, generator=torch.Generator())
    p = mixture.as_parameters(torch.float64).map(torch.Tensor.detach)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(device)
    is_matrix = p.family.n_axes == 2
    name = "matrix_tiles" if is_matrix else "axes_tiles"
    usual = getattr(triton_run, name)
    first, second = usual(d, torch.float32) if is_matrix else usual(k, d)
    width = first.sizes[-1]
    if is_matrix:
        passes = sums = [Tile((r, j, width), w) for r, j, w in MATRIX if r * width <= MOST]
    else:
        passes = [Tile((r, c, f), w) for r, c, f, w in PASS if c <= max(k, 16)]
        sums = [Tile((r, c, f), w) for r, c, f, w in SUMS if c <= max(k, 16)]

    def with_tiles(a, b, call):
        setattr(triton_run, name, lambda *sizes: (a, b))
        try:
            made = Launcher(p, x, precision, 128 * 2**20)
            return seconds(lambda: call(made), device, repeats)
        finally:
            setattr(triton_run, name, usual)

    def pass_of(made):
        return densities(x, *made._tensors(), precision, keep=False)

    def whole_of(made):
        return made.moments(x, None, None)

    took, first = fastest(passes[:most], lambda tile: with_tiles(tile, second, pass_of))
    whole, second = fastest(sums[:most], lambda tile: with_tiles(first, tile, whole_of))
    print(
        f"{family} {n}x{d}-{k} {precision}: {first}, {second}; "
        f"{1000 * took:.3g} ms for log p, {1000 * whole:.3g} ms for log p and sums",
        flush=True,
    )


def tune_formed(n, k, d, precision, device, repeats, most):
    """Tiles of both kernels that form quadratic features: those of the sums, then of the other."""
    mixture = GaussianMixture(k, d, device=device, generator=torch.Generator())
    p = mixture.as_parameters(torch.float64).map(torch.Tensor.detach)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(device)
    kernel, usual = TritonQuadratic(precision=precision), triton_quadratic.tiles
    first, second = usual(k, d * (d + 3) // 2, torch.float32)

    def timed(a, b):
        triton_quadratic.tiles = lambda *sizes: (a, b)
        try:
            return seconds(lambda: kernel.accumulate(x, None, p), device, repeats)
        finally:
            triton_quadratic.tiles = usual

    def some(given):
        tiles = [Tile((r, c, f), w, s) for r, c, f, w, s in given if c <= max(64, k)]
        return tiles[:most]

    _, second = fastest(some(FEATURES), lambda tile: timed(first, tile))
    took, first = fastest(some(JOINTS), lambda tile: timed(tile, second))
    print(
        f"triton_quadratic full {n}x{d}-{k} {precision}: {first}, {second}; {1000 * took:.3g} ms",
        flush=True,
    )


def tune_budget(n, k, d, device, repeats):
    """Bytes of a chunk of `quadratic`: small ones stay in the cache, large ones are few."""
    mixture = GaussianMixture(k, d, device=device, generator=torch.Generator())
    p = mixture.as_parameters(torch.float64).map(torch.Tensor.detach)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(device)
    for mib in BUDGETS:
        kernel = Quadratic(mib * 2**20)
        took = seconds(lambda own=kernel: own.accumulate(x, None, p), device, repeats)
        print(f"quadratic full {n}x{d}-{k}, chunks of {mib} MiB: {1000 * took:.3g} ms", flush=True)


def tune_products(k, d, precision, device, repeats, most):
    """Tiles of the two products of `quadratic`, on 8,192 rows: rows, columns, terms."""
    g, size = torch.Generator().manual_seed(0), d * (d + 3) // 2 + 1
    shapes = ((k, size), (size, 8192), (k, 8192))
    theta, phi, r = (torch.randn(*shape, generator=g).to(device) for shape in shapes)
    usual = triton_product._TILE

    def both():
        triton_product.into(theta, phi, r, precision)
        triton_product.summed(r, phi.mT, precision)

    def timed(tile):
        triton_product._TILE = tile
        try:
            return seconds(both, device, repeats)
        finally:
            triton_product._TILE = usual

    took, tile = fastest([Tile((m, n, t), w) for m, n, t, w in PRODUCTS[:most]], timed)
    rate = 4e-9 * k * size * 8192 / took
    print(f"products {d}-{k} {precision}: {tile}; {1000 * took:.3g} ms, {rate:.0f} GFLOP/s")


def tune_nearest(n, k, d, device, repeats, most):
    """Tiles of the assignment of k-means: rows, centres, features of a product."""
    g = torch.Generator().manual_seed(0)
    x, centres = (torch.randn(1, m, d, generator=g).to(device) for m in (n, k))
    usual = triton_nearest._TILE

    def timed(tile):
        triton_nearest._TILE = tile
        try:
            return seconds(lambda: triton_nearest.nearest(x, centres), device, repeats)
        finally:
            triton_nearest._TILE = usual

    tiles = [Tile((r, c, j), w) for r, c, j, w in NEAREST if r * c <= MOST // 2]
    took, tile = fastest(tiles[:most], timed)
    label, _ = triton_nearest.nearest(x, centres)
    sums = seconds(lambda: triton_nearest.cluster_sums(x, None, label, k), device, repeats)
    print(
        f"k-means {n}x{d}-{k}: {tile}; {1000 * took:.3g} ms for labels, {1000 * sums:.3g} for sums"
    )


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["ieee", "tf32x3"])
    parser.add_argument("--features", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--most", type=int, default=1000, help="tiles to try of each kernel")
    o = parser.parse_args(arguments)
    device = torch.device(o.device)
    for precision, d in itertools.product(o.precision, o.features):
        tune("full", o.rows, o.components, d, precision, device, o.repeats, o.most)
    for precision, d in itertools.product(o.precision, o.features):
        tune_formed(o.rows, o.components, d, precision, device, o.repeats, o.most)
    for d in o.features:
        tune("diagonal", o.rows, o.components, d, "ieee", device, o.repeats, o.most)
    for d in o.features:
        tune_budget(o.rows, o.components, d, device, o.repeats)
    for precision, d in itertools.product(o.precision, o.features):
        tune_products(o.components, d, precision, device, o.repeats, o.most)
    for d in o.features:
        tune_nearest(o.rows, o.components, d, device, o.repeats, o.most)
    return 0


if __name__ == "__main__":
    sys.exit(main())
