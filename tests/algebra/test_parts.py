"""Marginals, conditionals, regression: against SciPy, the textbook's formula, and integrals."""

import numpy as np
import pytest
import torch
from scipy import stats

from tests.algebra.common import Largest, as_module, density, grid, leaves, near, tensors
from tests.cases import FAMILIES, drawn
from tests.definition import naive
from torchgmm import GaussianMixture, InputError, Parameters, condition, marginal, merge, regress
from torchgmm.algebra import parts

every_family = pytest.mark.parametrize("family", FAMILIES)


def conditional(p, seen, values):
    """One row's conditional mixture by the textbook: weights, means, covariances."""
    left = [i for i in range(p.n_features) if i not in seen]
    log_w, means, covariances = [], [], []
    for w, mu, sigma in zip(*(t.numpy() for t in naive(p)), strict=True):
        inverse = np.linalg.inv(sigma[np.ix_(seen, seen)])
        gain = sigma[np.ix_(left, seen)] @ inverse
        means.append(mu[left] + gain @ (values - mu[seen]))
        covariances.append(sigma[np.ix_(left, left)] - gain @ sigma[np.ix_(seen, left)])
        normal = stats.multivariate_normal(mu[seen], sigma[np.ix_(seen, seen)])
        log_w.append(np.log(w) + normal.logpdf(values))
    weights = np.exp(log_w - np.max(log_w))
    return weights / weights.sum(), np.array(means), np.array(covariances)


# marginals --------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("features", [[0], [3, 1], [1, 2, 3], [3, 2, 1, 0]], ids=str)
def test_a_marginal_is_a_choice_of_rows_and_columns(family, features):
    p = drawn(family, 3, 4)
    found, whole = naive(marginal(p, features)), naive(p)
    torch.testing.assert_close(found.weights, whole.weights)
    torch.testing.assert_close(found.means, whole.means[:, features])
    expected = whole.covariances[:, features][:, :, features]
    torch.testing.assert_close(found.covariances, expected)
    assert marginal(p, features).family == p.unstructured().family


@every_family
def test_a_marginal_is_the_integral_over_the_others(family):
    p = near(family, d=2)
    points, cell = grid(2)
    n = int(len(points) ** 0.5)
    by_sum = density(p, points).reshape(n, n).sum(0) * cell**0.5
    x = points.reshape(n, n, 2)[0, :, 1:]
    np.testing.assert_allclose(density(marginal(p, 1), x), by_sum, rtol=0, atol=1e-9)


SAME = [
    [1, 2],
    (1, 2),
    range(1, 3),
    slice(1, 3),
    np.array([1, 2]),
    torch.tensor([1, 2]),
    [-2, -1],
    [False, True, True],
    np.array([False, True, True]),
    torch.tensor([False, True, True]),
    slice(1, None),
]


@pytest.mark.parametrize("features", SAME, ids=str)
def test_features_are_named_in_many_ways(features):
    p = near("full")
    for found, expected in zip(
        tensors(marginal(p, features)), tensors(marginal(p, [1, 2])), strict=True
    ):
        assert torch.equal(found, expected)


WRONG = [
    ([3], "from 0 to 2"),
    ([], "name none"),
    (slice(5, 9), "name none"),
    ([1, 1], r"different ones, got \[1, 1\]"),
    ([0, -3], r"different ones, got \[0, 0\]"),
    ([0.5], "numbers from 0 to 2"),
    ([True, False], "mask of 3 booleans"),
    ("ab", "numbers from 0 to 2"),
    (None, "numbers from 0 to 2"),
]


@pytest.mark.parametrize(("features", "message"), WRONG, ids=str)
def test_features_that_are_not_there_are_refused(features, message):
    with pytest.raises(InputError, match=message):
        marginal(near("full"), features)


