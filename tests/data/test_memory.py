"""Reading files larger than what a process may hold: its peak memory stays that of some blocks."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PIECE, D = 250_000, 32  # 32 MB of float32; a row group of parquet
SHORT, LONG = 8, 24  # pieces: 244 and 732 MiB as float32; text counts as the rows it holds
# Peaks depend on allocators and on how many threads pyarrow has, so what is asserted is that they
# do not follow the data: of what LONG has more than SHORT less than half may show, where a
# reader that held all would show all of it. Seen here: npy 0, parquet up to 90, csv 35 MiB.
MORE = (LONG - SHORT) * PIECE * D * 4 / 2**20

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


def piece():
    return np.random.default_rng(0).standard_normal((PIECE, D), dtype=np.float32)


def write_npy(folder, pieces):
    out = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (pieces * PIECE, D))
    for i in range(pieces):
        out[i * PIECE : (i + 1) * PIECE] = piece()


def write_parquet(folder, pieces):
    """One file, a row group for each piece."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({f"c{j}": column for j, column in enumerate(piece().T)})
    with pq.ParquetWriter(folder / "x.parquet", table.schema) as writer:
        for _ in range(pieces):
            writer.write_table(table, row_group_size=PIECE)


def write_csv(folder, pieces):
    """A tenth of the rows: text is slow, and what a careless reader would hold of it is more."""
    line = ",".join(["1.25", "-0.5"] * (D // 2)) + "\n"
    with Path(folder / "x.csv").open("w") as file:
        for _ in range(pieces):
            file.write(line * (PIECE // 4))


WRITE = {"npy": write_npy, "parquet": write_parquet, "csv": write_csv}


def peak_of_reading(folder):
    """MiB that reading adds to an interpreter that has imported everything."""
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(re.search(r"[\d.]+", done.stdout)[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", WRITE)
def test_peak_memory_of_reading_does_not_follow_the_data(tmp_path, kind):
    peaks = []
    for pieces in (SHORT, LONG):
        folder = tmp_path / str(pieces)
        folder.mkdir()
        WRITE[kind](folder, pieces)
        peaks.append(peak_of_reading(folder))
        shutil.rmtree(folder)
    print(f"{kind}: {peaks[0]:.0f} MiB, of three times the rows {peaks[1]:.0f} MiB")
    assert peaks[1] - peaks[0] < MORE / 2
