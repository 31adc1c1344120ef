"""The benchmark against other projects, on tiny cases, with what the test environment has."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from benchmarks.peers import on_gpu
from benchmarks.peers.__main__ import main
from benchmarks.peers.cases import CURVES, Case, cases, curves, flops, sized
from benchmarks.peers.pictures import draw
from benchmarks.peers.processes import Limits, run
from benchmarks.peers.score import mean_log_likelihood
from benchmarks.peers.systems import all_systems, chosen
from benchmarks.peers.table import markdown, ratios
from torchgmm.kernels import kernels

_DTYPES = ("float32", "float64")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of the whole thing: steps of two systems, and one that is not installed."""
    out = tmp_path_factory.mktemp("bench")
    asked = ["torchgmm float32", "scikit-learn float64", "pomegranate"]
    nowhere = out / "no-environments"
    line = f"--out {out} --environments {nowhere} --sizes 400x3x2 --families full --threads 1"
    status = main([*line.split(), "--systems", *asked])
    assert status == 0
    return out, json.loads((out / "results.json").read_text())


def test_a_run_leaves_its_figures(finished):
    _, found = finished
    ran = [r for r in found["results"] if r["status"] != "not installed"]
    said = {r["system"]: r.get("reason", r["status"]) for r in ran}
    assert said == {"torchgmm float32": "ok", "scikit-learn float64": "ok"}
    for r in ran:
        assert len(r["seconds"]) == r["steps"]
        assert all(s > 0 for s in r["seconds"])
        assert r["peak_mb"] >= 1
        assert r["versions"]["numpy"] != "?"
    assert found["machine"]["threads"] == 1
    assert all(found["peak_flops"][dtype] > 0 for dtype in _DTYPES)


def test_the_same_steps_from_the_same_start_end_at_the_same_mixture(finished):
    _, found = finished
    levels = [r["log_likelihood"] for r in found["results"] if r["status"] == "ok"]
    # float32 answers are rounded to 1e-7, relatively; the levels are of a few nats
    assert max(levels) - min(levels) < 1e-4


def test_a_missing_peer_is_told(finished):
    out, found = finished
    (missing,) = (r for r in found["results"] if r["status"] != "ok")
    assert (missing["label"], missing["status"]) == ("pomegranate", "not installed")
    assert "| pomegranate float32 |" in (out / "table.md").read_text()


def test_the_table_has_a_line_per_system(finished):
    out, _ = finished
    table = (out / "table.md").read_text()
    assert "### 400×3→2 full, blobs" in table
    short, long = table.split("### ")
    assert "| 400×3→2 full, blobs, s per step |" in short
    lines = [line for line in long.splitlines() if line.startswith("| ")]
    widths = {line.count("|") for line in lines}
    assert len(lines) == 1 + 3  # the head, two that ran, one that is missing
    assert widths == {11}
    assert "other answer" not in table


def test_nothing_large_is_left(finished):
    out, _ = finished
    assert sorted(p.name for p in out.iterdir()) == ["results.json", "table.md"]


