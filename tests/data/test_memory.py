"""Reading files larger than what a process may hold: its peak memory stays that of some blocks."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROWS, D = 2_000_000, 32  # 256 MB
PIECE = 250_000
# what reading may add to an interpreter that has imported everything, in MiB: blocks of 32 MiB (the
# caller's, two ahead, one in the making, its pieces), windows of 32 MiB with their copies; and what
# pyarrow holds of 32 columns in two row groups, or eight pieces of text and what is made of them
ALLOWED = {"npy": 220, "parquet": 750, "csv": 450}

SCRIPT = """
import sys, torch
from pathlib import Path
from torchgmm.data import Checked, ShardSource
try:
    import pyarrow.parquet
except ImportError:
    pass

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

source = ShardSource(sys.argv[1])
checked = Checked(source, torch.float32, torch.device("cpu"))
before, rows = peak(), 0
checked.sample(10_000, torch.Generator())
for blocks in (checked.blocks(), checked.batches(4096, seed=0, epoch=0)):
    for block in blocks:
        rows += len(block.x)
assert rows == 2 * source.n_rows
print(peak() - before)
"""


def pieces(rows):
    rng = np.random.default_rng(0)
    for _ in range(0, rows, PIECE):
        yield rng.standard_normal((PIECE, D), dtype=np.float32)


def write_npy(folder):
    out = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (ROWS, D))
    for i, piece in enumerate(pieces(ROWS)):
        out[i * PIECE : (i + 1) * PIECE] = piece


def write_parquet(folder):
    """One file, of two row groups."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = [f"c{j}" for j in range(D)]
    half = list(pieces(ROWS // 2))
    table = pa.table(dict(zip(names, np.concatenate(half).T, strict=True)))
    with pq.ParquetWriter(folder / "x.parquet", table.schema) as writer:
        for _ in range(2):
            writer.write_table(table, row_group_size=ROWS)


def write_csv(folder):
    line = ",".join(["1.25", "-0.5"] * (D // 2)) + "\n"
    with Path(folder / "x.csv").open("w") as file:
        for _ in range(6):
            file.write(line * 100_000)


WRITE = {"npy": write_npy, "parquet": write_parquet, "csv": write_csv}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", WRITE)
def test_peak_memory_of_reading_is_that_of_some_blocks(tmp_path, kind):
    WRITE[kind](tmp_path)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = float(re.search(r"[\d.]+", done.stdout)[0])
    print(f"{kind}: {grown:.0f} MiB")
    assert grown < ALLOWED[kind]
