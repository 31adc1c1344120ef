"""Who is measured: for each system its worker, its environment, and what it is asked for."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .environments import build_armadillo, python_of

__all__ = [
    "DEFAULT",
    "HOST",
    "OURS",
    "ROOT",
    "NotInstalledError",
    "System",
    "all_systems",
    "chosen",
    "command",
    "site_of",
]

WORKERS = Path(__file__).parent / "workers"
ROOT = Path(__file__).parents[2]

# scikit-learn as most people call it: NumPy rows of float64
DEFAULT = "scikit-learn float64"
OURS = "torchgmm"
HOST = "from the host"


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        label: the name, without the dtype.
        worker: a script of `workers/`.
        environment: whose Python runs it; None is this one.
        options: handed to the worker.
        fits: whether whole fits are asked for (of our own kernels only `auto`'s are).
        in_curves: whether it takes part in the curves.
        pinned: whether it must be bound to cores, because it obeys no number of threads.
        device: where it runs whatever the others do; empty where the run decides.
    """

    label: str
    worker: str
    dtype: str
    environment: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    fits: bool = True
    in_curves: bool = True
    pinned: bool = False
    device: str = ""

    @property
    def name(self) -> str:
        """Unique: the label and the dtype."""
        return f"{self.label} {self.dtype}"

    @property
    def ours(self) -> bool:
        """Whether it is this project."""
        return self.worker == "with_torchgmm.py"


def all_systems(quick: bool = False) -> list[System]:
    """Every system at every dtype that it is asked for."""
    from torchgmm.kernels import kernels

    found = [System(OURS, "with_torchgmm.py", dtype) for dtype in ("float32", "float64")]
    for kernel in kernels():
        if kernel == "auto" or kernel.startswith("triton"):
            continue  # the system without a kernel's name; what runs on a GPU alone
        for dtype in ("float32",) if quick else ("float32", "float64"):
            found.append(
                System(
                    f"{OURS} {kernel}",
                    "with_torchgmm.py",
                    dtype,
                    options={"kernel": kernel},
                    fits=False,
                    in_curves=False,
                )
            )
    for dtype in ("float64", "float32"):
        found.append(System("scikit-learn", "with_scikit_learn.py", dtype, "scikit-learn"))
    found.append(
        System(
            "scikit-learn on torch",
            "with_scikit_learn.py",
            "float32",
            "scikit-learn",
            {"torch": True},
            in_curves=False,
        )
    )
    for dtype in ("float64", "float32"):
        found.append(System("Armadillo", "with_armadillo.py", dtype, "armadillo"))
    for label, worker, environment in (
        ("tgmm", "with_tgmm.py", "tgmm"),
        ("PyPI torchgmm", "with_pypi_torchgmm.py", "pypi-torchgmm"),
        ("pomegranate", "with_pomegranate.py", "pomegranate"),
        ("gmmx", "with_gmmx.py", "gmmx"),
        ("gmm-gpu", "with_gmm_gpu.py", "gmm-gpu"),
    ):
        pinned = environment == "gmmx"  # JAX
        found.append(
            System(label, worker, "float32", environment, in_curves=not quick, pinned=pinned)
        )
    return found


def chosen(
    patterns: list[str] | None,
    dtypes: list[str] | None,
    quick: bool = False,
    found: list[System] | None = None,
) -> list[System]:
    """Those whose label or name matches one of the shell patterns, all without any."""
    found = all_systems(quick) if found is None else found
    if patterns:
        found = [
            s
            for s in found
            if any(fnmatch.fnmatch(n, p) for p in patterns for n in (s.label, s.name))
        ]
    return [s for s in found if not dtypes or s.dtype in dtypes]


def site_of(system: System, environments: Path) -> Path | None:
    """A folder of packages for this interpreter, where a peer has no environment of its own.

    As `pip install --no-deps --target ENVIRONMENTS/NAME/site WHEEL` leaves it: for a machine that
    has torch and reaches no registry.
    """
    folder = environments / (system.environment or "-") / "site"
    return folder if folder.is_dir() else None


class NotInstalledError(Exception):
    """The environment of a system is not there."""


def command(system: System, environments: Path) -> tuple[list[str], dict[str, Any]]:
    """How its worker is called, without the jobs, and the options of its jobs.

    Raises:
        NotInstalledError: with what to do about it.
    """
    script = str(WORKERS / system.worker)
    options = dict(system.options)
    if system.environment == "armadillo":
        try:
            options["program"] = str(build_armadillo(environments))
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            why = next((line for line in said if "error" in line), said[0] if said else "")
            raise NotInstalledError(f"cannot compile: {why}") from error
        return [sys.executable, script], options
    if system.environment is None:
        return [sys.executable, script], options
    python = python_of(environments, system.environment)
    if python is None and system.environment == "scikit-learn":
        # this project's own tests need it, so it is most likely here as well
        return [sys.executable, script], options
    if python is None and site_of(system, environments) is not None:
        return [sys.executable, script], options
    if python is None:
        raise NotInstalledError(f"no environment {environments / system.environment}")
    return [str(python), script], options