def test_pictures(tmp_path):
    records = [
        _record(system=f"{label} float32", label=label, ours=label == "torchgmm", **point)
        for label in ("torchgmm", "other")
        for letter in "NDK"
        for point in (
            {"curve": letter, letter.lower(): 2**power, "median_seconds": 0.001 * 2**power}
            for power in (3, 4, 5)
        )
    ]
    (picture,) = draw(records, tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000  # lines and words: an empty frame is smaller
    growth = markdown(records, _MACHINE, {})
    assert "| torchgmm float32 | ×2.00 | ×2.00 | ×2.00 |" in growth


_MACHINE = {
    "cpu": "c",
    "cores": 2,
    "ram_gib": 1,
    "threads": 1,
    "load_before": 0.0,
    "when": "now",
    "python": "3",
    "versions": {"torch": "2"},
    "commit": None,
}


def _record(**fields):
    return {
        "case": "c",
        "n": 10,
        "d": 2,
        "k": 2,
        "family": "full",
        "data": "blobs",
        "kind": "steps",
        "steps": 2,
        "repeats": 1,
        "curve": "",
        "dtype": "float32",
        "ours": False,
        "status": "ok",
        "n_steps": [2],
        "peak_mb": 2.0,
        "rss_before_mb": 1.0,
        "log_likelihood": -1.0,
        **fields,
    }


def test_ratios_leave_other_answers_out():
    records = [
        _record(system="torchgmm float32", ours=True, median_seconds=1.0),
        _record(system="scikit-learn float64", dtype="float64", median_seconds=4.0),
        _record(system="fast and other", median_seconds=0.1, log_likelihood=-1.1),
        _record(system="fair", median_seconds=2.0, n_steps=[1]),
        {**_record(system="dead"), "status": "failed", "reason": "a|b"},
    ]
    rows = {r["system"]: r for r in ratios(records, {"float32": 320.0})}
    assert rows["torchgmm float32"]["to_default"] == 4
    assert rows["torchgmm float32"]["to_best_peer"] == 2
    assert rows["torchgmm float32"]["of_peak"] == 1  # 4·10·2·2² operations in a second
    assert not rows["fast and other"]["right"]
    text = markdown(records, _MACHINE, {"float32": 320.0})
    assert "**other answer**" in text
    assert "stopped after 1 of 2 steps" in text
    assert r"failed: a\|b" in text


@pytest.mark.parametrize("family", ["full", "diagonal", "tied"])
def test_the_score_is_the_definition(family):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) + 2
    weights, means = np.array([0.3, 0.7]), rng.normal(size=(2, 3))
    factors = rng.normal(size=(2, 3, 3))
    dense = factors @ factors.mT + np.eye(3)
    if family == "diagonal":
        given = dense.diagonal(axis1=1, axis2=2)
        dense = np.stack([np.diag(v) for v in given])
    elif family == "tied":
        given = dense[0]
        dense = np.stack([given, given])
    else:
        given = dense
    parts = [multivariate_normal(m, c).pdf(x) for m, c in zip(means, dense, strict=True)]
    expected = np.log(weights @ np.stack(parts)).mean()
    assert mean_log_likelihood(x, weights, means, given, family) == pytest.approx(expected, 1e-12)
    assert math.isnan(mean_log_likelihood(x, weights, means * math.nan, given, family))
    assert math.isnan(mean_log_likelihood(x, weights, means, -given, family))


# What a worker may do, and what is said of it. The times are far from the limits.
_IN_PROC = Path("/proc/self/statm").exists()
_FATES = {
    "import time; time.sleep(300)": ("out of time", "more than 2 s"),
    "import time; x = b'x' * 2**29; time.sleep(300)": ("out of memory", "more than 0.25 GiB"),
    "raise SystemExit('no such library')": ("failed", "exit status 1: no such library"),
    "import os; os.abort()": ("failed", "exit status -6"),
}


@pytest.mark.parametrize("code", _FATES)
def test_a_worker_that_dies_is_told(tmp_path, code):
    status, reason = _FATES[code]
    if status == "out of memory" and not _IN_PROC:
        pytest.skip("memory is watched through /proc")
    limits = Limits(seconds=2 if status == "out of time" else 120, gib=0.25)
    (result,) = run([sys.executable, "-c", code], [tmp_path], limits, None)
    assert result["status"] == status
    assert result["reason"].startswith(reason)


def test_every_kernel_is_measured():
    names = [s.name for s in all_systems()]
    assert len(set(names)) == len(names)
    assert {f"torchgmm {dtype}" for dtype in _DTYPES} <= set(names)
    for kernel in set(kernels()) - {"auto", "triton", "triton_quadratic"}:
        assert {f"torchgmm {kernel} {dtype}" for dtype in _DTYPES} <= set(names)
    there = {s.options.get("kernel", "auto") for s in on_gpu.systems()}
    assert set(kernels()) <= there
    assert [s.name for s in chosen(["scikit-learn"], ["float64"])] == ["scikit-learn float64"]


def test_cases_are_distinct():
    everything = [*cases(quick=False), *(c for curve in curves(False, ["full"]) for c in curve)]
    assert len({c.slug for c in everything}) == len(everything)
    assert [len(curve) for curve in curves(False, ["tied"])] == [len(v) for v in CURVES.values()]
    assert sized(["5x2x1"], ["tied"]) == [Case(5, 2, 1, "tied", repeats=5)]
    assert flops(Case(10, 2, 3, "full")) == 4 * 10 * 3 * 4
