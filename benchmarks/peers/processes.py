"""One worker in a process of its own, under a limit of time and of memory."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Limits", "environment_of", "run"]


@dataclass(frozen=True)
class Limits:
    """What one process may take, and where it computes.

    `seconds` are per job, `pinned` binds it to `threads` cores; past `until`, a reading of
    `time.monotonic`, nothing goes on.
    """

    seconds: float = 600
    gib: float = 12
    threads: int = 1
    pinned: bool = False
    device: str = "cpu"
    until: float = math.inf

    @property
    def gpu(self) -> bool:
        """Whether the systems are asked to run on one."""
        return self.device != "cpu"


def run(command: list[str], jobs: list[Path], limits: Limits, root: Path | None) -> list[dict]:
    """Results of the jobs, in their order, whatever happens to the process.

    Args:
        command: the worker, to which the folders of the jobs are appended.
        jobs: folders with `job.json`.
        limits: what it may take.
        root: put on PYTHONPATH: this project for itself alone, so that no peer can import it, and
            the packages of a peer that has no environment.
    """
    for job in jobs:
        (job / "result.json").unlink(missing_ok=True)
    log = jobs[0] / "worker.log"
    with log.open("w") as lines:
        process = subprocess.Popen(
            [*command, *(str(job) for job in jobs)],
            stdout=lines,
            stderr=subprocess.STDOUT,
            env=environment_of(limits.threads, root),
            cwd=jobs[0],
            start_new_session=True,
            preexec_fn=(lambda: _pin(limits.threads)) if limits.pinned else None,
        )
        killed = _watch(process, limits, len(jobs))
    return [_result(job, killed or _how(process.returncode, log)) for job in jobs]


def environment_of(threads: int, root: Path | None) -> dict[str, str]:
    """The variables of a worker: the same number of threads for every library."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
        kept[f"{name}_NUM_THREADS"] = str(threads)
    kept |= {"PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "JAX_PLATFORMS": "cpu"}
    if root is not None:
        kept["PYTHONPATH"] = str(root)
    return kept


def _pin(threads: int) -> None:
    """Bind the process to so many cores, where no variable sets the number of its threads."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if threads < len(cores):
            os.sched_setaffinity(0, cores[:threads])


def _watch(process: subprocess.Popen, limits: Limits, n_jobs: int) -> dict[str, str] | None:
    """Wait; kill the process and say why where it takes too much."""
    end = min(time.monotonic() + limits.seconds * n_jobs, limits.until)
    while True:
        try:
            process.wait(timeout=0.1)
            return None
        except subprocess.TimeoutExpired:
            pass
        reason = None
        if time.monotonic() > end:
            over = end >= limits.until
            why = "the run was over" if over else f"more than {limits.seconds:g} s"
            reason = {"status": "out of time", "reason": why}
        elif _resident(process.pid) > limits.gib * 2**30:
            reason = {"status": "out of memory", "reason": f"more than {limits.gib:g} GiB"}
        if reason:
            os.killpg(process.pid, signal.SIGKILL)  # the group is its own: start_new_session
            process.wait()
            return reason


def _resident(pid: int) -> int:
    """Resident bytes of a process and its children; 0 where there is no /proc."""
    home = Path(f"/proc/{pid}")
    try:
        pages = int((home / "statm").read_text().split()[1])
        children = (home / "task" / str(pid) / "children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(_resident(int(child)) for child in children)


def _how(returncode: int, log: Path) -> dict[str, str]:
    last = (log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]
    return {"status": "failed", "reason": f"exit status {returncode}: {last[:160]}"}


def _result(job: Path, otherwise: dict[str, str]) -> dict[str, Any]:
    path = job / "result.json"
    return json.loads(path.read_text()) if path.exists() else dict(otherwise)
