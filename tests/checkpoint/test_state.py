"""A state is kept, saved and read; a fit to other rows goes on from it."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoint.common import FITS, X, assert_same_fit, every_method, fitted
from tests.contracts.test_method import assert_same, tensors
from tests.laws.test_blocks import Cut
from torchgmm import (
    EM,
    GaussianMixture,
    InputError,
    OnlineEM,
    Status,
    Tolerance,
    load_state,
    read_checkpoint,
    save_state,
)
from torchgmm.errors import StoreError

FEW = OnlineEM(batch_size=50)


def stream(x):
    return Cut(x, [50] * (len(x) // 50), replayable=False)


@every_method
def test_a_state_comes_back_whole(name, tmp_path):
    state = fitted(FITS[name])[1].state
    save_state(state, tmp_path / "state.safetensors")
    again = load_state(str(tmp_path / "state.safetensors"))
    assert type(again) is type(state)
    assert again.parameters.family == state.parameters.family
    assert_same(tensors(again), tensors(state))


@pytest.mark.parametrize("family", ["full", "tied_diagonal"])
@pytest.mark.parametrize("average", ["always", "auto"])
def test_days_of_a_stream_are_the_stream(family, average, tmp_path):
    method, file = OnlineEM(average=average, batch_size=50), tmp_path / "state.safetensors"
    start = fitted(EM(max_iter=0), family=family)[1].parameters
    whole, _ = fitted(method, stream(X), family=family, init=start)
    state = None
    for day in X.split(100):
        days, result = fitted(method, stream(day), family=family, init=start, state=state)
        assert result.status is Status.ENDED
        assert result.n_steps == 1
        save_state(result.state, file)
        state = load_state(file)
    assert state.rows_seen == 400
    assert_same(days.state_dict(), whole.state_dict())


def test_a_day_may_have_fewer_rows_than_components():
    state = fitted(FEW)[1].state
    mixture, result = fitted(dataclasses.replace(FEW, max_iter=1), X[:2], state=state)
    assert result.state.rows_seen == state.rows_seen + 2
    assert bool(torch.isfinite(mixture.means).all())
    with pytest.raises(InputError, match="2 row"):
        fitted(FEW, X[:2])


def test_other_rows_are_read_from_their_beginning():
    # the fit before stopped in the middle of a pass
    method = OnlineEM(max_iter=2, batch_size=50, rows_per_step=150)
    _, before = fitted(method)
    assert before.state.position > 0
    later = dataclasses.replace(method, max_iter=1, rows_per_step=None)
    _, after = fitted(later, X[:200], state=before.state)
    assert after.history[0].rows == 200
    assert after.state.rows_seen == before.state.rows_seen + 200


@pytest.mark.parametrize("name", ["em", "incremental", "reduced"])
def test_methods_whose_sums_are_of_the_rows_keep_the_parameters(name):
    state = fitted(FITS[name])[1].state
    got = fitted(FITS[name], X[:200], state=state, generator=5)
    expected = fitted(FITS[name], X[:200], init=state.parameters, generator=5)
    assert_same_fit(got, expected)


@every_method
def test_a_state_of_another_method_is_refused(name):
    other = FEW if not name.startswith("online") else EM()
    state = fitted(other)[1].state
    with pytest.raises(InputError, match=r"goes on from an? \w+State, got an? \w+State: give the"):
        fitted(FITS[name], state=state)


def test_a_state_of_another_mixture_is_refused():
    state = fitted(FEW)[1].state
    with pytest.raises(InputError, match="has K=3, D=2, full; this one has K=4, D=2, full"):
        GaussianMixture(4, dtype=torch.float64).fit(X, FEW, state=state)


def test_one_state_is_one_run():
    state = fitted(FEW)[1].state
    with pytest.raises(InputError, match="from one and the same start"):
        fitted(FEW, state=state, n_init=2)


def test_the_same_rows_and_other_rows_cannot_be_meant_at_once(written):
    resume = read_checkpoint(written)
    with pytest.raises(InputError, match=r"resume= goes on with the same rows, state= with other"):
        fitted(EM(), resume=resume, state=resume.state, stop=Tolerance(1))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-16])


def of_another_program(path):
    save_file({"weight": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncated, "is damaged or no safetensors file"),
        (of_another_program, "not of the format torchgmm-state"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
def test_a_file_that_is_no_state_is_refused_by_name(damage, said, tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(fitted(FEW)[1].state, path)
    damage(path)
    with pytest.raises(StoreError, match=said) as caught:
        load_state(path)
    assert str(path) in str(caught.value)


def test_a_checkpoint_is_no_state(written):
    with pytest.raises(StoreError, match="is a torchgmm-checkpoint file, not of the format"):
        load_state(written)
