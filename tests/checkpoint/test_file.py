"""The file: written as a whole or not at all, and read by whoever reads safetensors."""

import json

import pytest
import torch
from safetensors import safe_open

from tests.checkpoint.common import X, assert_same_fit, cut, fitted
from torchgmm import EM, Checkpoint, GaussianMixture, read_checkpoint
from torchgmm.errors import StoreError


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
def test_a_full_disk_leaves_the_checkpoint_before_it(call, tmp_path, monkeypatch):
    path, method = tmp_path / "fit.safetensors", EM(max_iter=5)
    cut(path, method, 1, 2)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(StoreError, match=r"fit\.safetensors cannot be written.*No space left"):
            fitted(method, observers=[Checkpoint(path, 0)], resume=read_checkpoint(path))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no part of a file either
    assert_same_fit(fitted(method, resume=read_checkpoint(path)), fitted(method))


def test_a_full_disk_leaves_what_was_found_in_the_mixture(tmp_path, monkeypatch):
    mixture = GaussianMixture(3, dtype=torch.float64)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError):
        mixture.fit(
            X,
            EM(max_iter=5),
            init="random_from_data",
            generator=0,
            observers=[Checkpoint(tmp_path / "f", 0)],
        )
    assert torch.equal(mixture.means, fitted(EM(max_iter=1))[0].means)


def test_writing_leaves_one_file(tmp_path):
    path = tmp_path / "fit.safetensors"
    fitted(EM(max_iter=4), observers=[Checkpoint(str(path), 0)])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_is_safetensors_that_others_can_read(written):
    with safe_open(written, "numpy") as archive:
        metadata, names = archive.metadata(), set(archive.keys())
        means = archive.get_tensor("state.parameters.means")
    assert metadata["format"] == "torchgmm-checkpoint"
    assert int(metadata["format_version"]) == 1
    assert json.loads(metadata["content"])["run"] == 2
    assert {"generator", "state.parameters.logits", "state.start.weight"} <= names
    assert torch.equal(torch.from_numpy(means), read_checkpoint(written).state.parameters.means)
