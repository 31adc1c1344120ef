"""`torchgmm select`: a config or a line becomes a choice, and a folder that says why."""

import json

import numpy as np
import pytest

import torchgmm as tg
from tests.cases import blobs
from torchgmm.cli import main

LEFT = ["config.yaml", "mixture.safetensors", "picture.png", "selection.json", "table.md"]


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "rows.npy", blobs(240, 2, 3, 10.0).numpy())
    return ["--data", str(tmp_path / "rows.npy")]


def test_a_search_leaves_the_best_mixture_and_why(tmp_path, data, capsys):
    out = tmp_path / "out"
    words = ["select", *data, "--n_components", "1..4", "--covariance", "[full, spherical]"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "3 spherical component(s)" in said.out
    assert said.err.count(" steps (") == 8
    assert sorted(p.name for p in out.iterdir()) == LEFT
    found = json.loads((out / "selection.json").read_text())
    assert (found["n_components"], found["covariance"], found["criterion"]) == (
        3, "spherical", "bic",
    )  # fmt: skip
    assert len(found["candidates"]) == 8
    mixture = tg.load(out / "mixture.safetensors")
    assert float(mixture.bic(np.load(tmp_path / "rows.npy"))) == pytest.approx(
        min(c["bic"] for c in found["candidates"]), rel=1e-9
    )
    assert "| **3** | **spherical** |" in (out / "table.md").read_text()
    # the config, as it ran, makes the same choice
    again = tmp_path / "again"
    assert main(["select", str(out / "config.yaml"), "--out", str(again)]) == 0
    assert (again / "selection.json").exists()
    values = [
        [c["value"] for c in json.loads((f / "selection.json").read_text())["candidates"]]
        for f in (out, again)
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("counts", ["2,3", "[2, 3]", "2..3"])
def test_numbers_in_every_spelling(data, counts, capsys):
    assert main(["select", *data, "--n_components", counts, "--covariance", "spherical"]) == 0
    said = capsys.readouterr()
    assert "candidates      2" in said.out
    assert "written         nothing: give --out FOLDER" in said.out


def test_other_criteria_and_methods(data, capsys):
    words = ["--n_components", "3", "--covariance", "tied,full", "--criterion", "held-out"]
    assert main(["select", *data, *words, "--method", "OnlineEM", "--method.max_iter", "2"]) == 0
    assert "nats per row, higher is better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--n_components", "two..4"], 2, "give FIRST..LAST or numbers with commas"),
        (["--criterion", "dic"], 2, "criterion"),
        (["--covariance", "round"], 1, "covariance must be one of"),
        (["--n_components", "500"], 1, "no candidate could be fitted"),
        (["--threads", "0"], 1, "threads must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(data, words, status, text, capsys):
    assert main(["select", *data, *words]) == status
    assert text in capsys.readouterr().err


def test_help_ends_with_examples(capsys):
    assert main(["select", "--help"]) == 0
    assert "examples:\n  torchgmm select " in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "\n  select " in capsys.readouterr().out
