"""One virtual environment per peer, so that nobody's pins are another's.

python -m benchmarks.peers.environments --environments ~/.cache/torchgmm-peers
python -m benchmarks.peers.environments --only tgmm gmmx

torch is installed first, at the version of this project's constraints, so that no peer pulls in
another build of it. On a machine without a GPU give `--torch-index
https://download.pytorch.org/whl/cpu` unless pip is already set up to find a CPU build: the default
build for Linux brings gigabytes of CUDA libraries. A peer that cannot be installed is told so and
left out; the benchmark then shows it as not installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DEFAULT_FOLDER",
    "ENVIRONMENTS",
    "Environment",
    "build_armadillo",
    "make",
    "python_of",
]

DEFAULT_FOLDER = Path.home() / ".cache" / "torchgmm-peers"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Environment:
    """What one environment holds; `first` is installed before the peer chooses for itself."""

    name: str
    requirements: tuple[str, ...]
    first: tuple[str, ...] = (TORCH,)


# The PyPI project `torchgmm` is another author's and has the import name of this one: it must
# never share an environment with it.
ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("scikit-learn", ("scikit-learn==1.9.*", "array-api-compat")),
        Environment("tgmm", ("tgmm==0.4.3",)),
        Environment("pypi-torchgmm", ("torchgmm==0.1.4",)),
        Environment("pomegranate", ("pomegranate==1.1.*",)),
        # its seeding is scikit-learn's k-means, which it does not say it needs
        Environment("gmmx", ("gmmx==0.7", "scikit-learn==1.9.*"), first=("jax[cpu]",)),
        Environment("gmm-gpu", ("gmm-gpu==0.2.8",)),
    )
}


def python_of(folder: Path, name: str) -> Path | None:
    """The interpreter of a finished environment, or None."""
    home = folder / name
    return home / "bin" / "python" if (home / "installed.json").exists() else None


def make(environment: Environment, folder: Path, torch_index: str | None) -> str | None:
    """Make one environment, unless it is there; the reason if it could not be made."""
    home = folder / environment.name
    if python_of(folder, environment.name):
        return None
    home.mkdir(parents=True, exist_ok=True)
    venv.create(home, with_pip=True, clear=True)
    python = home / "bin" / "python"
    index = ["--index-url", torch_index] if torch_index and TORCH in environment.first else []
    steps = [[*environment.first, *index], [*environment.first, *environment.requirements]]
    log = folder / f"{environment.name}.log"
    with log.open("w") as lines:
        for packages in steps:
            command = [str(python), "-m", "pip", "install", *packages]
            done = subprocess.run(command, stdout=lines, stderr=subprocess.STDOUT, env=_clean())
            if done.returncode:
                return f"pip install {' '.join(packages)} failed, see {log}"
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"],
        check=True,
        stdout=subprocess.PIPE,
        env=_clean(),
    )
    versions = {p["name"]: p["version"] for p in json.loads(listed.stdout)}
    (home / "installed.json").write_text(json.dumps(versions, indent=1))
    return None


def build_armadillo(folder: Path) -> Path:
    """The program of `armadillo.cpp` for this machine, compiled unless it is there.

    Raises:
        OSError: there is no compiler.
        subprocess.CalledProcessError: it refused, with its words in `stderr`.
    """
    source = Path(__file__).parent / "workers" / "armadillo.cpp"
    flags = ["-O3", "-march=native", "-fopenmp", "-DARMA_NO_DEBUG"]
    mark = hashlib.sha256(source.read_bytes() + repr(flags).encode()).hexdigest()[:12]
    program = folder / "armadillo" / mark
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        part = program.with_suffix(".partial")
        subprocess.run(
            ["g++", *flags, str(source), "-o", str(part), "-larmadillo"],
            check=True,
            capture_output=True,
            text=True,
        )
        part.replace(program)
    return program


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def main() -> int:
    """Make all environments, or those named; the number that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environments", type=Path, default=DEFAULT_FOLDER, metavar="FOLDER")
    parser.add_argument("--only", nargs="*", choices=list(ENVIRONMENTS), default=None)
    parser.add_argument("--torch-index", default=None, metavar="URL")
    arguments = parser.parse_args()
    folder = arguments.environments.expanduser().resolve()
    failed = 0
    for name in arguments.only or ENVIRONMENTS:
        reason = make(ENVIRONMENTS[name], folder, arguments.torch_index)
        failed += reason is not None
        print(f"{name}: {reason or 'ready'}", flush=True)
    if arguments.only is None:
        try:
            print(f"armadillo: ready, {build_armadillo(folder)}")
        except (OSError, subprocess.CalledProcessError) as error:
            failed += 1
            print(f"armadillo: {getattr(error, 'stderr', None) or error}")
            print("it comes from the system: apt-get install libarmadillo-dev libopenblas-dev g++")
    return failed


if __name__ == "__main__":
    sys.exit(main())
