"""A fit that is cut off goes on bit for bit; a checkpoint is whole or the one before it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from functools import cache

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import torchgmm as tg
from tests.cases import FAMILIES, blobs
from tests.conftest import ROOT
from tests.contracts.test_method import METHODS, assert_same, tensors
from tests.laws.test_blocks import Cut
from torchgmm import (
    EM,
    Checkpoint,
    GaussianMixture,
    IncrementalEM,
    InputError,
    KMeans,
    OnlineEM,
    Status,
    Tolerance,
    read_checkpoint,
)
from torchgmm.errors import StoreError
from torchgmm.fitting import Observer

X = blobs(400, 2, separation=2.0)  # overlapping: no fit is at rest after some steps
# with some M-steps in a pass; one of them ends its steps in the middle of a pass
FITS = {
    name: entry.kind(max_iter=5, **({entry.rows: 100} if entry.rows else {}))
    for name, entry in METHODS.items()
} | {
    "online in pieces": OnlineEM(max_iter=5, batch_size=50, rows_per_step=150),
    "online averaged": OnlineEM(max_iter=5, batch_size=50, average="always"),
}
every_method = pytest.mark.parametrize("name", FITS)


class Cutter(Observer):
    """Ctrl-C after a certain step."""

    def __init__(self, *where):
        self.where = where

    def on_step(self, event):
        if (event.run, event.number) == self.where:
            raise KeyboardInterrupt


class Watch(Observer):
    """Keeps the last event."""

    def on_step(self, event):
        self.event = event


def fitted(method, x=X, family="full", dtype=torch.float64, **options):
    mixture = GaussianMixture(3, covariance=family, dtype=dtype)
    options = {"generator": 0, "stop": Tolerance(0), "init": "random_from_data"} | options
    return mixture, mixture.fit(x, method, **options)


def cut(path, method, *where, every=0.0, **options):
    """A fit that Ctrl-C ends there; what is left is its checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        fitted(method, observers=[Checkpoint(path, every), Cutter(*where)], **options)
    return read_checkpoint(path)


@cache
def whole(name, **options):
    """The fit that is not cut."""
    return fitted(FITS[name], **options)


def assert_same_fit(got, expected):
    """Every number is equal but the seconds."""
    (mixture, result), (other, uncut) = got, expected
    assert_same(mixture.state_dict(), other.state_dict())
    assert_same(tensors(result.state), tensors(uncut.state))
    assert result.runs == uncut.runs
    assert result.status is uncut.status
    told = [[dataclasses.replace(s, seconds=0) for s in r.history] for r in (result, uncut)]
    assert told[0] == told[1]


