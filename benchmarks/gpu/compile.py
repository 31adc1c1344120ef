"""Compile every fused kernel for a GPU that need not be there: `python -m benchmarks.gpu.compile`.

Triton brings NVIDIA's assembler, which says what a kernel takes of a multiprocessor: registers of a
thread, bytes that spill to memory for want of them, shared memory, and how many programs a
multiprocessor holds at a time. With `--check` the exit status is 1 where something does not compile
or does not fit, or where a place is computed in 32 bits from a number of rows or a stride. With
`--code` it also counts the instructions of the innermost loops: a multiprocessor of an H100 issues
four a cycle, so they say what no tuning can save.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from torchgmm.kernels import (
    triton_axes,
    triton_formed,
    triton_matrix,
    triton_nearest,
    triton_product,
    triton_quadratic,
    triton_soft,
    triton_tiles,
)
from torchgmm.kernels.triton_launch import Tile

SHARED = 227 * 2**10  # bytes that a program may have on compute capability 9.0
PRECISIONS = ("ieee", "tf32x3", "tf32", "bf16")
INTEGERS = {  # pointers to them, which are called otherwise elsewhere
    triton_soft._multiply: {"left": "i32", "right": "i32"},
    triton_formed.joint_formed: {"left": "i32", "right": "i32"},
    triton_formed.sums_formed: {"left": "i32", "right": "i32"},
    triton_nearest.nearest_centre: {"label": "i32"},
    triton_nearest.sum_tiles: dict.fromkeys(("order", "edge", "first", "owner"), "i64"),
    triton_nearest.join_tiles: {"first": "i64", "all_weight": "fp64", "all_total": "fp64"},
}
NUMBERS = re.compile(r"^(n_|stride|slab_)")
FORMED = (triton_formed.joint_formed, triton_formed.shares, triton_formed.sums_formed)
WHOLE = ("n_features", "n_used", "slab_rows", "stride_yb", "stride")  # multiples of 16 there
USUAL = Tile(())
MULTIPLY = ("FFMA", "HMMA", "HGMMA", "DFMA", "DMMA")


def table():
    """What to compile: a label, the kernel, its constants, its tile, the dtype."""
    flags = {"HAS_SHIFT": True, "HAS_W": True, "ABOUT": True, "WITH_JOINT": True}
    limits = {"LIMIT": 4e37, "LOWEST": -3.4e38, "LEAST": -80.0}
    for dtype, precisions in ((torch.float32, PRECISIONS), (torch.float64, ("ieee",))):
        for d in (16, 32, 64, 128):
            tiles = triton_tiles.matrix_tiles(d, dtype)
            for precision in precisions:
                constants = {**flags, **limits, "PRECISION": precision}
                kernels = (triton_matrix.log_prob_matrix, triton_matrix.sums_matrix)
                for kernel, tile in zip(kernels, tiles, strict=True):
                    sizes = dict(zip(("BN", "BJ", "BD"), tile.sizes, strict=True))
                    yield f"D={d} {precision}", kernel, constants | sizes, tile, dtype
        for k, d in ((3, 2), (8, 16), (64, 64), (1024, 128)):
            tiles = triton_tiles.axes_tiles(k, d)
            kernels = (triton_axes.joint_axes, triton_axes.sums_axes)
            for kernel, tile in zip(kernels, tiles, strict=True):
                sizes = dict(zip(("BN", "BK", "BD"), tile.sizes, strict=True))
                yield f"K={k} D={d}", kernel, {**flags, **limits, **sizes}, tile, dtype
        yield from formed(dtype, precisions, flags | limits)
        for precision in precisions:
            tile = triton_product.usual_tile()
            sizes = dict(zip(("BM", "BN", "BK"), tile.sizes, strict=True))
            constants = {**sizes, "ADD": True, "PRECISION": precision}
            yield precision, triton_product._tiles, constants, tile, dtype
        for k in (2, 64):
            sizes = {"BN": triton_soft._ROWS, "BK": min(triton_soft._COMPONENTS, k)}
            yield f"K={k}", triton_soft._soft_assign, {**limits, **sizes}, USUAL, dtype
        sizes = {"BN": triton_soft._ROWS, "BS": triton_soft._PAIRS}
        yield "", triton_soft._multiply, sizes, USUAL, dtype
        tile = triton_nearest.usual_tile()
        sizes = dict(zip(("BN", "BK", "BJ"), tile.sizes, strict=True))
        yield "", triton_nearest.nearest_centre, sizes, tile, dtype
        sizes = {"BN": triton_nearest._AT_ONCE, "BD": triton_nearest._FEATURES}
        constants = {**sizes, "HAS_W": True, "SUMMED": triton_nearest._SUMMED}
        yield "", triton_nearest.sum_tiles, constants, USUAL, dtype
        yield "", triton_nearest.join_tiles, sizes, USUAL, dtype


def formed(dtype, precisions, given):
    """The kernels that form quadratic features, for full, diagonal and spherical covariances."""
    constants = {**given, "BN": triton_quadratic._SHARES, "SHORT": False}
    yield "", triton_formed.shares, constants, USUAL, dtype
    for label, k, size in (("K=16 P=560", 16, 560), ("K=64 P=2144", 64, 2144),
                           ("K=1024 P=256", 1024, 256), ("K=1024 P=128", 1024, 128)):  # fmt: skip
        tiles = triton_quadratic.usual_tiles(k, size, dtype)
        ready = size > triton_quadratic._TIMES[dtype] * tiles[1].sizes[2]
        flags = {"HAS_EXTRA": size == 128, "READY": ready, "SHORT": dtype == torch.float64}
        for precision in precisions:
            for kernel, tile in zip(
                (triton_formed.joint_formed, triton_formed.sums_formed), tiles, strict=True
            ):
                sizes = dict(zip(("BN", "BK", "BP"), tile.sizes, strict=True))
                constants = {**given, **flags, **sizes, "PRECISION": precision}
                yield f"{label} {precision}", kernel, constants, tile, dtype


def compiled(kernel, constants, tile, dtype, capability):
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
            if kernel in FORMED and name in WHOLE:
                aligned[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "*" + INTEGERS.get(kernel, {}).get(name, number)
            aligned[(place,)] = [["tt.divisibility", 16]]
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places, aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    narrow = narrow_offsets(built.asm["ttir"])
    figures = *_assembled(built.asm["ptx"], capability), built.metadata.shared
    return *figures, narrow, built.asm["cubin"]


def innermost_loops(cubin):
    """Instructions of every loop that holds no other, and how many of them multiply and add."""
    disassembler = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        called = [disassembler, "-c", file.name]
        code = subprocess.run(called, capture_output=True, text=True, check=True).stdout
    names, places, loops = [], {}, []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            places[label[1]] = len(names)
        elif made := re.search(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)(.*);", line):
            back = re.search(r"\.L_x_\d+", made[2]) if made[1] == "BRA" else None
            if back and back[0] in places:
                loops.append((places[back[0]], len(names) + 1))
            names.append(made[1])
    holds = [any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops) for a, b in loops]
    own = [names[a:b] for (a, b), outer in zip(loops, holds, strict=True) if not outer]
    counted = [(len(part), Counter(name for name in part if name in MULTIPLY)) for part in own]
    return [(size, dict(products)) for size, products in counted if products]


def narrow_offsets(code):
    """Lines of Triton's intermediate code that compute places of rows in 32 bits.

    That is a product or sum of 32-bit numbers of which one is a number of rows, a stride or the
    number of the program: it wraps around where there are 2^31 rows, or as many numbers.
    """
    came_from, found = {}, []
    for line in code.splitlines():
        if same := _SAME.match(line):
            came_from[same[1]] = came_from.get(same[2], same[2])
        elif program := _PROGRAM.match(line):
            came_from[program[1]] = "%program_id"
        elif (made := _MADE.match(line)) and made[3].endswith("i32"):
            names = (name.strip() for name in made[2].split(","))
            if any(_ROWS.match(came_from.get(name, name)) for name in names):
                found.append(line.split(" loc(")[0].strip())
    return found


_SAME = re.compile(
    r"\s*(%\S+) = (?:tt\.splat|tt\.expand_dims|tt\.broadcast|tt\.reshape|arith\.extsi) (%[\w.#]+)"
)
_PROGRAM = re.compile(r"\s*(%\S+) = tt\.get_program_id")
_MADE = re.compile(r"\s*(%\S+) = arith\.(?:muli|addi|subi) ([^:]+) : (?:tensor<[\dx]*)?(i\d+)")
_ROWS = re.compile(r"%(n_rows|n_columns|n_terms|slab_rows|stride\w*|program_id)$")


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


def resident(registers, shared, warps):
    """Programs that a multiprocessor of compute capability 9.0 holds at a time."""
    each = -(-max(registers, 1) // 8) * 8 * 32 * warps  # registers come in units of 256 a warp
    return min(65_536 // each, (SHARED + 1024) // (shared + 1024), 64 // warps)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if something is wrong")
    parser.add_argument("--capability", type=int, default=90, help="90 is Hopper (H100)")
    parser.add_argument("--code", action="store_true", help="count instructions of loops")
    parser.add_argument("--once", action="store_true", help="the first case of every kernel")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    options = parser.parse_args()
    failed = 0
    print("kernel, case, dtype: registers of a thread, bytes spilled, bytes of shared memory, "
          "programs at a time")  # fmt: skip
    seen = set()
    for label, kernel, constants, tile, dtype in table():
        name = f"{kernel.__name__} {label} {str(dtype)[6:]}"
        if options.only not in name or (options.once and kernel in seen):
            continue
        seen.add(kernel)
        try:
            registers, spilled, shared, narrow, cubin = compiled(
                kernel, constants, tile, dtype, options.capability
            )
        except Exception as error:
            failed += 1
            print(f"{name}: FAILED, {error}")
            continue
        failed += shared > SHARED or bool(narrow)
        at_once = resident(registers, shared, tile.warps)
        print(f"{name}: {registers}, {spilled}, {shared}, {at_once}", flush=True)
        for size, products in innermost_loops(cubin) if options.code else ():
            print(f"  loop of {size}: {products}")
        for line in narrow:
            print(f"  in 32 bits: {line}")
    return int(options.check and failed > 0)


if __name__ == "__main__":
    sys.exit(main())
