"""Online EM: step sizes that count rows, drift, averaging, rescue."""

import math

import pytest
import torch

from tests.fitting.online import X, every_family, fitted, level, problem_of, start
from tests.fitting.test_rescue import X as WITH_ONE_AWAY
from tests.fitting.test_rescue import with_one_far_away
from tests.laws.test_blocks import Cut, single
from torchgmm import EM, GaussianMixture, InputError, OnlineEM, Parameters, Status, Tolerance
from torchgmm.data.arrays import ArraySource
from torchgmm.parameters import from_moments

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
        # axes that are searched for among the last ones are those to rounding
        exact = {"rtol": 0, "atol": 1e-12 if begin.family.coupled else 0}
        torch.testing.assert_close(state.running.scale[waiting], begin.scale[waiting], **exact)


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


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (100_000, {}, 1024),  # half the unit would be less
        (1_024_000, {}, 4000),
        (40_000_000, {}, 16_384),
        (40_000_000, {"rows_per_step": 512_000}, 2000),
        (40_000_000, {"batch_size": 100}, 100),
        (40_000_000, {"forget": 5000.0}, 1024),
    ],
)
def test_batches_grow_with_the_rows_so_that_m_steps_do_not(rows, options, expected):
    source = ArraySource(torch.zeros(1, 2).expand(rows, 2))  # one row in memory
    assert OnlineEM(**options)._batch_rows(start("full"), source) == expected
