"""When a checkpoint is written: after steps, in their middle, at Ctrl-C and at errors."""

import pytest
import torch

import torchgmm as tg
from tests.checkpoint.common import FITS, X, assert_same_fit, cut, every_method, fitted, whole
from torchgmm import EM, Checkpoint, GaussianMixture, InputError, KMeans, read_checkpoint
from torchgmm.fitting import Observer


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
