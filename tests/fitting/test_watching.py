"""Observers: told in order, never heard; and what an interrupt or an error leaves behind."""

import dataclasses

import pytest
import torch

import torchgmm as tg
from tests.cases import blobs, drawn
from torchgmm import (
    EM,
    Checkpoint,
    GaussianMixture,
    IncrementalEM,
    OnlineEM,
    Tolerance,
    VarianceReducedEM,
    read_checkpoint,
)
from torchgmm.fitting import Observer
from torchgmm.fitting.climb import on_device

X = blobs(200, 2, separation=2.0)  # overlapping: fits take some steps


def new(k=3):
    return GaussianMixture(k, dtype=torch.float64)


class Diary(Observer):
    def __init__(self, stop_at=None):
        self.lines, self.events, self.stop_at = [], [], stop_at

    def on_start(self, problem, method, n_init):
        self.lines.append(("start", method.max_iter, n_init, problem.source.n_features))

    def on_step(self, event):
        self.lines.append(("step", event.run, event.number))
        self.events.append(event)
        if (event.run, event.number) == self.stop_at:
            raise KeyboardInterrupt

    def on_end(self, result):
        self.lines.append(("end", result))


def test_observers_are_told_in_order():
    diary, other = Diary(), Diary()
    result = new().fit(
        X, EM(max_iter=3), stop=Tolerance(0), n_init=2, generator=0, observers=[diary, other]
    )
    steps = [("step", run, number) for run in (1, 2) for number in (1, 2, 3)]
    assert diary.lines == [("start", 3, 2, 2), *steps, ("end", result)]
    assert other.lines == diary.lines


def test_an_event_tells_the_step():
    diary = Diary()
    result = new().fit(X, EM(max_iter=4), stop=Tolerance(0), generator=0, observers=[diary])
    levels = [step.log_likelihood for step in result.history]
    assert [event.step.log_likelihood for event in diary.events] == levels
    assert diary.events[0].change == float("inf")
    assert diary.events[1].change == levels[1] - levels[0]
    last = diary.events[-1]
    assert (last.number, last.max_iter, last.run, last.n_init, last.rows) == (4, 4, 1, 1, 200)
    assert torch.equal(last.state.parameters.means, result.parameters.means)


def test_an_observer_does_not_change_the_fit():
    alone, watched = new(), new()
    alone.fit(X, EM(max_iter=5), generator=0)
    watched.fit(X, EM(max_iter=5), generator=0, observers=[Diary()])
    assert torch.equal(alone.means, watched.means)


def test_an_interrupt_leaves_the_last_step_in_the_mixture():
    diary, mixture = Diary(stop_at=(1, 4)), new()
    with pytest.raises(KeyboardInterrupt):
        mixture.fit(X, EM(max_iter=20), stop=Tolerance(0), generator=0, observers=[diary])
    assert diary.lines[-1] == ("end", None)
    expected = new()
    expected.fit(X, EM(max_iter=4), stop=Tolerance(0), generator=0)
    assert torch.equal(mixture.means, expected.means)


def test_an_interrupt_in_a_later_run_leaves_the_best_in_the_mixture():
    diary, mixture = Diary(stop_at=(2, 1)), new()
    with pytest.raises(KeyboardInterrupt):
        mixture.fit(
            X,
            EM(max_iter=30),
            stop=Tolerance(0),
            n_init=2,
            init="random",
            generator=0,
            observers=[diary],
        )
    first = new()
    first.fit(X, EM(max_iter=30), stop=Tolerance(0), init="random", generator=0)
    assert torch.equal(mixture.means, first.means)  # thirty steps beat one


def test_an_error_in_a_step_leaves_what_was_found_and_tells_the_observers():
    diary, mixture = Diary(), new(k=2)
    x = torch.cat([torch.zeros(30, 2), torch.ones(30, 2)]).double()
    x[:30, 0] += torch.arange(30)
    with pytest.raises(tg.TorchGMMError, match="no spread"):
        mixture.fit(x, EM(reg_covar=0), init=drawn("full", 2, 2), observers=[diary])
    assert diary.lines[-1] == ("end", None)
    assert bool(torch.isfinite(mixture.means).all())


class Bad(Observer):
    """Fails at the end."""

    def __init__(self, number):
        self.number = number

    def on_end(self, result):
        raise OSError(f"disk {self.number} is full")


def test_an_observer_that_fails_at_the_end_keeps_no_other_from_being_told():
    diary, mixture = Diary(), new()
    with pytest.raises(OSError, match="disk 1 is full"):
        mixture.fit(X, EM(max_iter=2), generator=0, observers=[Bad(1), diary, Bad(2)])
    assert diary.lines[-1][0] == "end"
    assert diary.lines[-1][1] is not None
    expected = new()
    expected.fit(X, EM(max_iter=2), generator=0)
    assert torch.equal(mixture.means, expected.means)


def test_what_ended_the_fit_is_what_is_raised():
    late = Diary()
    cut = Diary(stop_at=(1, 2))
    with pytest.raises(KeyboardInterrupt) as caught:
        new().fit(X, EM(max_iter=5), generator=0, observers=[cut, Bad(1), late])
    assert late.lines[-1] == ("end", None)
    assert caught.value.__notes__ == ["besides, an observer failed: OSError: disk 1 is full"]


@pytest.mark.parametrize("method", [EM(), OnlineEM(), IncrementalEM(), VarianceReducedEM()])
def test_a_state_is_moved_to_the_device_of_the_mixture(method):
    result = new().fit(X, dataclasses.replace(method, max_iter=2), generator=0, stop=Tolerance(0))
    moved = on_device((result.state, [result]), torch.device("meta"))
    assert {t.device.type for t in held(moved)} == {"meta"}
    assert len(held(moved)) == len(held((result.state, [result])))
    assert type(moved[0]) is type(result.state)
    assert moved[0].step == result.state.step


def held(value):
    """All tensors in a value."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for part in value for t in held(part)]
    if dataclasses.is_dataclass(value):
        return [t for f in dataclasses.fields(value) for t in held(getattr(value, f.name))]
    return []


@pytest.mark.cuda
@pytest.mark.parametrize("method", [EM(), OnlineEM(), IncrementalEM(), VarianceReducedEM()])
def test_a_fit_goes_on_on_another_device(method, tmp_path):
    path, method = tmp_path / "fit.safetensors", dataclasses.replace(method, max_iter=4)
    diary = Diary(stop_at=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        new().fit(X, method, generator=0, observers=[Checkpoint(path, 0), diary])
    there = GaussianMixture(3, dtype=torch.float64, device="cuda")
    there.fit(X, method, resume=read_checkpoint(path), stop=Tolerance(0))
    here = new()
    here.fit(X, method, resume=read_checkpoint(path), stop=Tolerance(0))
    # the same sums in another order, two steps
    torch.testing.assert_close(there.means.cpu(), here.means, rtol=1e-9, atol=1e-9)
