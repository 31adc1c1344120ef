"""Exact EM on rows in memory, in a .npy file and in parquet shards: speed and peak memory.

python benchmarks/streaming.py --rows 50000000 --folder /tmp/streaming   # 20 GB on disk
python benchmarks/streaming.py --rows 5000000 --folder /tmp/streaming    # a tenth
python benchmarks/streaming.py ... --sources memory parquet              # some of the columns

`parquet` has small row groups of numbers as they are; `defaults` is what `pyarrow.write_table`
writes unasked: row groups of a million rows, dictionaries as long as they fit, snappy.

Each case runs in a process of its own, so that its peak of resident memory is its own. Prints a
Markdown table: seconds per step (the median of the steps after the first), rows per second, the
ratio to rows in memory, peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FEATURES, SHARDS = 32, 10
MODELS = {"diagonal": 64, "full": 32}
ENCODINGS: dict[str, dict[str, Any]] = {
    "parquet": {"row_group_size": 65_536, "compression": "none", "use_dictionary": False},
    "defaults": {},
}
SOURCES = ("memory", "npy", *ENCODINGS)


def part(number: int, rows: int) -> np.ndarray:
    """Rows of one shard: 64 clusters, always the same for the same number."""
    means = np.random.default_rng(0).normal(size=(64, FEATURES)).astype(np.float32) * 3
    rng = np.random.default_rng((1, number))
    return means[rng.integers(64, size=rows)] + rng.standard_normal(
        (rows, FEATURES), dtype=np.float32
    )


def make(folder: Path, rows: int, sources: Sequence[str]) -> None:
    """The same rows as one .npy file and as parquet shards, what of it is read and not there."""
    starts = range(0, rows, rows // SHARDS)
    shards = [(i, start, min(rows // SHARDS, rows - start)) for i, start in enumerate(starts)]
    if {"memory", "npy"} & set(sources) and _missing(folder, "npy", rows):
        out = np.lib.format.open_memmap(
            folder / "rows.npy", mode="w+", dtype=np.float32, shape=(rows, FEATURES)
        )
        for number, start, count in shards:
            out[start : start + count] = part(number, count)
        out.flush()
        _done(folder, "npy", rows).touch()
    for kind in ENCODINGS.keys() & set(sources):
        if _missing(folder, kind, rows):
            (folder / kind).mkdir(exist_ok=True)
            for number, _, count in shards:
                write_shard(folder / kind / f"part-{number:03d}.parquet", part(number, count), kind)
            _done(folder, kind, rows).touch()


def write_shard(path: Path, x: np.ndarray, kind: str) -> None:
    """Rows as a parquet file, a column for each feature."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"x{j}": pa.array(np.ascontiguousarray(column)) for j, column in enumerate(x.T)}
    pq.write_table(pa.table(columns), path, **ENCODINGS[kind])


def _done(folder: Path, kind: str, rows: int) -> Path:
    return folder / f"done-{kind}-{rows}"


def _missing(folder: Path, kind: str, rows: int) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    return not _done(folder, kind, rows).exists()


def peak_mb() -> float:
    """Peak resident memory of this process; `ru_maxrss` would count its parent's before exec."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(source: str, family: str, folder: Path, steps: int) -> dict[str, float | str]:
    """Run in its own process: fit a few steps from a fixed start."""
    import torch

    import torchgmm as tg

    warnings.simplefilter("ignore")
    data = {
        "memory": lambda: torch.from_numpy(np.load(folder / "rows.npy")),
        "npy": lambda: folder / "rows.npy",
    }.get(source, lambda: folder / source)()
    k = MODELS[family]
    mixture = tg.GaussianMixture(k, FEATURES, family)
    first = part(0, 100_000)
    start = tg.GaussianMixture(k, FEATURES, family)
    start.fit(first, tg.EM(max_iter=0), generator=0)
    p = start.as_parameters(torch.float64).map(torch.Tensor.detach)
    result = tg.fit(mixture, data, tg.EM(max_iter=steps), init=p, stop=tg.Tolerance(0))
    times = [step.seconds for step in result.history]
    return {
        "source": source,
        "family": f"{family}, K={k}",
        "seconds": statistics.median(times[1:]) if len(times) > 1 else times[0],
        "rows": result.history[0].rows,
        "peak_mb": peak_mb(),
        "log_likelihood": result.log_likelihood,
    }


def main() -> None:
    """Make the data, run every case, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--only-make", action="store_true", help="make the data and stop")
    parser.add_argument("--case", nargs=2, metavar=("SOURCE", "FAMILY"))
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(*arguments.case, arguments.folder, arguments.steps)))
        return
    make(arguments.folder, arguments.rows, arguments.sources)
    if arguments.only_make:
        return
    print("| model | rows in | s per step | rows/s | of memory's speed | peak MB | nats per row |")
    print("|---|---|---|---|---|---|---|")
    for family in MODELS:
        memory = 0.0
        for source in arguments.sources:
            command = [sys.executable, __file__, "--folder", str(arguments.folder)]
            command += ["--steps", str(arguments.steps), "--case", source, family]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            speed = found["rows"] / found["seconds"]
            memory = memory or speed
            print(
                f"| {found['family']} | {source} | {found['seconds']:.1f} | {speed:,.0f} | "
                f"{speed / memory:.0%} | {found['peak_mb']:.0f} | {found['log_likelihood']:.6f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
