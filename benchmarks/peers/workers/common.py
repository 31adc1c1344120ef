"""What every worker does: read jobs, load rows and start, measure, write. Needs NumPy alone.

A worker is a script for one system, run by the Python of that system's environment as
`python with_x.py JOB [JOB ...]`. A JOB is a folder with `job.json`; the worker leaves `result.json`
and the parameters there. Nothing of the project under test is imported here.
"""

from __future__ import annotations

import contextlib
import gc
import json
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Answer",
    "Clock",
    "DeviceMemory",
    "Job",
    "Start",
    "UnsupportedError",
    "Worker",
    "hook",
    "main",
    "measure",
]


class UnsupportedError(Exception):
    """The system has no such family, dtype or start: not a failure."""


class Answer(NamedTuple):
    """What a system returned; covariances in scikit-learn's shapes."""

    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    covariances: np.ndarray  # full (K, D, D), diagonal (K, D), tied (D, D)
    n_steps: int


class Start(NamedTuple):
    """Where the steps begin, in float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


@dataclass
class Clock:
    """Times of steps: a hook in the system's own loop calls `stamp` once per step.

    On a GPU the stamps are events in its own queue, so that nothing waits for the clock.
    """

    seconds: list[float] = field(default_factory=list)
    gpu: bool = False
    _last: float | None = None
    _events: list[tuple[Any, int]] = field(default_factory=list)

    def read(self) -> list[float]:
        """The seconds of every step."""
        if self._events:
            self._events[-1][0].synchronize()
            pairs = zip(self._events, self._events[1:], strict=False)
            each = ((a.elapsed_time(b) / 1000, steps) for (a, _), (b, steps) in pairs)
            self.seconds = [s / steps for s, steps in each for _ in range(steps)]
        return self.seconds

    def stamp(self, steps: int = 1) -> None:
        """One more step begins, and the one before is over; or so many that went together."""
        if self.gpu:
            import torch

            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((event, steps))
            return
        now = time.perf_counter()
        if self._last is not None:
            self.seconds += [(now - self._last) / steps] * steps
        self._last = now


@dataclass(frozen=True)
class Job:
    """What to measure; the fields are those of `job.json`."""

    kind: str  # steps | fit
    rows: str
    start: str
    family: str  # full | diagonal | tied
    n_components: int
    dtype: str
    steps: int
    repeats: int
    tol: float
    max_iter: int
    reg_covar: float
    threads: int
    limit_seconds: float
    options: dict[str, Any]
    device: str = "cpu"

    @property
    def gpu(self) -> bool:
        """Whether it runs on one."""
        return self.device != "cpu"

    def load_rows(self) -> np.ndarray:
        """The rows in the dtype of the computation, `(N, D)`."""
        return np.load(self.rows).astype(self.dtype)

    def load_start(self) -> Start:
        """The common start."""
        folder = Path(self.start)
        return Start(*(np.load(folder / f"{name}.npy") for name in Start._fields))


class Worker:
    """One system. `steps` and `fit` hand back a model of any kind, which `answer` reads."""

    packages: Sequence[str] = ()

    def __call__(self, job: Job, folder: Path) -> dict[str, Any]:
        """Do one job."""
        return measure(self, job, folder)

    def steps(self, job: Job, x: np.ndarray, start: Start, clock: Clock) -> Any:
        """Exactly `job.steps` EM steps from the start, the clock told of each."""
        raise NotImplementedError

    def fit(self, job: Job, x: np.ndarray, seed: int) -> Any:
        """A fit from raw rows, the system's own seeding and defaults, to `job.tol`."""
        raise NotImplementedError

    def answer(self, job: Job, model: Any) -> Answer:
        """The parameters of a model."""
        raise NotImplementedError

    def note(self, model: Any) -> str:
        """A word on how it was done, for the table."""
        return ""


def hook(owner: Any, name: str, clock: Clock) -> None:
    """Stamp the clock at every call of `owner.name`, which the system calls once per step."""
    own: Callable[..., Any] = getattr(owner, name)

    def stamped(*args: Any, **kwargs: Any) -> Any:
        clock.stamp()
        return own(*args, **kwargs)

    setattr(owner, name, stamped)


