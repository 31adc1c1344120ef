"""torchrun on the command line: one writes, answers are merged, a killed worker ends nothing."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import torchgmm as tg
from tests.cli.common import PLAIN
from tests.distributed.common import PATIENCE, distance
from torchgmm.cli import main

pytestmark = pytest.mark.slow
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCHGMM_TIMEOUT": "120"}


def torchrun(words, processes=2, restarts=0):
    """The started job."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = [f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    return subprocess.Popen(
        [*launcher, *options, "-m", "torchgmm", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def finished(job):
    out, err = job.communicate(timeout=PATIENCE)
    return job.returncode, out, err


def rows(folder, n=1001):
    generator = np.random.default_rng(0)
    parts = [generator.normal(0, 1, (n - n // 3, 3)), generator.normal(6, 2, (n // 3, 3))]
    np.save(folder / "rows.npy", np.concatenate(parts))
    return ["--data", folder / "rows.npy"]


def parameters(folder):
    return tg.load(folder / "mixture.safetensors").as_parameters()


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """The same fit by two processes, in `two`, and by one, in `one`; what the former said."""
    folder = tmp_path_factory.mktemp("torchrun")
    words = ["fit", *rows(folder), *PLAIN]
    said = finished(torchrun([*words, "--out", folder / "two"]))
    assert main([*map(str, words), "--out", str(folder / "one")]) == 0
    return folder, said


def test_a_fit_of_two_processes_is_that_of_one(fits):
    folder, (status, out, err) = fits
    assert status == 0, err
    assert out.count("torchgmm fit") == 1  # only one of them speaks
    assert err.count("step 1/100:") == 1
    assert "processes       2, " in out
    assert distance(parameters(folder / "two"), parameters(folder / "one")) < 1e-10
    result = json.loads((folder / "two" / "result.json").read_text())
    assert result["processes"] == 2
    assert result["history"]["rows"][0] == 1001
    assert not [p.name for p in (folder / "two").iterdir() if p.name.startswith(".")]


def test_answers_of_processes_are_merged(fits):
    folder, _ = fits
    mixture = folder / "one" / "mixture.safetensors"
    data = ["--data", folder / "rows.npy"]
    for kind, extra in ("predict", ["--probabilities"]), ("score", []):
        for where in ("many", "one"):
            words = [kind, mixture, *data, "--out", folder / f"{kind}-{where}.npy"]
            words += [part for option in extra for part in (option, folder / f"p-{where}.npy")]
            if where == "many":
                status, out, err = finished(torchrun(words, processes=3))
                assert status == 0, err
                assert out.count(f"torchgmm {kind}") == 1
            else:
                assert main(list(map(str, words))) == 0
    for name in ("predict", "p", "score"):
        many, one = (np.load(folder / f"{name}-{where}.npy") for where in ("many", "one"))
        assert np.allclose(many, one, rtol=0, atol=1e-12)
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_a_killed_worker_is_replaced_and_the_fit_goes_on(tmp_path):
    n = 40_000
    words = ["fit", *rows(tmp_path, n), "--mixture.n_components", "12"]
    words += ["--mixture.dtype", "float64", "--picture", "none", "--init", "random"]
    words += ["--stop.tol", "0", "--method.max_iter", "120", "--checkpoint", "0"]
    job = torchrun([*words, "--out", tmp_path / "killed"], restarts=3)
    try:
        wait_for(tmp_path / "killed" / "checkpoint.safetensors", job)
        victim = workers(job)[1]
        os.kill(victim, signal.SIGKILL)
        assert not (tmp_path / "killed" / "result.json").exists()
        status, _, err = finished(job)
    finally:
        job.kill()
    assert status == 0, err
    assert str(victim) in err  # it was its death that torchrun answered
    assert main([*map(str, words), "--out", str(tmp_path / "whole")]) == 0
    result = json.loads((tmp_path / "killed" / "result.json").read_text())
    assert result["n_steps"] == 120
    assert result["seconds"]["seeding"] == 0.0  # it did not begin at the start
    assert distance(parameters(tmp_path / "killed"), parameters(tmp_path / "whole")) < 1e-8


def test_an_error_of_one_ends_the_job_with_that_error(tmp_path):
    data = rows(tmp_path)
    x = np.load(tmp_path / "rows.npy")
    x[900] = np.nan
    np.save(tmp_path / "rows.npy", x)
    job = torchrun(["fit", *data, *PLAIN, "--init", "random_from_data"])
    status, _, err = finished(job)
    assert status == 1
    assert "row 900" in err


def workers(job):
    """Processes that torchrun has started, in the order of their ranks."""
    found = {}
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    for pid in children:
        with contextlib.suppress(OSError):
            pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranks = [pair[5:] for pair in pairs if pair.startswith(b"RANK=")]
            found |= {int(rank): int(pid) for rank in ranks}
    return found


def wait_for(file, job):
    end = time.monotonic() + PATIENCE
    while not file.exists():
        assert job.poll() is None, "the fit ended before a worker was killed"
        assert time.monotonic() < end, f"no {file.name} after {PATIENCE} s"
        time.sleep(0.01)
