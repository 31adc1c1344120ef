"""Online EM: step sizes that count rows, streams that are read once, going on, drift, averaging."""

import itertools
import math
import warnings

import pytest
import torch

from tests.cases import FAMILIES, Case
from tests.fitting.test_rescue import X as WITH_ONE_AWAY
from tests.fitting.test_rescue import with_one_far_away
from tests.laws.test_blocks import Cut, single
from torchgmm import (
    EM,
    GaussianMixture,
    IncrementalEM,
    InputError,
    OnlineEM,
    Parameters,
    Status,
    Tolerance,
)
from torchgmm.fitting import Observer, Problem, Resumption, State
from torchgmm.parameters import from_moments

every_family = pytest.mark.parametrize("family", FAMILIES)
APART = Case("apart", 3, 0, 10, 1, k=3, n=2000)
X = APART.rows()


def start(family="full"):
    """Means half a standard deviation off: 0.3 nats below the optimum."""
    return APART.start(family)


def problem_of(source, seed=0):
    return Problem(source, torch.Generator().manual_seed(seed))


def fitted(data, family="full", method=None, begin=None, **options):
    """A fit that the stopping rule does not end, from one and the same start."""
    mixture = GaussianMixture(3, covariance=family, dtype=torch.float64)
    method = method or OnlineEM(max_iter=2)
    options = {"generator": 0, "stop": Tolerance(0)} | options
    return mixture, mixture.fit(data, method, init=begin or start(family), **options)


def level(mixture, x=X):
    return float(mixture.score(x).detach())


def stream(x=X, rows=100):
    """A generator, which can be read once."""
    yield from x.split(rows)


# how good ----------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("batch_size", [None, 50, 256])
def test_two_passes_are_enough_on_separated_mixtures(family, batch_size):
    # for batches of any size: the clock counts rows
    best, _ = fitted(X, family, EM(), stop=Tolerance(1e-9))
    mixture, _ = fitted(X, family, OnlineEM(max_iter=2, batch_size=batch_size))
    assert level(mixture) > level(best) - 1e-3  # the number
    assert level(GaussianMixture.from_parameters(start(family))) < level(best) - 0.3


@every_family
def test_so_they_are_where_a_batch_is_all_rows(family):
    x = X[:600]
    best, _ = fitted(x, family, EM(), stop=Tolerance(1e-9))
    mixture, _ = fitted(x, family)
    assert level(mixture, x) > level(best, x) - 1e-3


def test_averaging_takes_the_noise_away():
    best, _ = fitted(X, "full", EM(), stop=Tolerance(1e-9))
    gaps = {}
    for average in ("always", "never", "auto"):
        mixture, _ = fitted(X, "full", OnlineEM(max_iter=4, batch_size=100, average=average))
        gaps[average] = level(best) - level(mixture)
    assert gaps["always"] < gaps["never"] / 4
    assert gaps["auto"] == gaps["always"]  # it notices


# the clock ---------------------------------------------------------------------------------------


