"""Products and overlaps: against the densities themselves, and against integrals on a grid."""

import numpy as np
import pytest
import torch

from tests.algebra.common import as_module, density, grid, leaves, near, tensors
from tests.cases import FAMILIES
from tests.definition import any_matrix, naive
from torchgmm import (
    GaussianMixture,
    Parameters,
    affine,
    cauchy_schwarz_divergence,
    l2_distance,
    product,
)
from torchgmm.algebra import log_overlap, products

every_family = pytest.mark.parametrize("family", FAMILIES)
every_pair = pytest.mark.parametrize("other", FAMILIES)
RICHNESS = ("spherical", "diagonal", "full")


def plain_name(family):
    return "full" if family in ("tied", "common_axes") else family.removeprefix("tied_")


@every_family
@every_pair
def test_a_product_is_the_product_of_the_densities(family, other):
    p, q = near(family, k=2, d=3), near(other, k=3, d=3, seed=1)
    found, log_normaliser = product(p, q)
    assert found.n_components == 6
    x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = as_module(p).log_prob(x) + as_module(q).log_prob(x)
    torch.testing.assert_close(as_module(found).log_prob(x) + log_normaliser, expected)
    torch.testing.assert_close(log_overlap(p, q), log_normaliser)
    richer = max(plain_name(family), plain_name(other), key=RICHNESS.index)
    tied = "tied" in family and "tied" in other
    assert plain_name(found.family.name) == richer
    assert found.family.tied == tied


@every_family
def test_components_of_a_product_come_in_pairs(family):
    p, q = near(family, k=2), near("full", k=3, seed=1)
    found = naive(product(p, q).mixture)
    one, other = naive(p), naive(q)
    for i in range(2):
        for j in range(3):
            a, b = torch.linalg.inv(one.covariances[i]), torch.linalg.inv(other.covariances[j])
            covariance = torch.linalg.inv(a + b)
            torch.testing.assert_close(found.covariances[3 * i + j], covariance)
            mean = covariance @ (a @ one.means[i] + b @ other.means[j])
            torch.testing.assert_close(found.means[3 * i + j], mean)


@every_family
@pytest.mark.parametrize("d", [1, 2])
def test_the_integrals_are_those_of_a_grid(family, d):
    p, q = near(family, k=2, d=d), near("full", k=3, d=d, seed=1)
    points, cell = grid(d)
    one, other = density(p, points), density(q, points)
    both, own, others = (float(f @ g) * cell for f, g in ((one, other), (one, one), (other, other)))
    np.testing.assert_allclose(product(p, q).log_normaliser, np.log(both))
    distance = float(((one - other) ** 2).sum() * cell) ** 0.5
    np.testing.assert_allclose(l2_distance(p, q), distance)
    np.testing.assert_allclose(l2_distance(p, q, log=True), np.log(distance))
    divergence = -np.log(both / (own * others) ** 0.5)
    np.testing.assert_allclose(cauchy_schwarz_divergence(p, q), divergence)


@every_family
def test_the_overlap_is_an_expectation(family):
    p, q = near(family, k=3, d=4), near("diagonal", k=2, d=4, seed=1)
    x = as_module(p).sample((40_000,), torch.Generator().manual_seed(0))
    seen = as_module(q).log_prob(x).exp().detach()
    error = float(seen.std()) / 40_000**0.5
    # 5 standard errors: missed once in 10^6 seeds, and this one is fixed
    assert abs(float(seen.mean()) - float(log_overlap(p, q).exp())) < 5 * error


@every_family
@every_pair
def test_distances_are_the_same_both_ways_and_zero_to_oneself(family, other):
    p, q = near(family), near(other, seed=1)
    for ask in (l2_distance, cauchy_schwarz_divergence):
        torch.testing.assert_close(ask(p, q), ask(q, p))
        assert float(ask(p, q)) > 1e-3
        assert abs(float(ask(p, p))) < 1e-7  # a difference of numbers near 1: the root of eps


@every_family
def test_the_divergence_does_not_see_affine_maps(family):
    g = torch.Generator().manual_seed(0)
    p, q, A = near(family), near("full", seed=1), any_matrix(3, g)
    moved = cauchy_schwarz_divergence(affine(p, A, 3.0), affine(q, A, 3.0))
    torch.testing.assert_close(moved, cauchy_schwarz_divergence(p, q))


def test_the_distance_of_equal_mixtures_has_a_gradient_of_zero():
    p, q = leaves(near("full")), leaves(near("full"))
    l2_distance(p, q).backward()
    for tensor in (*tensors(p), *tensors(q)):
        assert bool(torch.isfinite(tensor.grad).all())


def test_densities_beyond_the_range_of_floats_have_their_logarithm():
    p = GaussianMixture.from_covariances(
        [1.0], np.zeros((1, 400)), [1e-8], "spherical", dtype=torch.float64
    )
    q = GaussianMixture.from_covariances(
        [1.0], np.ones((1, 400)), [1e-8], "spherical", dtype=torch.float64
    )
    log = float(l2_distance(p, q, log=True).detach())
    # far apart, the square is twice that of one of them: 2 N(0; 0, 2e-8 I)
    expected = (np.log(2) - 200 * np.log(2 * np.pi * 2e-8)) / 2
    assert log == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(float(cauchy_schwarz_divergence(p, q).detach()))


@pytest.mark.parametrize(
    ("family", "other"), [("full", "tied"), ("tied", "full"), ("full", "full")]
)
def test_overlaps_do_not_depend_on_the_chunks(family, other, monkeypatch):
    p, q = near(family, k=5, batch=(2,)), near(other, k=4, batch=(2,), seed=1)
    whole = log_overlap(p, q)
    monkeypatch.setattr(products, "_BUDGET", 1)  # one component of p at a time
    torch.testing.assert_close(log_overlap(p, q), whole)


def test_ill_conditioned_factors_multiply():
    # a plane of thickness 1e-7 across another one: what is left is thin in both directions
    thin = torch.tensor([[1e-7, 0], [0, 1.0]], dtype=torch.float64)
    family = near("full").family

    def plane(factor, mean):
        scale = family.unconstrained(factor).unsqueeze(0)
        return Parameters(torch.zeros(1).double(), torch.tensor([mean]).double(), scale, family)

    found = product(plane(thin, [1.0, 0.0]), plane(thin.flip(0, 1), [0.0, 2.0])).mixture
    covariance = family.covariances(found.scale)[0]
    np.testing.assert_allclose(covariance, 1e-14 * np.eye(2), rtol=1e-9, atol=1e-25)
    np.testing.assert_allclose(found.means[0], [1.0, 2.0], rtol=1e-9)


def test_a_component_of_weight_zero_has_no_part_in_a_product():
    p = GaussianMixture.from_covariances([1.0, 0.0], [[0.0], [3.0]], [1.0, 1.0], "spherical")
    both, log_normaliser = product(p, p)
    assert both.weights.tolist() == [1, 0, 0, 0]
    assert float(log_normaliser.detach()) == pytest.approx(-0.5 * np.log(4 * np.pi), rel=1e-6)


def test_a_module_and_a_value_make_a_module():
    p = near("full")
    assert isinstance(product(p, as_module(p)).mixture, GaussianMixture)
    assert isinstance(product(as_module(p), p).mixture, GaussianMixture)
    assert isinstance(product(p, p).mixture, Parameters)
