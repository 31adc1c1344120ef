"""A mixture on disk: the same on the way back, and clear words about every file that is none."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import torchgmm as tg
from tests.cases import FAMILIES, FLOATS, drawn
from torchgmm import GaussianMixture
from torchgmm.errors import NotSizedError, StoreError

TENSORS = ("logits", "means", "scale")
every_family = pytest.mark.parametrize("family", FAMILIES)


def mixture_of(family="full", batch=(), dtype=torch.float64):
    return GaussianMixture.from_parameters(drawn(family, 3, 4, batch), dtype=dtype)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "mixture.safetensors"
    tg.save(mixture_of(), path)
    return path


def rewritten(path, change=None, **metadata):
    """The same file with tensors or metadata changed; None leaves an entry out."""
    with safe_open(path, "pt") as archive:
        known = {**archive.metadata(), **metadata}
        tensors = {name: archive.get_tensor(name) for name in TENSORS}
    if change is not None:
        change(tensors)
    save_file(tensors, path, {key: value for key, value in known.items() if value is not None})


@every_family
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_was_saved_is_loaded_bit_for_bit(family, batch, dtype, tmp_path):
    mixture = mixture_of(family, batch, dtype)
    tg.save(mixture, tmp_path / "m.safetensors")
    again = tg.load(str(tmp_path / "m.safetensors"))
    assert repr(again) == repr(mixture)
    for name in TENSORS:
        assert torch.equal(getattr(again, name), getattr(mixture, name))
        assert getattr(again, name).requires_grad


@every_family
@pytest.mark.parametrize("written", FLOATS, ids=str)
@pytest.mark.parametrize("read", FLOATS, ids=str)
def test_it_opens_in_another_dtype(family, written, read, tmp_path):
    mixture = mixture_of(family, dtype=written)
    tg.save(mixture, tmp_path / "m.safetensors")
    again = tg.load(tmp_path / "m.safetensors", dtype=read)
    assert again.dtype == read
    for name in TENSORS:
        assert torch.equal(getattr(again, name), getattr(mixture, name).to(read))


@pytest.mark.cuda
@pytest.mark.parametrize(("written", "read"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_it_opens_on_another_device(written, read, tmp_path):
    mixture = mixture_of().to(written)
    tg.save(mixture, tmp_path / "m.safetensors")
    again = tg.load(tmp_path / "m.safetensors", device=read)
    assert again.device.type == read
    assert torch.equal(again.means.cpu(), mixture.means.cpu())


def test_a_component_of_weight_zero_makes_the_round_trip(tmp_path):
    mixture = GaussianMixture.from_covariances([1.0, 0.0], [[0.0], [1.0]], [[1.0], [2.0]], "diag")
    tg.save(mixture, tmp_path / "m.safetensors")
    again = tg.load(tmp_path / "m.safetensors")
    assert again.weights.tolist() == [1, 0]
    assert torch.equal(again.logits, mixture.logits)


def test_the_file_says_what_it_is_to_other_programs(saved):
    with safe_open(saved, "numpy") as archive:
        metadata = archive.metadata()
        means = archive.get_tensor("means")
    assert metadata["format"] == "torchgmm"
    assert metadata["covariance"] == "full"
    assert metadata["dtype"] == "float64"
    assert json.loads(metadata["batch_shape"]) == []
    assert (int(metadata["n_components"]), int(metadata["n_features"])) == (3, 4)
    assert int(metadata["format_version"]) == 1
    assert np.array_equal(means, drawn("full", 3, 4).means)


def test_saving_again_replaces_and_leaves_nothing_else(saved):
    other = mixture_of("spherical")
    tg.save(other, saved)
    assert tg.load(saved).covariance == "spherical"
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_saving_does_not_touch_the_mixture(tmp_path):
    mixture = mixture_of().requires_grad_(False)
    tg.save(mixture, tmp_path / "m.safetensors")
    assert not mixture.means.requires_grad


def test_a_mixture_without_features_cannot_be_saved(tmp_path):
    with pytest.raises(NotSizedError, match="n_features"):
        tg.save(GaussianMixture(2), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


# what is no such file ----------------------------------------------------------------------------


def truncated(path):
    path.write_bytes(path.read_bytes()[:-16])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:40])


def emptied(path):
    path.write_bytes(b"")


def noise(path):
    path.write_bytes(bytes(range(256)) * 8)


def a_pickle(path):
    torch.save({"logits": torch.zeros(2)}, path)


def a_foreign_file(path):
    save_file({"weight": torch.zeros(2)}, path)


def of_the_future(path):
    rewritten(path, format_version="999")


def of_an_unknown_version(path):
    rewritten(path, format_version="two")


def of_an_unknown_family(path):
    rewritten(path, covariance="banana")


def without_metadata(path):
    rewritten(path, n_components=None)


def with_wrong_metadata(path):
    rewritten(path, n_features="7")


def with_senseless_metadata(path):
    rewritten(path, batch_shape="{")


def without_a_tensor(path):
    rewritten(path, lambda tensors: tensors.pop("scale"))


def with_a_nan(path):
    rewritten(path, lambda tensors: tensors["means"].fill_(torch.nan))


def with_an_infinite_scale(path):
    rewritten(path, lambda tensors: tensors["scale"].fill_(-torch.inf))


def of_integers(path):
    rewritten(path, lambda tensors: tensors.update({n: t.long() for n, t in tensors.items()}))


DAMAGED = [
    (truncated, "is damaged or no safetensors file"),
    (cut_in_the_header, "is damaged or no safetensors file"),
    (emptied, "is damaged or no safetensors file"),
    (noise, "is damaged or no safetensors file"),
    (a_pickle, "is damaged or no safetensors file"),
    (a_foreign_file, "is a safetensors file, not of the format torchgmm"),
    (of_the_future, "format version 999.*reads up to 1.*install a newer one"),
    (of_an_unknown_version, "is damaged"),
    (of_an_unknown_family, "metadata are damaged.*covariance must be one of.*banana"),
    (without_metadata, "metadata are damaged.*n_components"),
    (with_wrong_metadata, r"means should be \(3, 7\), found \(3, 4\)"),
    (with_senseless_metadata, "metadata are damaged"),
    (without_a_tensor, r"scale should be \(3, 4, 4\), found None"),
    (with_a_nan, "is damaged: it holds NaN or infinite"),
    (with_an_infinite_scale, "is damaged: it holds NaN or infinite"),
    (of_integers, "int64"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED, ids=[d.__name__ for d, _ in DAMAGED])
def test_a_file_that_is_no_mixture_is_refused_by_name(damage, message, saved):
    damage(saved)
    with pytest.raises(StoreError, match=message) as caught:
        tg.load(saved)
    assert str(saved) in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"nothing\.safetensors does not exist"):
        tg.load(tmp_path / "nothing.safetensors")
    with pytest.raises(StoreError, match="is no file"):
        tg.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(saved):
    for target in (saved.parent / "absent" / "m.safetensors", saved / "m.safetensors"):
        with pytest.raises(StoreError, match=r"m\.safetensors cannot be written"):
            tg.save(mixture_of(), target)


def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    before = saved.read_bytes()
    with pytest.raises(StoreError, match="No space left"):
        tg.save(mixture_of("tied"), saved)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


# what a killed writer leaves ---------------------------------------------------------------------


def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def left_behind(folder, name, number, age=3600.0):
    path = folder / f"{name}.{number}.partial"
    path.write_bytes(b"half of a file")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_a_killed_writer_left_goes_at_the_next_write(tmp_path):
    number = gone()
    left = left_behind(tmp_path, "m.safetensors", number)
    kept = [
        left_behind(tmp_path, "m.safetensors", os.getppid()),  # still at work
        left_behind(tmp_path, "other.safetensors", number),  # another file's
        left_behind(tmp_path, "m.safetensors", f"{number}x"),  # somebody else's
        left_behind(tmp_path, "m.safetensors.2", number),
    ]
    tg.save(mixture_of(), tmp_path / "m.safetensors")
    assert not left.exists()
    assert all(path.exists() for path in kept)


def test_what_is_fresh_may_be_of_another_machine(tmp_path):
    fresh = left_behind(tmp_path, "m.safetensors", gone(), age=0)
    tg.save(mixture_of(), tmp_path / "m.safetensors")
    assert fresh.exists()
