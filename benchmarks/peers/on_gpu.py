"""What is measured on a GPU, by whom, and what others have published of theirs."""

from __future__ import annotations

from typing import NamedTuple

from .cases import DIAGONAL, FULL, SPHERICAL, TIED, Case
from .systems import DEFAULT, HOST, OURS, System

__all__ = ["PUBLISHED", "Published", "cases", "systems", "takes"]

_CASES = (
    Case(1_000_000, 64, 64, FULL, steps=11),
    Case(100_000, 32, 16, FULL, steps=101),
    Case(1_000_000, 16, 32, FULL, steps=21),
    Case(1_000_000, 128, 1024, SPHERICAL, steps=7),
    Case(1_000_000, 128, 1024, DIAGONAL, steps=7),
    Case(1_000_000, 64, 64, DIAGONAL, steps=21),
    Case(1_000_000, 64, 64, TIED, steps=11),
    Case(1_000_000, 32, 512, FULL, steps=4),
)
_QUICK = (Case(100_000, 16, 16, FULL, steps=11), Case(100_000, 16, 16, DIAGONAL, steps=11))


def cases(quick: bool) -> list[Case]:
    """The cases, the most asked for first."""
    return list(_QUICK if quick else _CASES)


def systems(quick: bool = False) -> list[System]:
    """This project by its kernels, the same from rows on the host, and who else runs on CUDA.

    What the goals are about comes first: a run may end before the last.
    """

    def ours(name: str, dtype: str = "float32", **options: str) -> System:
        label = f"{OURS} {name}".strip()
        return System(label, "with_torchgmm.py", dtype, options=options, fits=False)

    # What most people run today: on the CPU, two steps, of which one counts.
    label, dtype = DEFAULT.rsplit(" ", 1)
    worker, torch = "with_scikit_learn.py", {"torch": True}
    found = [
        ours(""),
        ours("triton_quadratic", kernel="triton_quadratic"),
        ours(HOST, rows="host"),
        System("scikit-learn on torch", worker, "float32", "scikit-learn", torch),
        System(label, worker, dtype, "scikit-learn", {}, device="cpu"),
    ]
    for label, worker, environment in (
        ("tgmm", "with_tgmm.py", "tgmm"),
        ("PyPI torchgmm", "with_pypi_torchgmm.py", "pypi-torchgmm"),
        ("gmm-gpu", "with_gmm_gpu.py", "gmm-gpu"),
    ):
        found.append(System(label, worker, "float32", environment))
    found += [
        ours("10 steps a look", check_every="10"),
        ours("triton_quadratic:tf32x3", kernel="triton_quadratic:tf32x3"),
        ours("triton", kernel="triton"),
        ours("triton:tf32x3", kernel="triton:tf32x3"),
        ours("quadratic", kernel="quadratic"),
        ours("quadratic:tf32x3", kernel="quadratic:tf32x3"),
        ours("dense", kernel="dense"),
        ours("10 steps a look, no graph", check_every="10", cuda_graph="never"),
        ours("screened", kernel="screened"),
    ]
    if not quick:
        found += [
            ours("triton:tf32", kernel="triton:tf32"),
            ours("triton:bf16", kernel="triton:bf16"),
            ours("", "float64"),
        ]
    return found


def takes(system: System, case: Case) -> bool:
    """Whether a system is worth the time: what runs on the CPU is, on the smaller cases."""
    return system.device != "cpu" or case.k <= 64


class Published(NamedTuple):
    """A figure that its authors published; nothing of it was run here."""

    system: str
    case: str
    figure: str
    on: str
    source: str


PUBLISHED = (
    Published(
        "PyCave 3", "100,000×32→16 full", "2.4 s for 100 steps", "GeForce GTX 1080 Ti", "its README"
    ),
    Published(
        "PyCave 3",
        "1,000,000×64→64 diagonal",
        "7.7 s for 100 steps",
        "GeForce GTX 1080 Ti",
        "its README",
    ),
    Published(
        "Flash-GMM",
        "1,000,000×128→1024 diagonal",
        "152 ms an E-step and sums, 4.5 MB",
        "A100",
        "arXiv 2606.10896",
    ),
)