def main(do: Callable[[Job, Path], dict[str, Any]]) -> None:
    """Do the jobs named on the command line, one after another."""
    for name in sys.argv[1:]:
        folder = Path(name)
        job = Job(**json.loads((folder / "job.json").read_text()))
        try:
            result = do(job, folder)
        except UnsupportedError as error:
            result = {"status": "unsupported", "reason": str(error)}
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            result = {"status": "failed", "reason": f"{type(error).__name__}: {lines[0]}"}
        part = folder / "result.json.partial"  # a killed worker leaves no half of a result
        part.write_text(json.dumps(result, indent=1))
        part.replace(folder / "result.json")


def measure(worker: Worker, job: Job, folder: Path) -> dict[str, Any]:
    """The result of one job; its parameters are left in the folder."""
    x = job.load_rows()
    start = job.load_start()
    if job.gpu:
        _emptied()
    _warm_up(worker, job, x, start)
    before = _memory("VmRSS")
    _reset_peak()
    memory = DeviceMemory(job)
    answers, seconds, note = [], [], ""
    if job.kind == "steps":
        clock = Clock(gpu=job.gpu)
        began = time.perf_counter()
        model = worker.steps(job, x, start, clock)
        total = time.perf_counter() - began
        answers.append(worker.answer(job, model))
        note = worker.note(model)
        seconds = clock.read()
    else:
        for seed in range(job.repeats):
            began = time.perf_counter()
            model = worker.fit(job, x, seed)
            seconds.append(time.perf_counter() - began)
            answers.append(worker.answer(job, model))
            note = worker.note(model)
            if sum(seconds) > job.limit_seconds / 3:
                break  # a few slow fits tell as much as many
        total = sum(seconds)
    for i, answer in enumerate(answers):
        for name in Start._fields:
            np.save(folder / f"{name}-{i}.npy", np.asarray(getattr(answer, name), dtype=np.float64))
    return {
        "status": "ok",
        "seconds": seconds,
        "total_seconds": total,
        "n_steps": [int(answer.n_steps) for answer in answers],
        "rss_before_mb": before,
        "note": note,
        "peak_mb": _memory("VmHWM"),
        **memory.read(),
        "versions": _versions(worker.packages),
    }


def _warm_up(worker: Worker, job: Job, x: np.ndarray, start: Start) -> None:
    """Once on a few rows: the first call of anything loads libraries and makes pools of threads."""
    few = x[: max(1024, 4 * job.n_components)].copy()
    if job.gpu:  # kernels are compiled and chosen by size there
        few = x
    try:
        if job.kind == "steps":
            worker.steps(replace(job, steps=2), few, start, Clock(gpu=job.gpu))
        else:
            worker.fit(replace(job, max_iter=2), few, 0)
    except UnsupportedError:
        raise
    except Exception as error:
        # so few rows may be too few for some systems; the rows that count come next
        print(f"warm-up: {type(error).__name__}: {error}")


def _emptied() -> None:
    """Give back what the job before left on the device."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


class DeviceMemory:
    """Megabytes of a GPU that torch's allocator gave out: at most, and of that the rows."""

    def __init__(self, job: Job) -> None:
        self._rows = None
        if job.gpu:
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            on_host = job.options.get("rows") == "host"
            shape = np.load(job.rows, mmap_mode="r").shape
            self._rows = 0 if on_host else shape[0] * shape[1] * np.dtype(job.dtype).itemsize

    def read(self) -> dict[str, float]:
        """Both figures, under the names of those of the process; nothing without a GPU."""
        if self._rows is None:
            return {}
        import torch

        most = torch.cuda.max_memory_allocated() / 2**20
        return {"peak_mb": most, "rss_before_mb": self._rows / 2**20}


def _reset_peak() -> None:
    # Not Linux, or not allowed: the peak is then that of the whole process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _memory(what: str) -> float:
    """Resident megabytes (2^20) of this process, now (VmRSS) or at most (VmHWM)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("numpy", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "?"
    return found
