"""SQUAREM: the same optimum in fewer passes, and never a step down."""

import itertools

import pytest
import torch

from tests.cases import FAMILIES, Case
from torchgmm import EM, SQUAREM, GaussianMixture, Tolerance

# components that overlap: the harder, the slower is EM
OVERLAPPING = (
    Case("two", 2, 0, 1.5, 2, k=2),
    Case("three", 3, 0, 1.5, 4, k=3),
    Case("five", 4, 5, 2, 10, k=5),
    Case("many", 6, 0, 2.5, 10, k=8, n=4000),
)
every_case = pytest.mark.parametrize("case", OVERLAPPING, ids=str)


def fitted(method, case, family="full", seed=0, **options):
    mixture = GaussianMixture(case.k, covariance=family, dtype=torch.float64)
    options = {"init": case.start(family, seed), "stop": Tolerance(1e-8)} | options
    return mixture.fit(case.rows(seed=seed), method, **options)


def passes(result, case):
    return sum(step.rows for step in result.history) / case.n


@pytest.mark.parametrize("family", FAMILIES)
@every_case
def test_the_likelihood_never_falls(family, case):
    history = fitted(SQUAREM(max_iter=300), case, family).history
    levels = [step.log_likelihood for step in history]
    assert all(b >= a - 1e-12 * abs(a) for a, b in itertools.pairwise(levels))


@every_case
def test_at_least_a_quarter_of_the_passes_is_saved_and_nothing_lost(case):
    saved = 0.0
    for seed in range(3):
        plain = fitted(EM(max_iter=5000), case, seed=seed)
        fast = fitted(SQUAREM(max_iter=5000), case, seed=seed)
        assert plain.converged
        assert fast.converged
        assert fast.log_likelihood >= plain.log_likelihood - 1e-6
        saved += 1 - passes(fast, case) / passes(plain, case)
    assert saved / 3 >= 0.25


def test_an_extrapolation_too_far_is_taken_back():
    # a start at which the first directions mislead: whatever happens, no step may lose
    case = OVERLAPPING[3]
    result = fitted(SQUAREM(max_iter=100), case, "full", 1, init="random", generator=0)
    twice = [step.rows > case.n for step in result.history]
    levels = [step.log_likelihood for step in result.history]
    assert any(twice)
    assert all(b >= a - 1e-12 * abs(a) for a, b in itertools.pairwise(levels))


def test_it_reaches_what_plain_em_reaches_in_float32_too():
    case = OVERLAPPING[2]
    x = case.rows(torch.float32)
    levels = []
    for method in (EM(max_iter=3000), SQUAREM(max_iter=3000)):
        mixture = GaussianMixture(case.k)
        result = mixture.fit(x, method, init=case.start("full"), stop=Tolerance(1e-6))
        assert result.converged
        levels.append(float(mixture.score(x.double())))
    assert levels[1] >= levels[0] - 1e-4
