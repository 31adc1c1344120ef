"""Ctrl-C: what was computed is kept."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import torchgmm as tg
from tests.cli.common import K2, PLAIN, same
from torchgmm.cli import fit as fit_room
from torchgmm.cli import main


class Interrupting(tg.Progress):
    at, run = 3, 1

    def on_start(self, *_):
        if self.at == 0:
            raise KeyboardInterrupt

    def on_step(self, event):
        if (event.number, event.run) == (self.at, self.run):
            raise KeyboardInterrupt


@pytest.mark.parametrize("picture", ["none", "auto"])
def test_ctrl_c_keeps_what_was_computed(picture, tmp_path, data, monkeypatch, capsys):
    words = ["fit", *data, *K2, "--stop.tol", "0", "--picture", picture]
    assert main([*words, "--method.max_iter", "3", "--out", str(tmp_path / "three")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(fit_room, "Progress", Interrupting)
    assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    assert "torchgmm: interrupted after 3 steps; written " in capsys.readouterr().err
    cut, three = (tg.load(tmp_path / name / "mixture.safetensors") for name in ("cut", "three"))
    assert same(cut, three)
    result = json.loads((tmp_path / "cut" / "result.json").read_text())
    assert (result["status"], result["n_steps"], result["bic"]) == ("INTERRUPTED", 3, None)


def test_ctrl_c_in_a_later_run_keeps_the_best_that_ended(tmp_path, data, monkeypatch, capsys):
    words = ["fit", *data, *K2, "--init", "random", "--picture", "none"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    monkeypatch.setattr(Interrupting, "run", 2)
    monkeypatch.setattr(fit_room, "Progress", Interrupting)
    assert main([*words, "--n_init", "5", "--out", str(tmp_path / "cut")]) == 130
    cut, one = (tg.load(tmp_path / name / "mixture.safetensors") for name in ("cut", "one"))
    assert same(cut, one)
    steps = [
        json.loads((tmp_path / name / "result.json").read_text())["history"]["log_likelihood"]
        for name in ("cut", "one")
    ]
    assert steps[0] == steps[1]


def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(Interrupting, "at", 0)
    monkeypatch.setattr(fit_room, "Progress", Interrupting)
    assert main(["fit", *data, *K2, "--out", str(tmp_path)]) == 130
    assert "before the first step" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_first_step_keeps_how_far_it_came(tmp_path, data, monkeypatch, capsys):
    class InTheFirst(tg.Progress):
        def on_rows(self, event):
            if event.state is not None:
                raise KeyboardInterrupt

    words = ["fit", *data, *PLAIN, "--method", "OnlineEM", "--method.batch_size", "10"]
    words += ["--method.max_iter", "1"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("torchgmm.fitting.watch._EVERY", 0.0)
        patch.setattr(fit_room, "Progress", InTheFirst)
        assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    assert (
        "interrupted in the first step; the same command with --resume" in capsys.readouterr().err
    )
    assert [file.name for file in (tmp_path / "cut").iterdir()] == ["checkpoint.safetensors"]
    assert main([*words, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    cut, whole = (tg.load(tmp_path / name / "mixture.safetensors") for name in ("cut", "whole"))
    assert same(cut, whole)


def test_ctrl_c_after_the_fit_keeps_its_status(tmp_path, data, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_room, "score_of", interrupt)
    assert main(["fit", *data, *K2, "--out", str(tmp_path)]) == 130
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["bic"]) == ("CONVERGED", None)


def test_a_signal_is_a_ctrl_c(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(20_000, 12)))
    process = subprocess.Popen(
        [sys.executable, "-m", "torchgmm", "fit", "--data", "rows.npy", "--init", "random",
         "--mixture.n_components", "30", "--method.max_iter", "100000", "--stop.tol", "0",
         "--out", "out"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("step 3/"):
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "torchgmm: interrupted after" in said
    assert tg.load(tmp_path / "out" / "mixture.safetensors").n_components == 30
