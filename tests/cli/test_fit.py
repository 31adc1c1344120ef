"""`torchgmm fit`: what is on disk and what is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import torchgmm as tg
from tests.cli.common import K2, LEFT, PLAIN, same
from torchgmm.cli import fit as fit_room
from torchgmm.cli import main


def test_a_fit_leaves_mixture_result_picture_and_config(root, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    assert main(["fit", str(root / "configs" / "faithful.yaml"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == LEFT
    said = capsys.readouterr()
    assert "the stopping rule is met" in said.out
    assert "step 2/200: log-likelihood" in said.err
    result = json.loads((out / "result.json").read_text())
    rows = np.loadtxt(root / "configs" / "data" / "faithful.csv", delimiter=",", skiprows=1)
    mixture = tg.load(out / "mixture.safetensors")
    # the greatest log-likelihood known; the floor of 1e-6 costs less than the last digit given
    assert 272 * result["log_likelihood"] == pytest.approx(-1130.264, abs=1e-3)
    assert result["log_likelihood"] == pytest.approx(float(mixture.score(rows)), rel=1e-12)
    assert result["bic"] == pytest.approx(float(mixture.bic(rows)), rel=1e-12)
    assert result["aic"] == pytest.approx(float(mixture.aic(rows)), rel=1e-12)
    assert result["status"] == "CONVERGED"
    levels = result["history"]["log_likelihood"]
    assert len(levels) == result["n_steps"] > 2
    changes = np.abs(np.diff(levels))
    assert changes[-1] < 1e-8 <= changes[-2]  # the rule of the config
    assert result["rows"] == 272
    assert result["versions"]["torch"] == torch.__version__
    assert sorted(result["files"]) == LEFT
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_config_left_behind_gives_the_same_mixture_from_anywhere(
    root, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(root)
    options = ["--method.max_iter=3", "--init", "random", "--seed", "5", "--picture", "none"]
    assert main(["fit", "configs/faithful.yaml", *options, "--out", str(tmp_path / "a")]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "a/config.yaml", "--out", "b"]) == 0
    first, again = (tg.load(tmp_path / name / "mixture.safetensors") for name in "ab")
    assert same(first, again)
    left = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert left["method"]["init_args"]["max_iter"] == 3
    assert left["threads"] == torch.get_num_threads()
    assert left["out"] == str(tmp_path / "a")
    assert Path(left["data"]["init_args"]["path"]).is_absolute()


def test_print_config_is_a_config(tmp_path, data, capsys):
    words = ["fit", *data, *PLAIN, "--method.max_iter", "7", "--stop", "Aitken"]
    assert main([*words, "--print_config"]) == 0
    config = tmp_path / "printed.yaml"
    config.write_text(capsys.readouterr().out)
    assert yaml.safe_load(config.read_text())["method"]["init_args"]["max_iter"] == 7
    assert main(["fit", str(config), "--out", str(tmp_path / "a")]) == 0
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    first, other = (tg.load(tmp_path / name / "mixture.safetensors") for name in "ab")
    assert same(first, other)


@pytest.mark.parametrize(
    "method",
    [
        "method: {class_path: EM, init_args: {max_iter: 2}}",
        "method: {class_path: torchgmm.EM, init_args: {max_iter: 2}}",
        "method: {max_iter: 2}",
    ],
)
def test_a_config_spells_classes_in_several_ways(tmp_path, folder, method, capsys):
    config = tmp_path / "own.yaml"
    config.write_text(f"data: {folder}/rows.npy\nmixture: {{n_components: 2}}\n{method}\n")
    assert main(["fit", str(config), "--stop.tol", "0", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["n_steps"] == 2


def test_files_are_looked_for_here_and_then_beside_the_config(tmp_path, monkeypatch, rows, capsys):
    (tmp_path / "there" / "data").mkdir(parents=True)
    np.save(tmp_path / "there" / "data" / "rows.npy", rows)
    np.save(tmp_path / "there" / "data" / "w.npy", np.r_[np.ones(60), np.zeros(40)])
    config = tmp_path / "there" / "own.yaml"
    config.write_text(
        "data: {class_path: Files, init_args: {path: data/rows.npy, weights: data/w.npy}}\n"
        "mixture: {n_components: 1}\nout: out\npicture: none\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "there/own.yaml"]) == 0
    assert json.loads(Path("out/result.json").read_text())["weight"] == 60
    Path("data").mkdir()
    np.save("data/rows.npy", rows[:50])  # nearer; the 100 weights no longer fit
    assert main(["fit", "there/own.yaml"]) == 1
    assert "(50" in capsys.readouterr().err


def test_a_budget_that_ends_is_one_readable_line_and_no_failure(tmp_path, data, capsys):
    words = ["fit", *data, *PLAIN, "--method.max_iter=2", "--stop.tol=0"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warning.startswith("torchgmm: warning: BUDGET_SPENT: the step budget")


def test_without_out_nothing_is_written_and_said_so(tmp_path, data, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *data, *K2]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "nothing: give --out FOLDER" in capsys.readouterr().out


def test_a_fit_goes_on_from_a_mixture_file(tmp_path, data, mixture_file, capsys):
    words = ["fit", *data, *PLAIN, "--init", mixture_file, "--method.max_iter", "0"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert same(tg.load(mixture_file), tg.load(tmp_path / "mixture.safetensors"))


def test_restarts_are_counted_and_the_picture_of_an_earlier_fit_goes(tmp_path, data, capsys):
    (tmp_path / "picture.png").write_text("old")
    words = ["fit", *data, *PLAIN, "--n_init", "3", "--init", "RandomRows", "--out", str(tmp_path)]
    assert main(words) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["runs"]) == 3
    # of runs that end equally high the first is kept
    best = pytest.approx(max(result["runs"]), abs=1e-6)
    assert result["history"]["log_likelihood"][-1] == best
    assert not (tmp_path / "picture.png").exists()
    assert "picture.png" not in result["files"]


@pytest.mark.parametrize("place", ["blocked/below", "taken"])
def test_a_folder_that_cannot_be_written_is_noticed_before_the_fit(
    place, tmp_path, data, monkeypatch, capsys
):
    (tmp_path / "blocked").write_text("a file")
    (tmp_path / "taken" / "result.json").mkdir(parents=True)
    monkeypatch.setattr(fit_room, "run_fit", lambda *_, **__: pytest.fail("it was begun"))
    assert main(["fit", *data, *PLAIN, "--out", str(tmp_path / place)]) == 1
    assert "torchgmm: error:" in capsys.readouterr().err


def test_what_could_not_be_written_is_no_success(tmp_path, data, monkeypatch, capsys):
    words = ["fit", *data, *K2, "--out", str(tmp_path)]
    assert main(words) == 0

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(fit_room, "draw", fail)
    assert main(words) == 1
    assert "RuntimeError: no ink (--debug shows where)" in capsys.readouterr().err
    # the fit itself is not lost, and nothing claims to be complete
    assert (tmp_path / "mixture.safetensors").exists()
    assert not (tmp_path / "result.json").exists()
