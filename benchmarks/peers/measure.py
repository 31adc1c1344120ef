"""From a system and a case to a record: makes the job, runs the worker, scores what it returned."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import data
from .cases import Case
from .processes import Limits, run
from .score import mean_log_likelihood
from .systems import ROOT, NotInstalledError, System, command, site_of

__all__ = ["TOL", "merged", "one", "several"]

# The level of an answer is computed by SciPy on the CPU: of a run on a GPU on so many rows.
SCORED_ROWS = 8192
TOL, MAX_ITER, REG_COVAR = 1e-3, 100, 1e-6  # scikit-learn's defaults


def one(system: System, case: Case, out: Path, environments: Path, limits: Limits) -> dict:
    """The record of one case in a process of its own."""
    return several(system, [case], out, environments, limits)[0]


def several(
    system: System, cases: list[Case], out: Path, environments: Path, limits: Limits
) -> list[dict]:
    """Records of several cases in one process: the points of a curve."""
    try:
        called, options = command(system, environments)
    except NotInstalledError as error:
        missing = {"status": "not installed", "reason": str(error)}
        return [_record(system, case, missing, limits) for case in cases]
    limits = replace(limits, pinned=system.pinned)
    jobs = [_job(system, case, out, options, limits) for case in cases]
    root = ROOT if system.ours else site_of(system, environments)
    results = run(called, jobs, limits, root)
    records = []
    for case, job, result in zip(cases, jobs, results, strict=True):
        if result["status"] == "ok":
            result |= _scored(case, job, out, result, SCORED_ROWS if limits.gpu else case.n)
        records.append(_record(system, case, result, limits))
    return records


def merged(records: list[dict]) -> dict:
    """One record of several rounds of the same thing: all times together, the worst status."""
    bad = [r for r in records if r["status"] != "ok"]
    if bad:
        return bad[0]
    together = dict(records[0])
    together["seconds"] = [s for r in records for s in r["seconds"]]
    together["median_seconds"] = statistics.median(
        s for r in records for s in _counted(r["seconds"])
    )
    together["peak_mb"] = max(r["peak_mb"] for r in records)
    return together


def _job(system: System, case: Case, out: Path, options: dict[str, Any], limits: Limits) -> Path:
    rows, start = data.make(case, out / "data")
    folder = out / "jobs" / case.slug / system.name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "kind": case.kind,
        "rows": str(rows),
        "start": str(start),
        "family": case.family,
        "n_components": case.k,
        "dtype": system.dtype,
        "steps": 2 if _is_aside(system, limits) else case.steps,
        "repeats": case.repeats,
        "tol": TOL,
        "max_iter": MAX_ITER,
        "reg_covar": REG_COVAR,
        "threads": limits.threads,
        "limit_seconds": limits.seconds,
        "options": options,
        "device": system.device or limits.device,
    }
    (folder / "job.json").write_text(json.dumps(job, indent=1))
    return folder


def _scored(case: Case, job: Path, out: Path, result: dict, n_rows: int) -> dict:
    """The log-likelihood of every answer of a job, on the first rows; no answer that is none."""
    rows, _ = data.make(case, out / "data")
    x = np.load(rows, mmap_mode="r")[:n_rows]
    levels = []
    for i in range(len(result["n_steps"])):
        given = [np.load(job / f"{name}-{i}.npy") for name in ("weights", "means", "covariances")]
        levels.append(mean_log_likelihood(x, *given, case.family))
    good = [level for level in levels if math.isfinite(level)]
    if len(good) < len(levels):
        reason = f"{len(levels) - len(good)} of {len(levels)} answers hold NaN or no covariances"
        return {"status": "no mixture", "reason": reason}
    if not result["seconds"]:
        return {"status": "failed", "reason": "it stopped before a step could be timed"}
    seconds = statistics.median(_counted(result["seconds"]))
    if seconds <= 0:
        return {
            "status": "failed",
            "reason": "lost in noise: two runs differ by nothing",
        }
    return {
        "median_seconds": seconds,
        "log_likelihoods": levels,
        "log_likelihood": statistics.median(levels),
    }


def _counted(seconds: list[float]) -> list[float]:
    """Times without the first: it fills caches, compiles, or has no step before to learn from."""
    return seconds[1:] if len(seconds) > 1 else seconds


def _is_aside(system: System, limits: Limits) -> bool:
    """Whether it runs on the CPU in a run on a GPU, for the ratio alone: so few steps will do."""
    return limits.gpu and system.device == "cpu"


def _record(system: System, case: Case, result: dict, limits: Limits) -> dict:
    who = {
        "system": system.name,
        "label": system.label,
        "dtype": system.dtype,
        "ours": system.ours,
        "aside": _is_aside(system, limits),
        "on_gpu": limits.gpu and not system.device,
    }
    return {"case": case.name, **asdict(case), **who, **result}
