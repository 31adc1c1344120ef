"""Uniforms, their test, and surprises: beside scipy, dense matrices and the density itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import torchgmm as tg
from tests.cases import FAMILIES, FLOATS, drawn
from torchgmm.density import _kolmogorov


def as_module(p, dtype=torch.float64):
    return tg.GaussianMixture.from_parameters(p, dtype=dtype)


def naive_uniforms(mixture, x):
    """`F(x_d | x_1 ... x_(d-1))` from covariance matrices, by solving for every conditional."""
    factor = mixture.scale_tril.detach().double()
    sigma, mu = (factor @ factor.mT).numpy(), mixture.means.detach().double().numpy()
    pi, (n, d) = mixture.weights.detach().double().numpy(), x.shape
    u = np.empty((n, d))
    for j in range(d):
        top = bottom = 0
        for k in range(len(pi)):
            earlier, own = x[:, :j] - mu[k, :j], sigma[k]
            gain = np.linalg.solve(own[:j, :j], own[:j, j]) if j else np.zeros(0)
            mean, spread = mu[k, j] + earlier @ gain, math.sqrt(own[j, j] - own[j, :j] @ gain)
            weight = np.full(n, pi[k])
            if j:
                weight = pi[k] * stats.multivariate_normal(mu[k, :j], own[:j, :j]).pdf(x[:, :j])
            top = top + weight * stats.norm(mean, spread).cdf(x[:, j])
            bottom = bottom + weight
        u[:, j] = top / bottom
    return u


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_uniforms_are_those_of_the_conditionals(family, dtype):
    mixture = as_module(drawn(family, 4, 3), dtype)
    x = mixture.sample((100,))
    u = tg.rosenblatt(mixture, x)
    assert (u.shape, u.dtype) == ((100, 3), dtype)
    expected = naive_uniforms(mixture, x.double().numpy())
    # float32: computed in float64 and rounded once
    np.testing.assert_allclose(u.detach(), expected, atol=1e-10 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_uniforms_stretch_space_as_the_density_says(family):
    # u is uniform, so the density of x is the determinant of du/dx, which is triangular
    mixture = as_module(drawn(family, 3, 4))
    for row in mixture.sample((5,)):
        slope = torch.autograd.functional.jacobian(
            lambda r: tg.rosenblatt(mixture, r.unsqueeze(0)).squeeze(0), row
        )
        assert float(slope.triu(1).abs().max()) == 0.0
        level = slope.diagonal().log().sum()
        torch.testing.assert_close(level, mixture.log_prob(row.unsqueeze(0))[0].detach())


@given(st.integers(0, 1000), st.sampled_from(["full", "tied"]))
def test_uniforms_move_with_the_rows(seed, family):
    # a map that keeps the order of the features, each from the earlier ones and rising in itself,
    # moves rows and mixture, and leaves what is smaller where it is
    g = torch.Generator().manual_seed(seed)
    mixture = as_module(drawn(family, 3, 4, seed=seed))
    A = torch.randn(4, 4, generator=g, dtype=torch.float64).tril(-1)
    A = A + torch.diag(torch.rand(4, generator=g, dtype=torch.float64) + 0.1)
    b = 10 * torch.randn(4, generator=g, dtype=torch.float64)
    x = mixture.sample((20,), g)
    moved = tg.affine(mixture, A, b)
    torch.testing.assert_close(
        tg.rosenblatt(moved, x @ A.mT + b), tg.rosenblatt(mixture, x), rtol=1e-7, atol=1e-9
    )


@given(st.integers(0, 1000))
def test_surprises_do_not_depend_on_the_order_of_the_features(seed):
    mixture = as_module(drawn("full", 3, 4, seed=seed))
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(4, generator=g)
    x = mixture.sample((20,), g)
    other = tg.surprise(tg.marginal(mixture, order.tolist()), x[:, order])
    torch.testing.assert_close(other, tg.surprise(mixture, x)[:, order])


def test_tails_keep_their_digits():
    mixture = tg.GaussianMixture.from_covariances([1.0], [[0.0]], [[1.0]], "diagonal")
    u = tg.rosenblatt(mixture, torch.tensor([[-30.0]], dtype=torch.float64))
    assert float(u.detach()) == pytest.approx(stats.norm.cdf(-30), rel=1e-9)


@pytest.mark.parametrize("far", [1e3, 1e30, 1e139])
def test_rows_at_absurd_distances_have_numbers(far):
    narrow = tg.GaussianMixture.from_covariances(
        [0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [1e-30, 1.0], "spherical", dtype=torch.float64
    )
    x = torch.tensor([[far, 0.0], [-far, far], [0.5, 0.5]], dtype=torch.float64)
    u = tg.rosenblatt(narrow, x)
    assert bool(((u >= 0) & (u <= 1)).all())
    assert not bool(tg.surprise(narrow, x).isnan().any())


def test_chunks_and_gradients(monkeypatch):
    mixture = as_module(drawn("full", 3, 2))
    x = mixture.sample((100,))
    for function in (tg.rosenblatt, tg.surprise):
        answers = []
        for budget in (2**23, 1):  # one chunk; chunks of 16 rows
            monkeypatch.setattr("torchgmm.density._BUDGET", budget)
            rows = x.clone().requires_grad_()
            mixture.zero_grad()
            answer = function(mixture, rows)
            (answer * torch.linspace(0, 1, 200, dtype=torch.float64).view(100, 2)).sum().backward()
            answers.append([answer.detach(), rows.grad, *(p.grad for p in mixture.parameters())])
        for one, other in zip(*answers, strict=True):
            torch.testing.assert_close(one, other)
        own = x[:4].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda r, f=function: f(mixture, r), own)


def test_batches_of_mixtures():
    p = drawn("full", 3, 2, batch=(2,))
    x = torch.randn(30, 2, dtype=torch.float64)
    for function in (tg.rosenblatt, tg.surprise):
        both = function(p, x)
        for b in range(2):
            one = tg.Parameters(p.logits[b], p.means[b], p.scale[b], p.family)
            torch.testing.assert_close(both[b], function(one, x))


@pytest.mark.parametrize("family", FAMILIES)
def test_surprise_is_what_leaving_a_feature_out_tells(family):
    mixture = as_module(drawn(family, 3, 3))
    x = mixture.sample((50,))
    found = tg.surprise(mixture, x)
    for j in range(3):
        rest = [i for i in range(3) if i != j]
        without = tg.marginal(mixture, rest).log_prob(x[:, rest])
        torch.testing.assert_close(found[:, j], without - mixture.log_prob(x))


# the test of uniformity -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["full", "spherical"])
def test_distances_and_p_values_are_scipys(family):
    mixture = as_module(drawn(family, 3, 3))
    for seed, n in enumerate((10, 100, 2000)):
        x = 1.1 * mixture.sample((n,), torch.Generator().manual_seed(seed))
        found = tg.calibrate(mixture, x)
        u = tg.rosenblatt(mixture, x).detach().numpy()
        for j in range(3):
            theirs = stats.kstest(u[:, j], "uniform")
            assert found.distance[j] == pytest.approx(theirs.statistic, abs=found.resolution)
            # asymptotic beside exact: Stephens' correction is good to a hundredth with ten rows
            assert found.p_value[j] == pytest.approx(theirs.pvalue, abs=0.02)
        assert found.log_likelihood == pytest.approx(float(mixture.score(x)))
        assert found.n_rows == n
        torch.testing.assert_close(found.histogram.sum(-1), torch.ones(3).double())
        first = np.histogram(u[:, 0], 20, (0, 1))[0] / n
        # the twenty parts end at counters, whose width is the resolution
        assert np.abs(found.histogram[0].numpy() - first).max() <= 2 / n


def test_the_law_of_the_distance_is_kolmogorovs():
    s = torch.linspace(0.01, 4, 400, dtype=torch.float64)
    n = 1e20  # no correction is left
    found = _kolmogorov(s / math.sqrt(n), n)
    np.testing.assert_allclose(found, stats.kstwobign.sf(s.numpy()), atol=1e-9)


def test_the_right_mixture_has_p_values_that_are_uniform():
    mixture = as_module(drawn("full", 3, 2))
    g = torch.Generator().manual_seed(0)
    p = [tg.calibrate(mixture, mixture.sample((300,), g)).p_value for _ in range(100)]
    # 200 independent p-values: their own distance is below 0.115 with probability 0.99
    assert stats.kstest(torch.cat(p).numpy(), "uniform").statistic < 0.115


def test_wrong_mixtures_are_told_by_the_feature_that_is_wrong():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 3, generator=g, dtype=torch.float64)
    x[:, 1] = x[:, 1].exp()  # log-normal: no Gaussian
    mixture = tg.GaussianMixture(1, dtype=torch.float64)
    mixture.fit(x, generator=0)
    found = tg.calibrate(mixture, x)
    assert found.p_value[1] < 1e-10
    assert found.p_value[[0, 2]].min() > 0.05
    assert found.p_value_of_all < 1e-9
    assert "feature 1" in str(found)
    assert len(found.to_markdown().splitlines()) == 2 + 3


def test_held_out_rows_tell_what_the_fits_own_do_not():
    # 40 components on 200 rows: their own rows look right, others do not
    g = torch.Generator().manual_seed(0)
    x, new = (torch.randn(n, 2, generator=g, dtype=torch.float64) for n in (200, 2000))
    mixture = tg.GaussianMixture(40, dtype=torch.float64)
    mixture.fit(x, tg.EM(reg_covar=1e-4), generator=0)
    own, other = tg.calibrate(mixture, x), tg.calibrate(mixture, new)
    assert own.p_value_of_all > 0.05 > 1e-4 > other.p_value_of_all
    assert own.log_likelihood > other.log_likelihood + 1


def test_sources_and_weights(tmp_path):
    mixture = as_module(drawn("full", 3, 2))
    x = mixture.sample((500,))
    np.save(tmp_path / "rows.npy", x.numpy())
    whole = tg.calibrate(mixture, x)
    for data in (tmp_path / "rows.npy", iter(x.split(64)), x.numpy()):
        found = tg.calibrate(mixture, data)
        torch.testing.assert_close(found.distance, whole.distance)
        assert found.log_likelihood == pytest.approx(whole.log_likelihood)
    w = torch.randint(0, 3, (500,))
    spoilt = x.clone()
    spoilt[w == 0] = torch.nan
    one, other = tg.calibrate(mixture, spoilt, w), tg.calibrate(mixture, x.repeat_interleave(w, 0))
    torch.testing.assert_close(one.distance, other.distance)
    torch.testing.assert_close(one.p_value, other.p_value)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: tg.rosenblatt(m, [[1.0]]), "rows have 1 columns"),
        (lambda m: tg.surprise(m, [[1.0, math.nan]]), "NaN or infinite"),
        (lambda m: tg.calibrate(m, torch.zeros(4, 3)), "rows have 3 columns"),
        (lambda m: tg.calibrate(m, torch.zeros(4, 2), [0, 0, 0, 0]), "all 4 weights are zero"),
    ],
)
def test_wrong_rows_are_refused(call, text):
    with pytest.raises(tg.InputError, match=text):
        call(as_module(drawn("full", 2, 2)))
