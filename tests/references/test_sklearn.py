"""scikit-learn's four families from the same start: the same steps, the same scores."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from tests.cases import blobs, drawn
from torchgmm import EM, GaussianMixture, Tolerance

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FAMILIES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}
every_family = pytest.mark.parametrize("family", FAMILIES)
# float64; the reference forms X^T P X in another order and inverts where we solve
SAME = {"rtol": 1e-9, "atol": 1e-9}


def overlapping(n=600, d=4, k=4, seed=0):
    """Clouds that overlap enough for 50 steps to keep moving."""
    g = np.random.default_rng(seed)
    parts = [
        g.normal(size=(n // k, d)) @ g.normal(size=(d, d)) + 1.5 * g.normal(size=d)
        for _ in range(k)
    ]
    return np.concatenate(parts)


def start_at(x, family, k, seed=0):
    """Parameters from rows of the data: a poor start, which takes many steps to leave."""
    mixture = GaussianMixture(k, covariance=family, dtype=torch.float64)
    mixture.fit(x, EM(max_iter=0), init="random_from_data", generator=seed)
    return mixture


def reference(x, mixture, steps, reg_covar=1e-6):
    made = Reference(
        mixture.n_components,
        covariance_type=FAMILIES[mixture.covariance],
        max_iter=steps,
        tol=0,
        reg_covar=reg_covar,
        weights_init=mixture.weights.detach().numpy(),
        means_init=mixture.means.detach().numpy(),
        precisions_init=mixture.precisions.detach().numpy(),
    )
    return made.fit(x)


@every_family
@pytest.mark.parametrize("reg_covar", [1e-6, 1e-2])
def test_fifty_steps_are_those_of_scikit_learn(family, reg_covar):
    x = overlapping()
    mixture = start_at(x, family, 4)
    other = reference(x, mixture, 50, reg_covar)
    method = EM(max_iter=50, reg_covar=reg_covar)
    result = mixture.fit(x, method, init="current", stop=Tolerance(0))
    assert result.n_steps == other.n_iter_ == 50
    np.testing.assert_allclose(mixture.weights.detach(), other.weights_, **SAME)
    np.testing.assert_allclose(mixture.means.detach(), other.means_, **SAME)
    np.testing.assert_allclose(mixture.covariances.detach(), other.covariances_, **SAME)
    assert result.log_likelihood == pytest.approx(other.lower_bound_, abs=1e-9)
    assert float(mixture.score(x)) == pytest.approx(other.score(x), abs=1e-9)


@every_family
def test_every_step_is_that_of_scikit_learn(family):
    x = overlapping()
    mixture = start_at(x, family, 3, seed=1)
    other = reference(x, mixture, 30)
    result = mixture.fit(x, EM(max_iter=30), init="current", stop=Tolerance(0))
    levels = [step.log_likelihood for step in result.history]
    np.testing.assert_allclose(levels, other.lower_bounds_, **SAME)


@every_family
def test_the_default_rule_stops_at_the_same_step(family):
    x = overlapping()
    mixture = start_at(x, family, 4)
    other = Reference(
        4,
        covariance_type=FAMILIES[family],
        weights_init=mixture.weights.detach().numpy(),
        means_init=mixture.means.detach().numpy(),
        precisions_init=mixture.precisions.detach().numpy(),
    ).fit(x)
    result = mixture.fit(x, init="current")
    assert result.converged == other.converged_
    assert result.n_steps == other.n_iter_


@every_family
def test_identical_components_stay_identical(family):
    # nothing tells them apart: a tolerance of 0 runs to the budget, or to the point of rest
    x = blobs(200, 3)
    one = drawn(family, 1, 3)
    mixture = GaussianMixture(3, 3, covariance=family, dtype=torch.float64)
    with torch.no_grad():
        mixture.logits.zero_()
        mixture.means.copy_(one.means.expand(3, 3))
        mixture.scale.copy_(one.scale.expand(mixture.scale.shape))
    other = reference(x.numpy(), mixture, 20)
    mixture.fit(x, EM(max_iter=20), init="current", stop=Tolerance(0))
    np.testing.assert_allclose(mixture.weights.detach(), other.weights_, **SAME)
    np.testing.assert_allclose(mixture.means.detach(), other.means_, **SAME)
    np.testing.assert_allclose(mixture.covariances.detach(), other.covariances_, **SAME)


def fitted_pair(family):
    x = overlapping()
    mixture = start_at(x, family, 4)
    other = reference(x, mixture, 10)
    mixture.fit(x, EM(max_iter=10), init="current", stop=Tolerance(0))
    return x, mixture, other


@every_family
def test_questions_have_the_same_answers(family):
    x, mixture, other = fitted_pair(family)
    fresh = np.random.default_rng(1).normal(size=(50, 4)) * 3
    for rows in (x, fresh):
        np.testing.assert_allclose(
            mixture.log_prob(rows).detach(), other.score_samples(rows), **SAME
        )
        r = mixture.responsibilities(rows).detach()
        np.testing.assert_allclose(r, other.predict_proba(rows), **SAME)
        assert np.array_equal(mixture.predict(rows), other.predict(rows))
        assert float(mixture.bic(rows)) == pytest.approx(other.bic(rows), rel=1e-9)
        assert float(mixture.aic(rows)) == pytest.approx(other.aic(rows), rel=1e-9)
    assert mixture.n_parameters == other._n_parameters()
    np.testing.assert_allclose(mixture.precisions.detach(), other.precisions_, rtol=1e-7, atol=1e-9)
