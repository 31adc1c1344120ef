"""What a mixture says of rows besides their density: component by component."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import distance
from scipy.stats import multivariate_normal

import torchgmm as tg
from tests.cases import FAMILIES, FLOATS, GRID, drawn


def as_module(p, dtype=torch.float64):
    return tg.GaussianMixture.from_parameters(p, dtype=dtype)


def matrices(mixture):
    factor = mixture.scale_tril.detach().double()
    return (factor @ factor.mT).numpy()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_components_are_scipys_normals(family, dtype):
    mixture = as_module(drawn(family, 4, 3), dtype)
    x = mixture.sample((50,))
    densities, distances = mixture.component_log_prob(x), mixture.mahalanobis(x)
    assert densities.shape == distances.shape == (50, 4)
    assert densities.dtype == distances.dtype == dtype
    means = mixture.means.detach().double().numpy()
    for k, covariance in enumerate(matrices(mixture)):
        rows = x.double().numpy()
        expected = multivariate_normal(means[k], covariance).logpdf(rows)
        apart = [distance.mahalanobis(r, means[k], np.linalg.inv(covariance)) ** 2 for r in rows]
        # float32: a hundred sums of squares up to some 1e3, rounded at 1e-7 of that
        tight = 1e-9 if dtype == torch.float64 else 2e-4
        np.testing.assert_allclose(densities[:, k].detach(), expected, rtol=tight, atol=tight)
        np.testing.assert_allclose(distances[:, k].detach(), apart, rtol=tight, atol=tight)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_gradients_and_without_they_are_the_same(family):
    p = drawn(family, 3, 2, batch=(2,))
    mixture = as_module(p)
    x = torch.randn(40, 2, dtype=torch.float64)
    for question in ("component_log_prob", "mahalanobis", "membership_entropy"):
        ask = getattr(mixture, question)
        tracked = ask(x)
        assert tracked.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(ask(x), tracked.detach())
        rows = x.clone().requires_grad_()
        assert torch.autograd.gradcheck(ask, rows[:3])


OF_EACH = {
    "log_prob": (),
    "log_joint": (3,),
    "component_log_prob": (3,),
    "mahalanobis": (3,),
    "responsibilities": (3,),
    "membership_entropy": (),
    "predict": (),
}


@pytest.mark.parametrize("question", OF_EACH)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_no_rows_have_no_answers(family, batch, question):
    mixture = as_module(drawn(family, 3, 2, batch))
    x = torch.zeros(0, 2, dtype=torch.float64, requires_grad=True)
    answer = getattr(mixture, question)(x)
    assert answer.shape == (*batch, 0, *OF_EACH[question])
    assert answer.dtype == (torch.int64 if question == "predict" else torch.float64)
    with torch.no_grad():
        assert getattr(mixture, question)(x).shape == answer.shape
    if question != "predict":  # a network goes on: gradients are zeros, none is missing
        (answer.sum() + mixture.means.sum()).backward()
        assert x.grad.shape == (0, 2)
        assert bool((mixture.means.grad == 1).all())


@pytest.mark.parametrize("case", GRID, ids=str)
def test_distances_keep_their_digits_in_float32(case):
    x = case.rows(torch.float32)[:200]
    p = case.start("full")
    exact = as_module(p).mahalanobis(x.double()).detach()
    with torch.no_grad():
        rounded = as_module(p, torch.float32)
        own = as_module(p.to(torch.float32).to(torch.float64)).mahalanobis(x.double()).detach()
        found = rounded.mahalanobis(x).double()
    # as far as float32 parameters can say: against the float64 computation on the same numbers
    near = own < 1e3
    assert float(((found - own).abs() / (1 + own))[near].max()) < 1e-2
    assert bool(torch.isfinite(exact).all())


def test_a_component_without_weight_has_a_density():
    mixture = tg.GaussianMixture.from_covariances(
        [0.0, 1.0], [[0.0], [3.0]], [1.0, 1.0], "spherical", dtype=torch.float64
    )
    found = mixture.component_log_prob([[0.0]]).detach().flatten().tolist()
    normal = -0.5 * math.log(2 * math.pi)
    assert found == pytest.approx([normal, normal - 4.5])
    assert float(mixture.membership_entropy([[0.0]])) == 0.0


def test_rows_of_a_component_are_chi_squared():
    mixture = as_module(drawn("full", 1, 5))
    x = mixture.sample((20_000,), torch.Generator().manual_seed(0))
    apart = mixture.mahalanobis(x).detach()
    # mean 5, standard error sqrt(10 / 20000) = 0.022
    assert float(apart.mean()) == pytest.approx(5, abs=0.1)


def test_doubt_is_that_of_the_memberships():
    mixture = as_module(drawn("full", 4, 2))
    x = mixture.sample((100,))
    r = mixture.responsibilities(x)
    torch.testing.assert_close(mixture.membership_entropy(x), -torch.xlogy(r, r).sum(-1))
    equal = tg.GaussianMixture.from_covariances([0.5, 0.5], [[0.0], [0.0]], [1.0, 1.0], "spherical")
    assert float(equal.membership_entropy([[7.0]])) == pytest.approx(math.log(2))
