"""A PCA before the mixture, from a config to files and back to rows."""

import json

import numpy as np
import pytest
import torch
import yaml

import torchgmm as tg
from tests.cli.common import same
from torchgmm.cli import main

CONFIG = """
data:
  class_path: Principal
  init_args:
    rows: {class_path: Files, init_args: {path: rows.npy}}
    n_components: 2
    whiten: true
mixture: {n_components: 2, dtype: float64}
picture: none
"""


@pytest.fixture
def rows(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(300, 5)) * [9, 3, 0.5, 0.2, 0.1]
    x[150:, 0] += 60
    np.save(tmp_path / "rows.npy", x)
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return x


def test_a_config_puts_it_before_the_mixture(rows, tmp_path, capsys):
    assert main(["fit", "config.yaml", "--out", "out"]) == 0
    mixture, pca = tg.load("out/mixture.safetensors"), tg.load_pca("out/pca.safetensors")
    expected = tg.PCA(2, whiten=True).fit(rows)
    torch.testing.assert_close(pca.axes, expected.axes)
    z = pca(torch.from_numpy(rows))
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["log_likelihood"] == pytest.approx(float(mixture.score(z)), rel=1e-9)
    assert "pca.safetensors" in result["files"]
    # the config that is left gives the same again, from anywhere
    (tmp_path / "other").mkdir()
    left = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert left["data"]["class_path"] == "torchgmm.reduction.Principal"
    assert left["data"]["init_args"]["rows"]["class_path"] == "torchgmm.data.Files"
    assert main(["fit", "out/config.yaml", "--out", "again"]) == 0
    assert same(mixture, tg.load("again/mixture.safetensors"))


def test_other_rows_are_seen_along_the_same_axes(rows, tmp_path, capsys):
    words = ["--data", "Principal", "--data.rows", "rows.npy", "--data.n_components", "0.99"]
    fit = ["fit", *words, "--mixture.n_components", "2", "--out", "out", "--picture", "none"]
    assert main(fit) == 0
    np.save("new.npy", rows[:10] + 1)
    seen = ["--data", "Principal", "--data.rows", "new.npy", "--data.axes", "out/pca.safetensors"]
    assert main(["predict", "out/mixture.safetensors", *seen, "--out", "labels.npy"]) == 0
    mixture, pca = tg.load("out/mixture.safetensors"), tg.load_pca("out/pca.safetensors")
    expected = mixture.predict(pca(torch.from_numpy(rows[:10] + 1)))
    assert np.load("labels.npy").tolist() == expected.tolist()
    capsys.readouterr()
    # without a PCA a later fit leaves none behind
    assert main(["fit", "--data", "rows.npy", *fit[fit.index("--mixture.n_components") :]]) == 0
    assert not (tmp_path / "out/pca.safetensors").exists()


def test_draws_are_in_the_features_of_the_rows(rows, capsys):
    assert main(["fit", "config.yaml", "--out", "out"]) == 0
    draw = ["sample", "out/mixture.safetensors", "2000", "--out", "drawn.npy"]
    assert main([*draw, "--pca", "out/pca.safetensors"]) == 0
    drawn = np.load("drawn.npy")
    assert drawn.shape == (2000, 5)
    # deviations are 32 and less
    assert np.abs(drawn.mean(0) - rows.mean(0)).max() < 3
    assert main([*draw, "--pca", "out/mixture.safetensors"]) == 1
    assert "not of the format torchgmm-pca" in capsys.readouterr().err


def test_what_cannot_be_done_is_one_line(rows, capsys):
    words = ["--data", "Principal", "--data.rows", "rows.npy", "--data.n_components", "9"]
    assert main(["select", *words]) == 1
    assert "n_components=9 is more than the 5 features" in capsys.readouterr().err
    assert main(["select", "--data", "Principal", "--data.rows", "nothing.npy"]) in (1, 2)
    assert "nothing.npy" in capsys.readouterr().err
