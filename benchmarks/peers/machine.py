"""What ran where: processor, memory, versions, threads, and the GEMM peak of this run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .processes import Limits, environment_of

__all__ = ["describe", "gemm_peak", "has_gpu"]

_OWN = ("torchgmm", "torch", "numpy", "scipy", "scikit-learn", "matplotlib")


def describe(limits: Limits) -> dict[str, Any]:
    """The machine and the settings of the run, for the JSON."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "ram_gib": _ram_gib(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _OWN},
        "commit": _commit(),
        "threads": limits.threads,
        "limit_seconds": limits.seconds,
        "limit_gib": limits.gib,
        **(_gpu() if limits.gpu else {}),
    }


def gemm_peak(limits: Limits, folder: Path) -> dict[str, float]:
    """Operations per second of `torch.mm` by dtype, in a process of its own.

    On a GPU also bytes per second: `memory` of it, `host` for the way there.
    """
    out = folder / "peak.json"
    worker = Path(__file__).parent / "workers" / "peak.py"
    subprocess.run(
        [sys.executable, str(worker), str(out), limits.device],
        check=True,
        env=environment_of(limits.threads, None),
    )
    found = dict(json.loads(out.read_text())["flops"])
    out.unlink()
    return found


def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def _gpu() -> dict[str, Any]:
    """The name and memory of the GPU, and the version of its driver's interface."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None}
    p = torch.cuda.get_device_properties(0)
    return {
        "gpu": f"{p.name}, {p.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
        "triton": _version("triton"),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _ram_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def _commit() -> str | None:
    """The commit, with a + where the tree differs from it."""
    here = Path(__file__).parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=here,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()
