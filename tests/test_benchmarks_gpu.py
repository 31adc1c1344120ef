"""The benchmark on a GPU, as far as it can be looked at without one."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import torchgmm as tg
from benchmarks.peers import on_gpu
from benchmarks.peers.__main__ import main
from benchmarks.peers.cases import Case, flops
from benchmarks.peers.data import make
from benchmarks.peers.measure import several
from benchmarks.peers.processes import Limits, run
from benchmarks.peers.score import mean_log_likelihood
from benchmarks.peers.systems import System, command, site_of
from benchmarks.peers.table import markdown, ratios

PEAK = {"float32": 50e12, "float64": 30e12, "memory": 3e12, "host": 50e9, "tf32": 400e12}
MACHINE = {
    "cpu": "c", "cores": 2, "ram_gib": 1, "threads": 1, "load_before": 0.0, "when": "now",
    "python": "3", "versions": {"torch": "2"}, "commit": None, "gpu": "H100, 80 GiB, CUDA 13.0",
    "triton": "3.6.0",
}  # fmt: skip
CASE = Case(1_000_000, 64, 64, "full", steps=11)


def record(system, seconds, **fields):
    return {
        "case": CASE.name, "n": CASE.n, "d": CASE.d, "k": CASE.k, "family": CASE.family,
        "data": CASE.data, "kind": CASE.kind, "steps": CASE.steps, "repeats": 1, "curve": "",
        "system": system, "label": system.rsplit(" ", 1)[0], "dtype": system.rsplit(" ", 1)[1],
        "ours": system.startswith("torchgmm"), "aside": False, "on_gpu": True, "status": "ok",
        "median_seconds": seconds, "n_steps": [CASE.steps], "peak_mb": 400.0,
        "rss_before_mb": 250.0, "log_likelihood": -100.0, **fields,
    }  # fmt: skip


RECORDS = [
    record("torchgmm float32", 0.009, note="triton"),
    record("torchgmm from the host float32", 0.0064),
    record("scikit-learn on torch float32", 0.08),
    record("tgmm float32", 0.0, status="not installed", reason="no environment"),
    record(
        "scikit-learn float64", 12.0, aside=True, on_gpu=False, n_steps=[2], log_likelihood=-110.0
    ),
]


def test_without_a_gpu_it_says_so(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["--out", str(tmp_path), "--device", "cuda"]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("quick", [False, True])
def test_every_system_has_a_name_and_a_kernel_that_exists(quick):
    systems = on_gpu.systems(quick)
    assert len({s.name for s in systems}) == len(systems)
    assert len({c.slug for c in on_gpu.cases(quick)}) == len(on_gpu.cases(quick))
    for system in systems:
        tg.EM(kernel=system.options.get("kernel", "auto"))  # refuses what is none


def test_what_the_goals_compare_is_measured_first():
    first = [s.name for s in on_gpu.systems()[:5]]
    assert {"torchgmm float32", "torchgmm from the host float32"} <= set(first)
    assert {"scikit-learn float64", "scikit-learn on torch float32"} <= set(first)


def test_a_run_that_is_over_starts_nothing_more(tmp_path):
    limits = Limits(seconds=100, until=time.monotonic())
    (result,) = run([sys.executable, "-c", "import time; time.sleep(99)"], [tmp_path], limits, None)
    assert (result["status"], result["reason"]) == ("out of time", "the run was over")


def test_what_runs_on_the_cpu_is_a_ratio_and_no_answer():
    rows = {r["system"]: r for r in ratios(RECORDS, PEAK)}
    assert rows["scikit-learn float64"]["right"]
    assert rows["torchgmm float32"]["to_default"] == pytest.approx(12 / 0.009)
    # the level that answers are held against is that of the same number of steps
    assert all(r["difference"] == 0 for r in rows.values() if r.get("on_gpu") and "right" in r)


def test_the_roofline_is_the_dearer_of_arithmetic_and_memory():
    rows = {r["system"]: r for r in ratios(RECORDS, PEAK)}
    assert rows["torchgmm float32"]["of_peak"] == pytest.approx(flops(CASE) / 50e12 / 0.009)
    flat = {**record("torchgmm float32", 0.001), "d": 2, "k": 1}
    (row,) = ratios([flat], PEAK)
    assert row["of_peak"] == pytest.approx(1e6 * 2 * 4 / 3e12 / 0.001)


def test_the_table_says_where_it_ran_and_what_was_not_run():
    table = markdown(RECORDS, MACHINE, PEAK)
    assert "H100, 80 GiB, CUDA 13.0, Triton 3.6.0; memory 3000 GB/s" in table
    assert "| of roofline |" in table
    assert "40.0 GB/s, 80% of the way's" in table
    assert "on the CPU, after two steps" in table
    published = table.split("## Published elsewhere, not run here")[1]
    assert "Flash-GMM" in published
    assert "PyCave" in published


def test_packages_beside_an_environment_that_is_not_there(tmp_path):
    system = System("tgmm", "with_tgmm.py", "float32", "tgmm")
    assert site_of(system, tmp_path) is None
    (tmp_path / "tgmm" / "site").mkdir(parents=True)
    assert site_of(system, tmp_path) == tmp_path / "tgmm" / "site"
    assert command(system, tmp_path)[0][0] == sys.executable


def test_spherical_covariances_have_a_start_and_a_level(tmp_path):
    case = Case(500, 3, 2, "spherical")
    rows, start = make(case, tmp_path)
    weights, means, variances = (
        np.load(start / f"{name}.npy") for name in ("weights", "means", "covariances")
    )
    x = np.load(rows)
    mixture = tg.GaussianMixture.from_covariances(
        weights, means, variances, "spherical", dtype=torch.float64
    )
    expected = float(mixture.score(x.astype(np.float64)))
    found = mean_log_likelihood(x, weights, means, variances, "spherical")
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_clock_of_a_gpu_reads_its_events(monkeypatch):
    class Event:
        count = 0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            Event.count += 1
            self.at = Event.count**2

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return float(other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = workers("common").Clock(gpu=True)
    for _ in range(4):
        clock.stamp()
    assert clock.read() == [0.003, 0.005, 0.007]
    clock.stamp(3)  # three that went together
    assert clock.read()[3:] == pytest.approx([0.003] * 3)


def workers(name):
    """A module of the workers, which are scripts and no package."""
    folder = Path(sys.modules[on_gpu.__name__].__file__).parent / "workers"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_all_cases_of_a_system_go_through_one_process(tmp_path):
    # a "GPU" that is the CPU: the way of the jobs is the same
    system = System("torchgmm", "with_torchgmm.py", "float32", device="cpu")
    limits = Limits(seconds=100, gib=12, threads=1, device="cuda")
    cases = [Case(400, 3, 2, family, steps=5) for family in ("full", "spherical")]
    found = several(system, cases, tmp_path, tmp_path / "none", limits)
    assert [r["status"] for r in found] == ["ok", "ok"], found
    assert [r["n_steps"] for r in found] == [[2], [2]]
    assert all(r["aside"] for r in found)
    jobs = [json.loads(path.read_text()) for path in tmp_path.glob("jobs/*/*/job.json")]
    assert {job["device"] for job in jobs} == {"cpu"}


@pytest.mark.cuda
def test_it_runs(tmp_path):
    asked = ["torchgmm*", "scikit-learn on torch"]
    status = main(
        ["--out", str(tmp_path), "--device", "cuda", "--quick", "--systems", *asked]
    )  # fmt: skip
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    assert status == 0
    assert {r["status"] for r in found} == {"ok"}, found


def test_tiles_can_be_tuned(capsys, monkeypatch, tmp_path, launchable, device):
    from benchmarks.gpu import tune
    from torchgmm.kernels import triton_tuned as tuned

    monkeypatch.setenv("TORCHGMM_TILES", str(tmp_path / "own" / "tiles.json"))
    sizes = "--rows 40 --features 3 --components 2 --repeats 1 --most 2 --precision ieee --save"
    tune.main(["--device", str(device), *sizes.split()])
    said = capsys.readouterr()
    *found, kept = said.out.splitlines()
    assert not said.err
    kinds = ["matrix", "formed", "formed", "axes", "nearest", *["quadratic,"] * 5, "product"]
    assert [line.split()[1] for line in found] == kinds
    assert all(line.startswith("40x3-2 ") and line.endswith((" ms", "s", "sums")) for line in found)
    assert kept == f"kept in {tuned.path()}"
    held = json.loads(tuned.path().read_text())["devices"]
    assert len(held) == 1
    assert sorted(*held.values()) == [
        "axes 2x4 float32 ieee", "formed 16x16 float32 ieee", "formed 16x16 float64 ieee",
        "matrix 16 float32 ieee", "nearest 16x16 float32 ieee", "product float32 ieee",
    ]  # fmt: skip
