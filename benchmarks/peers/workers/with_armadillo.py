"""Armadillo: hands a job to the compiled program of `armadillo.cpp`, which measures, and back.

The options of the job name the program. Everything timed happens inside it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from common import Job, Start, main

__all__: list[str] = []


def do(job: Job, folder: Path) -> dict[str, Any]:
    """Run one job."""
    if job.family == "tied":
        return {"status": "unsupported", "reason": "no tied covariances"}
    x = job.load_rows()
    start = job.load_start()
    begin = folder / "start"
    begin.mkdir(exist_ok=True)
    for name, array in start._asdict().items():
        array.tofile(begin / f"{name}.bin")
    x.tofile(folder / "rows.bin")
    fields = dict(job.__dict__) | {"n_rows": len(x), "n_features": x.shape[1]}
    fields |= {"rows": folder / "rows.bin", "start": begin}
    (folder / "job.txt").write_text("".join(f"{k}={v}\n" for k, v in fields.items()))
    shapes = [array.shape for array in start]
    del x
    try:
        done = subprocess.run(
            [job.options["program"], str(folder)], stderr=subprocess.PIPE, text=True
        )
    finally:
        (folder / "rows.bin").unlink()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"status": "failed", "reason": last}
    said = dict(line.split("=", 1) for line in (folder / "result.txt").read_text().splitlines())
    seconds = [float(s) for s in said["seconds"].split()]
    for i in range(len(said["n_steps"].split())):
        for name, shape in zip(Start._fields, shapes, strict=True):
            numbers = np.fromfile(folder / f"{name}-{i}.bin").reshape(shape)
            np.save(folder / f"{name}-{i}.npy", numbers)
    return {
        "status": "ok",
        "seconds": seconds,
        "total_seconds": sum(seconds),
        "n_steps": [int(n) for n in said["n_steps"].split()],
        "rss_before_mb": float(said["before"]),
        "peak_mb": float(said["peak"]),
        "versions": {"armadillo": said["version"]},
    }


if __name__ == "__main__":
    main(do)
