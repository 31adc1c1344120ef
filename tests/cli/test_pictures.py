"""Which picture a fit leaves, and the configs that ship."""

import json
import re
import subprocess
import sys

import pytest
import torch
import yaml

import torchgmm as tg
from tests.cli.common import K2, LEFT
from torchgmm.cli import main
from torchgmm.cli.pictures import PICTURES, Subject, choose


@pytest.mark.parametrize(
    ("name", "subject", "chosen"),
    [
        ("auto", Subject(1), "marginals"),
        ("auto", Subject(2), "ellipses"),
        ("auto", Subject(64), "ellipses"),
        ("auto", Subject(64, (8, 8)), "patches"),
        ("auto", Subject(4096), "none"),
        ("patches", Subject(49), "patches"),
        ("marginals", Subject(5), "marginals"),
        ("none", Subject(5), "none"),
    ],
)
def test_a_picture_is_chosen_by_the_data(name, subject, chosen):
    assert choose(name, subject) == chosen


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("ellipses", Subject(1)),
        ("patches", Subject(50)),
        ("pairs", Subject(1)),
        ("pairs", Subject(9)),
    ],
)
def test_a_picture_that_does_not_suit_is_refused(name, subject):
    with pytest.raises(tg.InputError, match=f"picture {name} needs"):
        choose(name, subject)


@pytest.mark.parametrize("picture", PICTURES)
def test_every_picture_is_drawn(picture, tmp_path, capsys):
    words = ["fit", "--data", "Bundled", "--data.name", "iris", *K2, "--method.max_iter", "3"]
    assert main([*words, "--picture", picture, "--out", str(tmp_path)]) == 0
    # more than axes and labels: an empty figure of this size has less than 10 kB
    assert (tmp_path / "picture.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", ["patches", "faithful", "digits", "gradient", "principal"])
def test_every_config_is_understood(name, root, capsys):
    assert main(["fit", str(root / "configs" / f"{name}.yaml"), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["out"] == f"runs/{name}"


@pytest.mark.parametrize("name", ["streaming", "distributed"])
def test_a_config_finds_the_rows_that_its_command_makes(name, root, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    config = root / "configs" / f"{name}.yaml"
    (command,) = re.findall(r"^# +python (.*)$", config.read_text(), re.MULTILINE)
    script, *words = command.replace("--rows 2000000", "--rows 1000").split()
    subprocess.run([sys.executable, root / script, *words], check=True, timeout=120)
    few = ["--mixture.n_components", "2", "--method.max_iter", "1", "--picture", "none"]
    assert main(["fit", str(config), *few]) == 0
    assert json.loads((tmp_path / f"runs/{name}/result.json").read_text())["rows"] == 1000


def test_digits_have_dead_pixels_and_a_floor(root, tmp_path, capsys):
    assert main(["fit", str(root / "configs" / "digits.yaml"), "--out", str(tmp_path)]) == 0
    mixture = tg.load(tmp_path / "mixture.safetensors")
    dead = mixture.covariances.detach()[:, 0, 0]  # the first pixel is 0 in every image
    assert torch.allclose(dead, torch.full_like(dead, 0.1), rtol=1e-9)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "CONVERGED"


@pytest.mark.slow
def test_patches_converge_to_what_was_measured(root, tmp_path, capsys):
    assert main(["fit", str(root / "configs" / "patches.yaml"), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "CONVERGED"
    # measured 168.41 after 40 steps; other starts end within 0.5 of it
    assert result["log_likelihood"] > 167.5
    assert sorted(path.name for path in tmp_path.iterdir()) == LEFT