# conditionals -----------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("seen", [[0], [3, 1], [2, 0, 3]], ids=str)
def test_a_conditional_is_that_of_the_textbook(family, seen):
    p = drawn(family, 3, 4)
    g = torch.Generator().manual_seed(0)
    values = 2 * torch.randn(5, len(seen), generator=g, dtype=torch.float64)
    batch = condition(p, seen, values)
    assert batch.family == p.unstructured().family
    assert batch.batch_shape == (5,)
    for n, row in enumerate(values.numpy()):
        one = Parameters(*(t[n] for t in tensors(batch)), batch.family)
        for found, expected in zip(naive(one), conditional(p, seen, row), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        alone = condition(p, seen, row)
        for found, expected in zip(tensors(alone), tensors(one), strict=True):
            torch.testing.assert_close(found, expected)


@every_family
def test_joint_is_marginal_times_conditional(family):
    p = near(family, d=4)
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen, left = [2, 0], [1, 3]
    given = as_module(condition(p, seen, x[:, seen]))
    part = given.log_prob(x[:, left].unsqueeze(-2)).squeeze(-1)
    whole = as_module(marginal(p, seen)).log_prob(x[:, seen]) + part
    torch.testing.assert_close(as_module(p).log_prob(x), whole)


def test_rows_share_the_memory_of_the_covariances():
    p = near("full", batch=(2,))
    given = condition(p, [0], torch.zeros(1000, 1))
    assert given.batch_shape == (2, 1000)
    assert given.scale.stride(1) == 0
    own = condition(p, [0], torch.randn(2, 7, 1))
    assert own.batch_shape == (2, 7)


@every_family
def test_values_far_away_leave_a_mixture(family):
    p = near(family).to(torch.float32)
    given = condition(p, [0, 1], [[1e6, -1e6], [3e5, 0.0]])
    assert given.is_finite()
    torch.testing.assert_close(given.log_weights.exp().sum(-1), torch.ones(2))


def test_ill_conditioned_covariances_keep_their_digits():
    # the last two features are one another's copies but for 1e-6
    basis = torch.tensor([[1.0, 0, 0], [1, 1e-6, 0], [1, 0, 1e-6]], dtype=torch.float64)
    covariance = basis @ basis.mT
    p = Parameters(
        torch.zeros(1).double(),
        torch.zeros(1, 3).double(),
        near("full").family.unconstrained(basis).unsqueeze(0),
        near("full").family,
    )
    given = condition(p, [0], [1.0])
    np.testing.assert_allclose(given.means[0], [1, 1], rtol=1e-12)
    found = given.family.covariances(given.scale)[0]
    np.testing.assert_allclose(found, 1e-12 * np.eye(2), rtol=1e-8, atol=1e-26)
    # where the textbook's formula has lost them
    direct = covariance[1:, 1:] - covariance[1:, :1] @ covariance[:1, 1:]
    assert float((direct - 1e-12 * torch.eye(2)).abs().max()) > 1e-17


BAD_VALUES = [
    ([[0.0, 1.0]], r"one column for each of the 1 observed features, got shape \(1, 2\)"),
    (3.0, r"one column for each of the 1 observed features, got shape \(\)"),
    ([[np.nan]], "values hold 1 NaN"),
    ([[np.inf], [0.0]], "values hold 1 NaN or infinite"),
    (np.zeros((0, 1)), "empty"),
    (np.zeros((2, 3, 1)), "flatten the leading axes"),
]


@pytest.mark.parametrize(("values", "message"), BAD_VALUES, ids=str)
@pytest.mark.parametrize("ask", [condition, regress])
def test_values_that_cannot_be_used_are_refused(ask, values, message):
    with pytest.raises(InputError, match=message):
        ask(near("full"), [0], values)


@pytest.mark.parametrize("ask", [condition, regress])
def test_something_must_be_left(ask):
    with pytest.raises(InputError, match="all 3 features are observed"):
        ask(near("full"), [2, 0, 1], [[0.0, 0, 0]])


# regression -------------------------------------------------------------------------------------


@every_family
def test_regression_is_mean_and_variance_of_the_conditional(family):
    p = near(family, d=4)
    values = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = regress(p, [1, 2], values)
    whole = merge(condition(p, [1, 2], values), 1)  # one component of its mean and covariance
    torch.testing.assert_close(found.mean, whole.means.squeeze(-2))
    covariances = whole.family.covariances(whole.scale).squeeze(-3)
    torch.testing.assert_close(found.variance, covariances.diagonal(dim1=-2, dim2=-1))


@every_family
def test_regression_is_a_ratio_of_integrals(family):
    p = near(family, d=2)
    points, cell = grid(1)
    for value in (-1.0, 0.3):
        pairs = np.concatenate([np.full_like(points, value), points], 1)
        shares = density(p, pairs) * cell
        mean = shares @ points[:, 0] / shares.sum()
        variance = shares @ (points[:, 0] - mean) ** 2 / shares.sum()
        found = regress(p, [0], [[value]])
        np.testing.assert_allclose([found.mean[0, 0], found.variance[0, 0]], [mean, variance])


@every_family
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_regression_does_not_depend_on_the_chunks(family, batch, monkeypatch):
    p = near(family, d=4, batch=batch)
    values = torch.randn(100, 2, dtype=torch.float64, requires_grad=True)
    found = []
    for budget in (parts._BUDGET, 1):  # one byte: chunks of the least size, 16 rows
        monkeypatch.setattr(parts, "_BUDGET", budget)
        own = leaves(p)
        mean, variance = regress(own, [3, 0], values)
        assert mean.shape == variance.shape == (*batch, 100, 2)
        gradients = torch.autograd.grad((mean * variance.sqrt()).sum(), (values, *tensors(own)))
        found.append((mean, variance, *gradients))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_regression_has_gradients_in_the_values():
    p = near("full")
    values = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: tuple(regress(p, [0], v)), (values,))


def test_regression_finds_the_line_that_the_rows_lie_on():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2000, 1, generator=g) * 4 - 2
    y = 3 * x - 1 + 0.1 * torch.randn(2000, 1, generator=g)
    mixture = GaussianMixture(1)
    mixture.fit(torch.cat([x, y], 1))
    mean, variance = regress(mixture, [0], torch.tensor([[1.0], [-1.0]]))
    # 5 standard errors of a line through 2,000 rows: 5 * 0.1 / sqrt(2000)
    torch.testing.assert_close(mean.detach(), torch.tensor([[2.0], [-4.0]]), rtol=0, atol=0.012)
    torch.testing.assert_close(variance.detach(), torch.full((2, 1), 0.01), rtol=0.15, atol=0)
    assert mean.dtype == torch.float32


@every_family
def test_regression_never_holds_rows_times_components(family, monkeypatch):
    n, k, left = 4000, 8, 2
    p = leaves(near(family, k=k, d=4))
    values = torch.randn(n, 2, dtype=torch.float64, requires_grad=True)
    chunk = 50
    monkeypatch.setattr(parts, "_BUDGET", 8 * k * left * chunk)
    with Largest() as seen:
        mean, variance = regress(p, [0, 1], values)
        (mean.sum() + variance.sum()).backward()
    # the answer, mean beside variance; the rows are as large, and their gradient
    assert seen.entries == n * 2 * left
    assert seen.entries < n * k  # the least that has rows times components
