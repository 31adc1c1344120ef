"""The bootstrap likelihood ratio: published statistics, a law that holds its level, errors."""

import numpy as np
import pytest
import torch
from scipy import stats

import torchgmm as tg
from tests.cases import FAMILIES, blobs
from torchgmm.data import Block
from torchgmm.selection.replicates import Fits
from torchgmm.selection.starts import Centres, Sample


def faithful(root):
    return np.genfromtxt(root / "configs/data/faithful.csv", delimiter=",", skip_header=1)


def test_old_faithful_is_not_one_gaussian(root):
    # mclustBootstrapLRT (Scrucca et al. 2016, The R Journal 8): VVV, 1 vs 2: 319.065, p = 0.001
    told = []
    found = tg.bootstrap_test(
        faithful(root), 1, n_replicates=39, generator=0, on_replicates=told.append
    )
    assert found.statistic == pytest.approx(319.065, abs=0.05)
    assert found.p_value == 1 / 40  # none of 39 replicates comes near
    assert float(found.replicates.max()) < 60
    assert told[-1] == 39
    assert str(found).startswith("1 against 2 full components: likelihood ratio 319.1, p = 0.025")


def test_the_statistic_is_that_of_its_mixtures():
    x = blobs(100, 2, 3, 5.0)
    for family in FAMILIES:
        found = tg.bootstrap_test(x, 2, family, n_replicates=3, tol=1e-4, generator=0)
        low, high = found.null, found.alternative
        assert (low.n_components, high.n_components) == (2, 3)
        own = 2 * 100 * float(high.score(x) - low.score(x))
        # the level is of the last E-step; the parameters are one step further, within tol
        assert found.statistic == pytest.approx(own, abs=2 * 100 * 1e-4)
        assert bool((found.replicates > -0.1).all())  # a split explains at least as much


def test_a_batch_of_fits_is_the_fits_one_by_one():
    g = torch.Generator().manual_seed(3)
    x = torch.stack([blobs(120, 2, 3, 5.0, seed=s) for s in range(4)])
    x = x + 0.1 * torch.randn(x.shape, generator=g, dtype=torch.float64)
    family = tg.GaussianMixture(1).family
    fits = Fits(family, 1e-6, 1, 1e-7, 200, torch.Generator())
    starts = fits._started(x, 3, [Centres(rows[:3]) for rows in x])
    ends = fits._climb(x, starts, [Sample(Block(rows, None, 0), g) for rows in x])
    for b, rows in enumerate(x):
        mixture = tg.GaussianMixture(3, dtype=torch.float64)
        start = starts.map(lambda t, b=b: t[b])
        method = tg.EM(max_iter=200, rescue=tg.Rescue(empty="keep", collapsed="keep"))
        mixture.fit(rows, method, init=start, stop=tg.Tolerance(1e-7))
        assert float(ends.level[b]) == pytest.approx(float(mixture.score(rows)), abs=1e-6)


@pytest.mark.slow
def test_p_values_under_the_hypothesis_are_uniform():
    # the test holds its level: rows of one Gaussian, one against two components
    g = torch.Generator().manual_seed(0)
    p = []
    for seed in range(60):
        x = torch.randn(60, 1, generator=g, dtype=torch.float64)
        found = tg.bootstrap_test(x, 1, "tied", n_replicates=19, n_init=1, tol=1e-4, generator=seed)
        p.append(found.p_value)
    # p-values are multiples of 1/20: their distance from uniform is at most 0.05 more. The 99 %
    # point of 60 uniforms' distance is 0.207
    assert stats.kstest(p, "uniform").statistic < 0.26


def test_blobs_are_counted():
    x = blobs(200, 2, 3, 8.0)
    p = [tg.bootstrap_test(x, k, "spherical", n_replicates=19, generator=0).p_value for k in (2, 3)]
    assert p[0] < 0.06  # 1 / 20, or 1 / 19 where a replicate had no sound fit
    assert p[1] > 0.05


def test_equal_seeds_give_equal_tests(tmp_path):
    x = blobs(100, 2, 2, 4.0)
    np.save(tmp_path / "rows.npy", x.numpy())
    one, other, file = (
        tg.bootstrap_test(data, 1, n_replicates=3, tol=1e-3, generator=7)
        for data in (x, x.numpy(), tmp_path / "rows.npy")
    )
    assert torch.equal(one.replicates, other.replicates)
    assert torch.equal(one.replicates, file.replicates)
    assert one.statistic == other.statistic


def test_small_batches_give_the_same_law(monkeypatch):
    x = blobs(100, 2, 2, 4.0)
    quick = {"n_replicates": 20, "n_init": 1, "tol": 1e-3, "generator": 7}
    whole = tg.bootstrap_test(x, 1, **quick).replicates
    monkeypatch.setattr("torchgmm.selection.replicates._TOGETHER", 100 * 2 * 3)
    parts = tg.bootstrap_test(x, 1, **quick).replicates
    assert len(parts) == 20
    assert stats.ks_2samp(whole, parts).pvalue > 0.01


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_components": 0}, "n_components must be at least 1"),
        ({"n_components": 30}, "50 row.s. are too few for a test of 30 against 31"),
        ({"n_replicates": 0}, "n_replicates must be at least 1"),
        ({"n_init": 0}, "n_init must be at least 1"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"reg_covar": -1.0}, "reg_covar must be at least 0"),
        ({"covariance": "round"}, "covariance must be one of"),
        ({"generator": -1}, "the seed"),
    ],
)
def test_wrong_settings_are_refused(options, text):
    options = {"n_components": 1, "n_replicates": 2} | options
    with pytest.raises(tg.InputError, match=text):
        tg.bootstrap_test(blobs(50), **options)


def test_rows_that_cannot_be_tested_say_so():
    with pytest.raises(tg.InputError, match="NaN or infinite"):
        tg.bootstrap_test(blobs(50) * torch.nan, 1)
    equal = torch.ones(50, 2, dtype=torch.float64)
    with pytest.raises(tg.InputError, match="no sound fit of 1 full component"):
        tg.bootstrap_test(equal, 1, reg_covar=0.0)
    # two values only: two components sit on them and have no width of their own
    two = torch.tensor([[0.0], [9.0]], dtype=torch.float64).repeat(25, 1)
    with pytest.raises(tg.InputError, match="no sound fit of 2 full component"):
        tg.bootstrap_test(two, 1)
    source = tg.as_source(blobs(50), torch.rand(50))
    with pytest.raises(tg.InputError, match="give rows without weights"):
        tg.bootstrap_test(source, 1)
