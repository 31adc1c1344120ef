"""Laws 3, 4 and 8: EM climbs, moves with the rows, does not mind the order of the components."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.cases import FAMILIES, blobs
from tests.definition import STRUCTURES, naive
from tests.laws.strategies import assert_close, permuted, problems, seeds
from torchgmm import EM, GaussianMixture, Parameters
from torchgmm.errors import SingularCovarianceError


def climbed(problem, **options):
    """A fit on whose way no component fell onto a single row, where likelihoods have no bound."""
    try:
        result = problem.fit(**options)
    except SingularCovarianceError:
        assume(False)
    dense = naive(result.parameters).covariances
    least = torch.linalg.eigvalsh(dense)[:, 0]
    assume(float(least.min()) > 1e-8 * float(problem.x.var()) and result.rescued == 0)
    return result


@given(problems())
def test_a_step_never_lowers_the_likelihood(problem):
    result = climbed(problem, steps=15)
    levels = torch.tensor([step.log_likelihood for step in result.history], dtype=torch.float64)
    rounding = 1e-11 * (1 + levels.abs().max())  # sums of some hundred logarithms
    assert bool((levels.diff() > -rounding).all())


@given(problems(), seeds)
def test_permuting_components_permutes_the_answer(problem, seed):
    result = climbed(problem)
    order = torch.randperm(
        problem.start.n_components, generator=torch.Generator().manual_seed(seed)
    )
    other = problem.fit(start=permuted(problem.start, order))
    assert_close(other.parameters, permuted(result.parameters, order), 1e-9)  # sums in other orders


def mapped(parameters, a, b):
    """The mixture of the rows `x a + b`."""
    plain = naive(parameters)
    dense = a.T @ plain.covariances @ a
    public = STRUCTURES[parameters.family.name].estimate(dense, torch.ones(len(dense)).double())
    return Parameters.from_covariances(
        plain.weights, plain.means @ a + b, public, parameters.family
    )


@pytest.mark.parametrize("family", FAMILIES)
@given(st.data())
def test_a_fit_moves_with_the_rows(family, data):
    problem = data.draw(problems(families=[family]))
    g = torch.Generator().manual_seed(data.draw(seeds))
    d = problem.start.n_features
    a, b = STRUCTURES[family].moves(d, g), 5 * torch.randn(d, generator=g, dtype=torch.float64)
    here = climbed(problem)
    there = problem.fit(problem.x @ a + b, mapped(problem.start, a, b))
    assert_close(there.parameters, mapped(here.parameters, a, b), 1e-8)  # condition 100 of a
    shift = math.log(abs(float(torch.linalg.det(a))))
    assert there.log_likelihood == pytest.approx(here.log_likelihood - shift, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "random"])
def test_the_same_seed_gives_the_same_bits(family, init):
    x = blobs(400, 3, dtype=torch.float32)
    answers = []
    for seed in (7, 7, torch.Generator().manual_seed(7), 8):
        torch.rand(3)  # torch's global generator is elsewhere each time
        mixture = GaussianMixture(5, covariance=family)
        result = mixture.fit(x, EM(max_iter=5), init=init, generator=seed, n_init=2)
        answers.append((result.parameters, mixture.state_dict(), result.runs))
    for parameters, state, runs in answers[1:3]:
        assert runs == answers[0][2]
        assert torch.equal(parameters.means, answers[0][0].means)
        assert all(torch.equal(state[name], answers[0][1][name]) for name in state)
    assert not torch.equal(answers[3][0].means, answers[0][0].means)


def test_without_a_seed_the_global_one_decides():
    x = blobs(200)
    answers = []
    for _ in range(2):
        torch.manual_seed(3)
        mixture = GaussianMixture(5)
        mixture.fit(x, EM(max_iter=2), init="random")
        answers.append(mixture.means.detach().clone())
    assert torch.equal(*answers)
