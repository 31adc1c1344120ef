"""Compile every fused kernel for a GPU that need not be there: `python -m benchmarks.gpu.compile`.

Triton brings NVIDIA's assembler, which says what a kernel takes of a multiprocessor: registers of a
thread, bytes that spill to memory for want of them, shared memory. With `--check` the exit status
is 1 where something does not compile or does not fit.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torchgmm.kernels import (
    triton_axes,
    triton_matrix,
    triton_nearest,
    triton_product,
    triton_run,
    triton_soft,
)

SHARED = 227 * 2**10  # bytes that a program may have on compute capability 9.0
PRECISIONS = ("ieee", "tf32x3", "tf32", "bf16")
INTEGERS = {  # pointers to them, which are called otherwise elsewhere
    triton_soft._multiply: {"left": "i32", "right": "i32"},
    triton_nearest.nearest_centre: {"label": "i32"},
    triton_nearest.sum_tiles: dict.fromkeys(("order", "edge", "first", "owner"), "i64"),
    triton_nearest.join_tiles: {"first": "i64", "all_weight": "fp64", "all_total": "fp64"},
}
NUMBERS = re.compile(r"^(n_|stride_|slab_)")


def table():
    """What to compile: a label, the kernel, its constants, warps, the dtype."""
    flags = {"HAS_SHIFT": True, "HAS_W": True, "ABOUT": True, "WITH_JOINT": True}
    limits = {"LIMIT": 4e37, "LOWEST": -3.4e38, "LEAST": -80.0}
    for dtype, precisions in ((torch.float32, PRECISIONS), (torch.float64, ("ieee",))):
        for d in (16, 32, 64, 128):
            tiles = triton_run.matrix_tiles(d, dtype)
            for precision in precisions:
                constants = {**flags, **limits, "PRECISION": precision}
                kernels = (triton_matrix.log_prob_matrix, triton_matrix.sums_matrix)
                for kernel, tile in zip(kernels, tiles, strict=True):
                    sizes = dict(zip(("BN", "BJ", "BD"), tile.sizes, strict=True))
                    yield f"D={d} {precision}", kernel, constants | sizes, tile.warps, dtype
        for k, d in ((3, 2), (8, 16), (64, 64), (1024, 128)):
            tiles = triton_run.axes_tiles(k, d)
            kernels = (triton_axes.joint_axes, triton_axes.sums_axes)
            for kernel, tile in zip(kernels, tiles, strict=True):
                sizes = dict(zip(("BN", "BK", "BD"), tile.sizes, strict=True))
                yield f"K={k} D={d}", kernel, {**flags, **limits, **sizes}, tile.warps, dtype
        for precision in precisions:
            sizes = dict(zip(("BM", "BN", "BK"), triton_product._TILE.sizes, strict=True))
            constants = {**sizes, "ADD": True, "PRECISION": precision}
            yield precision, triton_product._tiles, constants, triton_product._TILE.warps, dtype
        for k in (2, 64):
            sizes = {"BN": triton_soft._ROWS, "BK": min(triton_soft._COMPONENTS, k)}
            yield f"K={k}", triton_soft._soft_assign, {**limits, **sizes}, 4, dtype
        sizes = {"BN": triton_soft._ROWS, "BS": triton_soft._PAIRS}
        yield "", triton_soft._multiply, sizes, 4, dtype
        sizes = dict(zip(("BN", "BK", "BJ"), triton_nearest._TILE.sizes, strict=True))
        yield "", triton_nearest.nearest_centre, sizes, triton_nearest._TILE.warps, dtype
        sizes = {"BN": triton_nearest._AT_ONCE, "BD": triton_nearest._FEATURES}
        constants = {**sizes, "HAS_W": True, "SUMMED": triton_nearest._SUMMED}
        yield "", triton_nearest.sum_tiles, constants, 4, dtype
        yield "", triton_nearest.join_tiles, sizes, 4, dtype


def compiled(kernel, constants, warps, dtype, capability):
    """Registers, spilled bytes and shared bytes of a kernel."""
    number = "fp32" if dtype == torch.float32 else "fp64"
    names = [p.name for p in kernel.params]
    constants = {name: value for name, value in constants.items() if name in names}
    signature, aligned = {}, {}
    for place, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
        elif NUMBERS.match(name):
            signature[name] = "i32"
        else:
            signature[name] = "*" + INTEGERS.get(kernel, {}).get(name, number)
            aligned[(place,)] = [["tt.divisibility", 16]]
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places, aligned)
    options = {"num_warps": warps, "num_stages": 2}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return *_assembled(built.asm["ptx"], capability), built.metadata.shared


def _assembled(ptx, capability):
    """Registers and spilled bytes, as the assembler that Triton brings reports them."""
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        suffix = "a" if capability >= 90 else ""
        said = subprocess.run(
            [assembler, "-v", f"--gpu-name=sm_{capability}{suffix}", file.name, "-o", "/dev/null"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.search(r"(\d+) bytes spill stores", said)
    return int(registers[1]) if registers else 0, int(spilled[1]) if spilled else 0


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if something is wrong")
    parser.add_argument("--capability", type=int, default=90, help="90 is Hopper (H100)")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    options = parser.parse_args()
    failed = 0
    print("kernel, case, dtype: registers of a thread, bytes spilled, bytes of shared memory")
    for label, kernel, constants, warps, dtype in table():
        name = f"{kernel.__name__} {label} {str(dtype)[6:]}"
        if options.only not in name:
            continue
        try:
            registers, spilled, shared = compiled(
                kernel, constants, warps, dtype, options.capability
            )
        except Exception as error:
            failed += 1
            print(f"{name}: FAILED, {error}")
            continue
        failed += shared > SHARED
        print(f"{name}: {registers}, {spilled}, {shared}", flush=True)
    return int(options.check and failed > 0)


if __name__ == "__main__":
    sys.exit(main())
