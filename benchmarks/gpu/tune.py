"""Time tiles of the fused kernels on a GPU: `python -m benchmarks.gpu.tune --save`.

Prints the fastest of a small set for every kernel, and with `--save` keeps them where the kernels
look for them (`torchgmm/kernels/triton_tuned.py`). Without a file they take the tiles that the
compiler's report speaks for. Tiles decide the order of sums: a file makes them the same in all
processes, so equal fits have equal bits until somebody tunes anew.
"""

import argparse
import itertools
import statistics
import sys
import time
from dataclasses import replace

import torch

from torchgmm import GaussianMixture
from torchgmm.kernels import (
    Quadratic,
    TritonQuadratic,
    triton_nearest,
    triton_product,
    triton_quadratic,
    triton_tiles,
)
from torchgmm.kernels.triton_launch import Tile
from torchgmm.kernels.triton_run import Launcher, densities
from torchgmm.kernels.triton_tuned import Use, save, trying

# rows, features at a time, warps; the third size is the width of a matrix
MATRIX = tuple(itertools.product((32, 64, 128), (16, 32), (4, 8)))
# rows, components, features, warps
PASS = tuple(itertools.product((64, 128), (16, 32), (1, 4), (4, 8)))
SUMS = tuple(itertools.product((1, 4), (16, 32), (32, 64), (4, 8)))
JOINTS = tuple(itertools.product((64, 128), (64, 128), (16, 32), (4, 8)))
FEATURES = tuple(itertools.product((16, 32), (64, 128), (64, 128), (4, 8)))
NEAREST = tuple(itertools.product((64, 128), (32, 64, 128), (16, 32), (4, 8)))  # rows, centres, ...
PRODUCTS = tuple(itertools.product((64, 128), (64, 128), (16, 32), (4, 8)))  # rows, columns, terms
BUDGETS = (16, 32, 64, 128, 256)  # MiB
MOST = 128 * 128  # numbers of the tile that stays in registers
FLOAT = torch.float32