def test_the_past_loses_a_factor_e_in_so_many_rows():
    # one component of variance 1 at 0, rows all at 1: its mean is the share of the rows
    method = OnlineEM(forget=500, average="never", batch_size=100, offset=1e9)
    for rows in (500, 1000, 3000):
        mixture = GaussianMixture(1, covariance="spherical", dtype=torch.float64)
        data = Cut(torch.ones(rows, 1).double(), [100] * (rows // 100), replayable=False)
        mixture.fit(data, method, init=single("spherical", 0.0), generator=0)
        # steps without forgetting are below rows / 1e9 ** 0.7
        assert float(mixture.means.detach()) == pytest.approx(1 - math.exp(-rows / 500), rel=1e-9)


def drifted(rows=20_000, block=400, **settings):
    """The means at the end of a stream of two clusters, whose first feature goes from 0 to 20."""
    g = torch.Generator().manual_seed(0)
    time = torch.linspace(0, 20, rows, dtype=torch.float64)
    sign = torch.randint(2, (rows,), generator=g) * 2 - 1
    x = torch.stack([time, 6.0 * sign], 1) + torch.randn(rows, 2, generator=g).double()
    begin = GaussianMixture.from_covariances(
        [0.5, 0.5], [[0.0, -5.0], [0.0, 5.0]], [[1.0, 1.0], [1.0, 1.0]], "diagonal"
    )
    mixture = GaussianMixture(2, covariance="diagonal", dtype=torch.float64)
    data = Cut(x, [block] * (rows // block), replayable=False)
    method = OnlineEM(batch_size=block, **settings)
    result = mixture.fit(data, method, init=begin.as_parameters(), generator=0)
    assert result.status is Status.ENDED
    means = mixture.means.detach()
    assert means[:, 1].tolist() == pytest.approx([-6, 6], abs=0.3)
    return means[:, 0]


@pytest.mark.parametrize("exponent", [0.7, 1.0])
def test_means_follow_a_drifting_stream_that_is_forgotten(exponent):
    # the stream moves by 0.5 in the 500 rows that are remembered; half of them are one cluster's,
    # so the noise of its mean is 1 / sqrt(250)
    place = drifted(forget=500, exponent=exponent)
    assert place.tolist() == pytest.approx([19.5, 19.5], abs=0.25)


def test_without_forgetting_they_stay_behind():
    # the plain mean of all rows is 10
    assert drifted(exponent=1.0).tolist() == pytest.approx([10, 10], abs=0.5)


def test_auto_notices_that_the_average_stays_behind():
    settings = {"forget": 500}
    assert float(drifted(average="always", **settings).max()) < 17
    auto, never = drifted(average="auto", **settings), drifted(average="never", **settings)
    assert torch.equal(auto, never)


@every_family
def test_a_component_waits_until_it_has_rows_enough(family):
    begin = start(family)
    state = OnlineEM().init(begin, problem := problem_of(Cut(X[:2], [1, 1])))
    state, _ = OnlineEM(reg_covar=0).step(state, problem)
    assert bool((state.seen < 2 + 1e-9).all())
    waiting = state.seen < begin.family.min_rows(3)
    assert bool(waiting.any())
    assert torch.equal(state.running.means[waiting], begin.means[waiting])
    if not begin.family.tied:
        assert torch.equal(state.running.scale[waiting], begin.scale[waiting])


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


def resumed(result, seed=0):
    """What goes on with other rows from what an ended fit left."""
    generator = torch.Generator().manual_seed(seed).get_state()
    return Resumption(1, result.state, (), None, generator)


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
    result = parts.fit(second, method, resume=resumed(half))
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
    from_state.fit(X[:64], method, resume=resumed(result), generator=0)
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


# settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"exponent": 0.5}, "exponent must be above 0.5 and at most 1"),
        ({"exponent": 1.1}, "exponent must be above 0.5 and at most 1"),
        ({"exponent": math.nan}, "exponent must be above 0.5"),
        ({"offset": 0}, "offset must be above 0"),
        ({"offset": math.inf}, "offset must be above 0"),
        ({"forget": -1.0}, "forget must be above 0"),
        ({"forget": math.nan}, "forget must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"rows_per_step": 0}, "rows_per_step must be at least 1"),
        ({"average": "sometimes"}, "average must be auto, always or never, got 'sometimes'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        OnlineEM(**setting)


# rescue ------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("average", ["always", "never"])
def test_a_replaced_component_starts_afresh(family, average):
    x, begin = WITH_ONE_AWAY, with_one_far_away(family)
    method = OnlineEM(max_iter=10, batch_size=90, average=average, forget=3.0)
    mixture, result = fitted(x, family, method, begin=begin)
    assert result.rescued >= 1
    assert result.state.rescues == result.rescued
    assert result.parameters.is_finite()
    # nothing of the place a million away is left in any mean or variance
    assert float(mixture.means.detach().abs().max()) < 20
    assert float(mixture.covariances.detach().abs().max()) < 100


@every_family
def test_what_a_lost_component_left_behind_is_dropped(family):
    begin, x = with_one_far_away(family), WITH_ONE_AWAY
    # a share that counts as none; at a distance of 1e6 it is a variance of 0.5 nevertheless
    shares = torch.tensor([0.5, 0.5, 5e-13], dtype=torch.float64)
    begin = Parameters(shares.log(), begin.means, begin.scale, begin.family)
    method, given = OnlineEM(average="never", offset=1e6), problem_of(Cut(x, [len(x)]))
    # steps of about 0.002: nearly nothing is learnt
    state, step = method.step(method.init(begin, given), given)
    assert step.rescued == 1
    again, hopeless = from_moments(state.moments, begin.family, method.reg_covar)
    assert not bool(hopeless.any())
    assert float(again.log_weights.exp()[2]) == pytest.approx(0.25)
    # what goes on is the mixture after the rescue, but for the floor, which came in twice
    for name in ("means", "scale"):
        a, b = getattr(again, name), getattr(state.running, name)
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)