# bit for bit -------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("where", [(1, 5), (2, 2), (3, 4)])
def test_a_fit_goes_on_as_if_it_had_not_been_cut(name, where, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    resume = cut(path, method, *where, n_init=3)
    assert resume.run == where[0]
    assert len(resume.history) == where[1]
    # the generator's state is the checkpoint's, whatever is handed in
    got = fitted(method, n_init=3, resume=resume, generator=99)
    assert_same_fit(got, whole(name, n_init=3))


@every_method
@pytest.mark.parametrize("family", FAMILIES)
def test_so_does_one_of_any_family_in_float32(name, family, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    options = {"family": family, "dtype": torch.float32, "x": X.float()}
    resume = cut(path, method, 1, 3, **options)
    assert_same_fit(fitted(method, resume=resume, **options), fitted(method, **options))


@every_method
def test_a_fit_may_be_cut_at_every_step(name, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    resume = None
    for number in range(1, 6):
        resume = cut(path, method, 1, number, resume=resume)
    assert_same_fit(fitted(method, resume=resume), whole(name))


@every_method
def test_a_checkpoint_holds_the_whole_state(name, tmp_path):
    resume = cut(tmp_path / "fit.safetensors", FITS[name], 1, 3)
    third = Watch()
    fitted(dataclasses.replace(FITS[name], max_iter=3), observers=[third])
    assert type(resume.state) is type(third.event.state)
    assert_same(tensors(resume.state), tensors(third.event.state))
    assert resume.history == tuple(
        dataclasses.replace(step, seconds=own.seconds)
        for step, own in zip(third.event.history, resume.history, strict=True)
    )


def test_a_budget_that_was_spent_is_raised_by_going_on(tmp_path):
    path = tmp_path / "fit.safetensors"
    _, short = fitted(EM(max_iter=4), observers=[Checkpoint(path, 0)])
    assert short.status is Status.BUDGET_SPENT
    resume = read_checkpoint(path)
    assert_same_fit(fitted(EM(max_iter=9), resume=resume), fitted(EM(max_iter=9)))
    assert_same_fit(fitted(EM(max_iter=4), resume=resume), fitted(EM(max_iter=4)))


def test_a_fit_that_had_ended_makes_no_step_more(tmp_path):
    path = tmp_path / "fit.safetensors"
    first = fitted(EM(), stop=Tolerance(1e-3), observers=[Checkpoint(path, 0)])
    assert first[1].status is Status.CONVERGED
    again = fitted(EM(), stop=Tolerance(1e-3), resume=read_checkpoint(path))
    assert_same_fit(again, first)
    assert again[1].seconds == first[1].seconds  # nothing was computed


def test_a_stream_that_had_ended_has_ended(tmp_path):
    path = tmp_path / "fit.safetensors"
    options = {"init": GaussianMixture(3, 2, dtype=torch.float64).as_parameters()}
    first = fitted(OnlineEM(), iter(X.split(50)), observers=[Checkpoint(path, 0)], **options)
    assert first[1].status is Status.ENDED
    assert_same_fit(fitted(OnlineEM(), iter(X.split(50)), resume=read_checkpoint(path)), first)


# when it is written ------------------------------------------------------------------------------


def test_the_first_step_is_written_and_then_it_waits(tmp_path):
    path, lengths = tmp_path / "fit.safetensors", []

    class Look(Observer):
        def on_step(self, event):
            lengths.append(len(read_checkpoint(path).history))

    fitted(EM(max_iter=4), observers=[Checkpoint(path, every=1e6), Look()])
    assert lengths == [1, 1, 1, 1]
    lengths.clear()
    fitted(EM(max_iter=4), observers=[Checkpoint(path, every=0), Look()])
    assert lengths == [1, 2, 3, 4]


def test_the_time_between_writes_is_kept(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr("torchgmm.checkpoint.time.monotonic", lambda: now[0])

    class Clock(Observer):
        def on_step(self, event):
            written.append(len(read_checkpoint(tmp_path / "f").history))
            now[0] += 25

    fitted(EM(max_iter=7), observers=[Checkpoint(tmp_path / "f", every=60), Clock()])
    assert written == [1, 1, 1, 4, 4, 4, 7]  # at 0, 75 and 150 seconds


@every_method
def test_ctrl_c_writes_the_last_step_that_was_complete(name, tmp_path):
    resume = cut(tmp_path / "fit.safetensors", FITS[name], 1, 4, every=1e6)
    assert len(resume.history) == 4
    assert_same_fit(fitted(FITS[name], resume=resume), whole(name))


class Unwilling(KMeans):
    """Random rows whose second draw is stopped by Ctrl-C, after it has drawn."""

    calls = 0

    def __call__(self, source, *args):
        start = tg.RandomRows()(source, *args)
        type(self).calls += 1
        if type(self).calls == 2:
            raise KeyboardInterrupt
        return start


@pytest.mark.parametrize("every", [0.0, 1e6])
def test_ctrl_c_between_two_runs_does_not_lose_the_draws(every, tmp_path):
    Unwilling.calls = 0
    path = tmp_path / "fit.safetensors"
    method, watch = EM(max_iter=3), Checkpoint(path, every)
    with pytest.raises(KeyboardInterrupt):
        fitted(method, n_init=3, init=Unwilling(), observers=[watch])
    got = fitted(method, n_init=3, resume=read_checkpoint(path))
    assert_same_fit(got, fitted(method, n_init=3))


class Fragile:
    """Batches that cannot all be read the first times: the loader is mended later."""

    def __init__(self, good):
        self.good = good

    def __call__(self):
        for x in X.split(50):
            if self.good == 0:
                raise OSError("cable out")
            self.good -= 1
            yield x


@every_method
def test_a_loader_that_fails_leaves_a_checkpoint_to_go_on_from(name, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    options = {"init": GaussianMixture(3, 2, dtype=torch.float64).as_parameters()}
    source = Fragile(good=12)  # a pass is 8
    with pytest.raises(InputError, match="cable out"):
        fitted(method, source, observers=[Checkpoint(path, 1e6)], **options)
    resume = read_checkpoint(path)
    assert 1 <= len(resume.history) < 5
    source.good = 10_000
    got = fitted(method, source, resume=resume, **options)
    assert_same_fit(got, fitted(method, Fragile(10_000), **options))


def test_nothing_is_written_before_a_step_was_made(tmp_path):
    with pytest.raises(InputError, match="cable out"):
        fitted(EM(), Fragile(good=9), observers=[Checkpoint(tmp_path / "f", 0)])
    assert list(tmp_path.iterdir()) == []


# killed ------------------------------------------------------------------------------------------

VICTIM = """
    import sys, time, torch
    torch.set_num_threads(1)
    from tests.test_checkpoint import FITS, X, fitted
    from torchgmm import Checkpoint
    from torchgmm.fitting import Observer

    class Tell(Observer):
        def on_step(self, event):
            print(event.run, event.number, flush=True)
            time.sleep(0.01)

    fitted(FITS["online in pieces"], n_init=1000, observers=[Checkpoint(sys.argv[1], 0), Tell()])
"""


def test_a_fit_killed_at_any_moment_goes_on_bit_for_bit(tmp_path):
    path = tmp_path / "fit.safetensors"
    command = [sys.executable, "-c", textwrap.dedent(VICTIM), str(path)]
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout is not None
        for line in victim.stdout:
            if line.split() == ["2", "2"]:
                break
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait(timeout=30)
    assert victim.returncode == -signal.SIGKILL
    resume = read_checkpoint(path)
    assert (resume.run, len(resume.history)) >= (2, 2)
    runs = resume.run + 1
    name = "online in pieces"
    assert_same_fit(fitted(FITS[name], n_init=runs, resume=resume), whole(name, n_init=runs))


# the file ----------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "fit.safetensors"
    cut(path, IncrementalEM(max_iter=5, n_blocks=3), 2, 2, n_init=2)
    return path


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


@pytest.mark.parametrize("method", [OnlineEM(), tg.VarianceReducedEM()])
def test_a_checkpoint_of_another_method_is_refused(method, written):
    with pytest.raises(InputError, match=r"goes on from .* got a IncrementalState"):
        fitted(method, resume=read_checkpoint(written), n_init=2)


def test_rows_that_are_cut_in_another_way_are_refused(written):
    with pytest.raises(InputError, match="the same rows in the same order every time"):
        fitted(
            IncrementalEM(max_iter=5, n_blocks=3),
            Cut(X, [100] * 4),
            resume=read_checkpoint(written),
            n_init=2,
        )