class Bench:
    """What is timed where, and what was found to be best.

    Args:
        device: of the rows.
        n: how many there are.
        repeats: calls per tile, of which the median counts.
        most: tiles to try of each kernel.
    """

    def __init__(self, device, n, repeats, most):
        self.device, self.n, self.repeats, self.most = device, n, repeats, most
        self.best = {}

    def rows(self, *shape):
        """Random numbers on the device."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def mixture(self, k, d, family="full"):
        """Parameters of a mixture."""
        g = torch.Generator().manual_seed(0)
        mixture = GaussianMixture(k, d, family, device=self.device, generator=g)
        return mixture.as_parameters(torch.float64).map(torch.Tensor.detach)

    def seconds(self, call):
        """The median time of a call that was made before; None where it does not fit."""
        try:
            call()
            times = []
            for _ in range(self.repeats):
                began = time.perf_counter()
                call()
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                times.append(time.perf_counter() - began)
        except Exception as error:  # out of resources of a multiprocessor: said in many ways
            print(f"  {type(error).__name__}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
            return None
        return statistics.median(times)

    def fastest(self, use, usual, place, candidates, call):
        """Put the fastest of the candidates into its place among the tiles of a use; its time."""
        now, found = list(self.best.get(use, usual)), []
        for tile in (now[place], *candidates[: self.most]):  # the usual one wins where all are even
            now[place] = tile
            with trying(use, tuple(now)):
                found.append((self.seconds(call), tile))
        known = [(s, tile) for s, tile in found if s is not None]
        took, now[place] = min(
            known, key=lambda pair: pair[0], default=(float("nan"), usual[place])
        )
        if known:
            self.best[use] = tuple(now)
        return took


def whitened(bench, family, k, d, precision):
    """Both kernels that subtract and whiten: the pass first, then the sums beside it."""
    p, x = bench.mixture(k, d, family), bench.rows(bench.n, d)
    is_matrix = p.family.n_axes == 2
    use = triton_tiles.use_of(k, d, FLOAT, precision, is_matrix=is_matrix)
    if is_matrix:
        usual = triton_tiles.matrix_tiles(d, FLOAT)
        width = usual[0].sizes[-1]
        passes = sums = [Tile((r, j, width), w) for r, j, w in MATRIX if r * width <= MOST]
    else:
        usual = triton_tiles.axes_tiles(k, d)
        passes, sums = (
            [Tile((r, c, f), w) for r, c, f, w in some if c <= max(k, 16)] for some in (PASS, SUMS)
        )

    def launcher():
        return Launcher(p, x, precision, 128 * 2**20)

    def log_prob():
        densities(x, *launcher()._tensors(), precision, keep=False)

    took = bench.fastest(use, usual, 0, passes, log_prob)
    whole = bench.fastest(use, usual, 1, sums, lambda: launcher().moments(x, None, None))
    yield use, f"{1000 * took:.3g} ms for log p, {1000 * whole:.3g} ms for log p and sums"


def formed(bench, k, d, dtype, precision):
    """Both kernels that form quadratic features: that of the sums, then the other."""
    p, x = bench.mixture(k, d), bench.rows(bench.n, d)
    size, kernel = d * (d + 3) // 2, TritonQuadratic(precision=precision)
    plan = kernel.plan(x, p)
    if dtype not in plan.dtypes:  # a device that is slow in float64
        return
    plan = replace(plan, dtypes=(dtype,))
    use = triton_quadratic.use_of(k, size, dtype, precision)
    usual = triton_quadratic.usual_tiles(k, size, dtype)
    for place, given in ((1, FEATURES), (0, JOINTS)):
        tiles = [Tile((r, c, f), w, 1) for r, c, f, w in given if c <= max(64, k)]
        took = bench.fastest(use, usual, place, tiles, lambda: kernel.planned(x, None, p, plan))
    yield use, f"{1000 * took:.3g} ms"


def products(bench, k, d, precision):
    """The two products of `quadratic`, on 8,192 rows."""
    size = d * (d + 3) // 2 + 1
    theta, phi, r = (bench.rows(*shape) for shape in ((k, size), (size, 8192), (k, 8192)))

    def both():
        triton_product.into(theta, phi, r, precision)
        triton_product.summed(r, phi.mT, precision)

    use, usual = Use("product", (), FLOAT, precision), (triton_product.usual_tile(),)
    took = bench.fastest(use, usual, 0, [Tile((m, n, t), w) for m, n, t, w in PRODUCTS], both)
    yield use, f"{1000 * took:.3g} ms, {4e-9 * k * size * 8192 / took:.0f} GFLOP/s"


def nearest(bench, k, d):
    """The assignment of k-means."""
    x, centres = bench.rows(1, bench.n, d), bench.rows(1, k, d)
    use, usual = triton_nearest.use_of(k, d, FLOAT), (triton_nearest.usual_tile(),)
    tiles = [Tile((r, c, j), w) for r, c, j, w in NEAREST if r * c <= MOST // 2]
    took = bench.fastest(use, usual, 0, tiles, lambda: triton_nearest.nearest(x, centres))
    label, _ = triton_nearest.nearest(x, centres)
    sums = bench.seconds(lambda: triton_nearest.cluster_sums(x, None, label, k))
    yield use, f"{1000 * took:.3g} ms for labels, {1000 * sums:.3g} for sums"


def budgets(bench, k, d):
    """Bytes of a chunk of `quadratic`: small ones stay in the cache, large ones are few."""
    p, x = bench.mixture(k, d), bench.rows(bench.n, d)
    for mib in BUDGETS:
        kernel = Quadratic(mib * 2**20)
        took = bench.seconds(lambda own=kernel: own.accumulate(x, None, p))
        yield f"quadratic, chunks of {mib} MiB", f"{1000 * took:.3g} ms"


def jobs(bench, k, features, precisions):
    """Every kernel at every size, those whose tiles depend on less only once for it."""
    for d, precision in itertools.product(features, precisions):
        yield d, whitened(bench, "full", k, d, precision)
        yield d, formed(bench, k, d, FLOAT, precision)
    for d in features:
        yield d, formed(bench, k, d, torch.float64, "ieee")
        yield d, whitened(bench, "diagonal", k, d, "ieee")
        yield d, nearest(bench, k, d)
        yield d, budgets(bench, k, d)
    for precision in precisions:
        yield features[-1], products(bench, k, features[-1], precision)


def main(arguments=None):
    """Print the table, and keep what was best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["ieee", "tf32x3"])
    parser.add_argument("--features", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--most", type=int, default=1000, help="tiles to try of each kernel")
    parser.add_argument("--save", action="store_true", help="kernels take these tiles from now on")
    o = parser.parse_args(arguments)
    bench = Bench(torch.device(o.device), o.rows, o.repeats, o.most)
    for d, found in jobs(bench, o.components, o.features, o.precision):
        for use, took in found:
            tiles = ", ".join(map(str, bench.best.get(use, ())))
            print(f"{o.rows}x{d}-{o.components} {use}: {tiles or '-'}; {took}", flush=True)
    if o.save:
        print(f"kept in {save(bench.device, bench.best)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
