"""Files that are no checkpoint, and checkpoints of another fit, are refused by name."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import torchgmm as tg
from tests.cases import blobs
from tests.checkpoint.common import X, fitted
from tests.laws.test_blocks import Cut
from torchgmm import EM, GaussianMixture, IncrementalEM, InputError, OnlineEM, read_checkpoint
from torchgmm.errors import StoreError


def rewritten(path, change=None, **metadata):
    """The same file with tensors or metadata changed; None leaves an entry out."""
    with safe_open(path, "pt") as archive:
        known = {**archive.metadata(), **metadata}
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    if change is not None:
        change(tensors)
    save_file(tensors, path, {key: value for key, value in known.items() if value is not None})


def content(path, change):
    with safe_open(path, "pt") as archive:
        known = json.loads(archive.metadata()["content"])
    change(known)
    rewritten(path, content=json.dumps(known))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-16])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:40])


def emptied(path):
    path.write_bytes(b"")


def noise(path):
    path.write_bytes(bytes(range(256)) * 8)


def of_another_program(path):
    save_file({"weight": torch.zeros(2)}, path)


def a_mixture(path):
    tg.save(GaussianMixture(2, 2), path)


def of_the_future(path):
    rewritten(path, format_version="999")


def without_a_tensor(path):
    rewritten(path, lambda tensors: tensors.pop("state.parameters.means"))


def without_the_generator(path):
    rewritten(path, lambda tensors: tensors.pop("generator"))


def without_content(path):
    rewritten(path, content=None)


def with_senseless_content(path):
    rewritten(path, content="{")


def with_content_of_another_shape(path):
    rewritten(path, content="[1, 2]")


def with_an_unknown_class(path):
    content(path, lambda known: known["state"].update(value="Popen"))


def with_a_field_too_many(path):
    content(path, lambda known: known["state"]["fields"].update(shell=True))


def without_a_field(path):
    content(path, lambda known: known["state"]["fields"].pop("parameters"))


def with_an_unknown_family(path):
    parameters = ("state", "fields", "parameters", "fields")

    def change(known):
        for name in parameters:
            known = known[name]
        known["family"] = {"family": "banana"}

    content(path, change)


def with_fields_that_are_none(path):
    content(path, lambda known: known["state"].update(fields=[1]))


def whose_state_is_none(path):
    content(path, lambda known: known.update(state=3))


DAMAGED = [
    (truncated, "is damaged or no safetensors file"),
    (cut_in_the_header, "is damaged or no safetensors file"),
    (emptied, "is damaged or no safetensors file"),
    (noise, "is damaged or no safetensors file"),
    (of_another_program, "is a safetensors file, not of the format torchgmm-checkpoint"),
    (a_mixture, "is a torchgmm file, not of the format torchgmm-checkpoint"),
    (of_the_future, "format version 999.*reads up to 1.*install a newer one"),
    (without_a_tensor, "is damaged.*state.parameters.means"),
    (without_the_generator, "is damaged.*generator"),
    (without_content, "is damaged.*content"),
    (with_senseless_content, "is damaged"),
    (with_content_of_another_shape, "is damaged"),
    (with_an_unknown_class, "is damaged.*Popen"),
    (with_a_field_too_many, "is damaged.*shell"),
    (without_a_field, "is damaged.*parameters"),
    (with_an_unknown_family, "is damaged.*banana"),
    (with_fields_that_are_none, "is damaged"),
    (whose_state_is_none, "is damaged"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED, ids=[d.__name__ for d, _ in DAMAGED])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(damage, message, written):
    damage(written)
    with pytest.raises(StoreError, match=message) as caught:
        read_checkpoint(written)
    assert str(written) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"nothing\.safetensors does not exist"):
        read_checkpoint(tmp_path / "nothing.safetensors")
    with pytest.raises(StoreError, match="is no file"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_is_no_mixture(written):
    with pytest.raises(StoreError, match="is a torchgmm-checkpoint file"):
        tg.load(written)


class Trap:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_read(tmp_path):
    path, mark = tmp_path / "fit.checkpoint", tmp_path / "sprung"
    torch.save({"state": Trap(mark)}, path)
    with pytest.raises(StoreError, match="is damaged or no safetensors file"):
        read_checkpoint(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap does work
    assert mark.exists()


# another fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixture", "rows", "told"),
    [
        (lambda: GaussianMixture(4), X, "has K=3, D=2, full; this one has K=4, D=2, full"),
        (lambda: GaussianMixture(3), blobs(60, 3), "has K=3, D=2, full; this one has K=3, D=3"),
        (lambda: GaussianMixture(3, covariance="tied"), X, "full; this one has K=3, D=2, tied"),
    ],
)
def test_a_checkpoint_of_another_mixture_is_refused(mixture, rows, told, written):
    with pytest.raises(InputError, match=told):
        mixture().fit(rows, IncrementalEM(), resume=read_checkpoint(written))


@pytest.mark.parametrize("method", [EM(), OnlineEM(), tg.VarianceReducedEM()])
def test_a_checkpoint_of_another_method_is_refused(method, written):
    said = r"goes on from an? \w+State, got an IncrementalState: give the method of the fit"
    with pytest.raises(InputError, match=said):
        fitted(method, resume=read_checkpoint(written), n_init=2)


def test_rows_that_are_cut_in_another_way_are_refused(written):
    with pytest.raises(InputError, match="the same rows in the same order every time"):
        fitted(
            IncrementalEM(max_iter=5, n_blocks=3),
            Cut(X, [100] * 4),
            resume=read_checkpoint(written),
            n_init=2,
        )
