"""Online EM over streams that are read once, and going on from what it has learnt."""

import itertools
import math
import warnings

import pytest
import torch

from tests.fitting.online import X, every_family, fitted, level, problem_of, start, stream
from tests.laws.test_blocks import Cut
from torchgmm import EM, GaussianMixture, IncrementalEM, InputError, OnlineEM, Status, Tolerance
from torchgmm.fitting import Observer, State

# streams that are read once ----------------------------------------------------------------------


class Levels(Observer):
    """Keeps the state after every step."""

    def __init__(self):
        self.states = []

    def on_step(self, event):
        self.states.append(event.state)


def test_a_generator_is_read_once_and_the_fit_has_ended():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixture, result = fitted(stream())
    assert result.status is Status.ENDED
    assert result.message == "the stream of rows has ended"
    assert [step.rows for step in result.history] == [2000]
    best, _ = fitted(X, "full", EM(), stop=Tolerance(1e-9))
    # less than 2,000 rows tell about the truth: 29 parameters / (2 * 2,000 rows) = 0.007 nats
    assert level(mixture) > level(best) - 0.007


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "random"])
def test_a_start_can_be_drawn_from_the_stream_itself(init):
    mixture = GaussianMixture(3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mixture.fit(stream(), OnlineEM(), init=init, generator=0)
    assert result.status is Status.ENDED
    assert [step.rows for step in result.history] == [2000]  # the drawn rows are not lost
    assert result.parameters.is_finite()
    if init == "kmeans":
        best, _ = fitted(X, "full", EM(), stop=Tolerance(1e-9))
        assert level(mixture) > level(best) - 0.007


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (EM(), "exact EM reads all rows at every step"),
        (IncrementalEM(), "incremental EM reads the same blocks at every step"),
    ],
)
@pytest.mark.parametrize("init", ["parameters", "kmeans"])
def test_other_methods_say_why_they_cannot_use_it(method, why, init):
    begin = start() if init == "parameters" else init
    with pytest.raises(InputError, match=rf"{why}.* only once: .*use OnlineEM"):
        GaussianMixture(3, dtype=torch.float64).fit(stream(), method, init=begin)


@pytest.mark.parametrize("rows", [100, 250, 2000, 5000])
def test_steps_are_of_so_many_rows(rows):
    method = OnlineEM(max_iter=100, batch_size=100, rows_per_step=rows)
    _, result = fitted(stream(rows=300), method=method)
    assert result.status is Status.ENDED
    read = [step.rows for step in result.history]
    step = math.ceil(rows / 100) * 100  # whole batches
    assert read[:-1] == [step] * (len(read) - 1)
    assert 0 < read[-1] <= step
    assert sum(read) == 2000
    assert all(math.isfinite(step.log_likelihood) for step in result.history)


def test_steps_of_any_size_read_the_same_rows():
    whole, _ = fitted(stream(), method=OnlineEM(batch_size=100, average="never"))
    for rows in (100, 700):
        method = OnlineEM(max_iter=50, batch_size=100, average="never", rows_per_step=rows)
        pieces, _ = fitted(stream(), method=method)
        assert torch.equal(pieces.means, whole.means)
        assert torch.equal(pieces.scale, whole.scale)


def test_an_endless_stream_ends_with_the_budget():
    g = torch.Generator().manual_seed(0)
    endless = (X[torch.randint(2000, (5000,), generator=g)] for _ in itertools.count())
    method = OnlineEM(max_iter=3, rows_per_step=5000)
    mixture, result = fitted(endless, method=method)
    assert result.status is Status.BUDGET_SPENT
    assert result.n_steps == 3
    assert sum(step.rows for step in result.history) == 3 * 5 * 1024
    # 15,360 random rows: 29 parameters / (2 * 15,360 rows) = 0.001 nats are lost to their noise
    assert level(mixture) > level(fitted(X, "full", EM())[0]) - 0.003


def test_an_array_is_read_again_after_its_end():
    method = OnlineEM(max_iter=7, batch_size=100, rows_per_step=1000)
    _, result = fitted(X, method=method)
    assert [step.rows for step in result.history] == [1000] * 7
    assert result.state.epoch == 3
    assert result.state.rows_seen == 7000
    _, whole = fitted(X, method=OnlineEM(max_iter=3, batch_size=100))
    _, pieces = fitted(X, method=OnlineEM(max_iter=6, batch_size=100, rows_per_step=1000))
    assert torch.equal(pieces.state.running.means, whole.state.running.means)


# going on ----------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("average", ["always", "never", "auto"])
def test_two_halves_of_a_stream_are_the_stream(family, average):
    sizes, method = [100] * 20, OnlineEM(average=average, batch_size=100)
    whole, _ = fitted(Cut(X, sizes, replayable=False), family, method)
    parts = GaussianMixture(3, covariance=family, dtype=torch.float64)
    first = Cut(X[:900], sizes[:9], replayable=False)
    half = parts.fit(first, method, init=start(family), generator=0)
    assert half.state.rows_seen == 900
    second = Cut(X[900:], sizes[9:], replayable=False)
    result = parts.fit(second, method, state=half.state)
    assert result.status is Status.ENDED
    assert result.state.rows_seen == 2000
    for name in ("logits", "means", "scale"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))


def test_going_on_from_the_mixture_alone_starts_the_clock_again():
    mixture, result = fitted(X, method=OnlineEM(max_iter=1))
    kept = mixture.means.detach().clone()
    again = mixture.fit(X[:64], OnlineEM(max_iter=1, batch_size=8), init="current", generator=0)
    assert again.state.rows_seen == 64
    from_state = GaussianMixture(3, dtype=torch.float64)
    method = OnlineEM(max_iter=1, batch_size=8)
    from_state.fit(X[:64], method, state=result.state, generator=0)
    # with its clock kept a mixture is moved less by a few new rows
    moved = float((from_state.means.detach() - kept).abs().max())
    assert moved < float((mixture.means.detach() - kept).abs().max()) / 2


def test_a_state_of_another_method_is_refused():
    with pytest.raises(InputError, match="OnlineEM goes on from an OnlineState, got a State"):
        OnlineEM().step(State(start()), problem_of(Cut(X, [2000])))


def broken(x, good):
    """Batches of a hundred rows, of which only so many can be read."""
    yield from x[: 100 * good].split(100)
    raise OSError("disk gone")


def test_a_loader_that_fails_leaves_what_was_learnt():
    # batches are mixed in windows of 65,536 rows: half of the first one is given before row 90,000
    x, watch = X.repeat(46, 1), Levels()
    method = OnlineEM(max_iter=9, batch_size=4096, rows_per_step=16_384)
    mixture = GaussianMixture(3, dtype=torch.float64)
    with pytest.raises(InputError, match=r"batch 900 .*of broken could not be loaded.*disk gone"):
        mixture.fit(
            broken(x, 900), method, init=start(), generator=0, observers=[watch], stop=Tolerance(0)
        )
    assert len(watch.states) == 2
    assert watch.states[1].rows_seen == 32_768
    assert torch.equal(mixture.means, watch.states[1].parameters.means)
