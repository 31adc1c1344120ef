"""A fit that was cut off goes on to the same mixture, bit for bit."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import torchgmm as tg
from tests.cli.common import PLAIN, same
from tests.cli.test_interrupt import Interrupting
from torchgmm.cli import fit as fit_room
from torchgmm.cli import main

ALWAYS = ["--stop.tol", "0", "--checkpoint", "0"]
METHODS = {
    "exact": ["--method.max_iter", "8"],
    "incremental": ["--method", "IncrementalEM", "--method.max_iter", "5"],
    "online": ["--method", "OnlineEM", "--method.max_iter", "8", "--method.rows_per_step", "64"],
    "variance-reduced": ["--method", "VarianceReducedEM", "--method.max_iter", "5"],
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_resume_gives_the_mixture_of_the_fit_that_was_not_cut(
    method, tmp_path, data, monkeypatch, capsys
):
    words = ["fit", *data, *PLAIN, *ALWAYS, *method, "--n_init", "2", "--init", "random"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(fit_room, "Progress", Interrupting)
        assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    assert "--resume goes on from there" in capsys.readouterr().err
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    assert main([*words, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    whole, cut = (tg.load(tmp_path / name / "mixture.safetensors") for name in ("whole", "cut"))
    assert same(whole, cut)
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()


def test_a_fit_killed_at_any_moment_goes_on(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(20_000, 8)))
    words = [
        *["fit", "--data", str(tmp_path / "rows.npy"), "--mixture.n_components", "20"],
        *["--init", "random", "--method.max_iter", "60", "--picture", "none", *ALWAYS],
    ]
    folder = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-m", "torchgmm", *words, "--out", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(folder / "checkpoint.safetensors", process)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    assert not (folder / "result.json").exists()
    assert main([*words, "--out", str(folder), "--resume"]) == 0
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    assert same(
        tg.load(folder / "mixture.safetensors"),
        tg.load(tmp_path / "whole" / "mixture.safetensors"),
    )


def wait_for(file, process, seconds=60):
    end = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None, "the fit ended before it was killed"
        assert time.monotonic() < end, f"no {file.name} after {seconds} s"
        time.sleep(0.01)


def test_resume_without_a_checkpoint_starts_at_the_start(tmp_path, data, capsys):
    assert main(["fit", *data, *PLAIN, "--out", str(tmp_path), "--resume"]) == 0
    assert "holds no checkpoint.safetensors" in capsys.readouterr().err


def test_resume_needs_a_folder(data, capsys):
    assert main(["fit", *data, *PLAIN, "--resume"]) == 1
    assert "--resume needs --out" in capsys.readouterr().err


def test_a_checkpoint_of_another_mixture_is_refused(tmp_path, data, monkeypatch, capsys):
    words = ["fit", *data, *PLAIN, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(fit_room, "Progress", Interrupting)
        assert main([*words, "--stop.tol", "0"]) == 130
    assert main([*words, "--mixture.n_components", "3", "--resume"]) == 1
    assert "the fit to resume has K=2" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.safetensors").is_file()
