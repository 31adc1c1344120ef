"""The Kullback-Leibler divergence: closed form, Monte Carlo within its error, gradients."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.distributions import kl_divergence as torch_kl

from tests.algebra.common import as_module, density, grid, leaves, near, tensors
from tests.cases import FAMILIES
from tests.definition import naive
from torchgmm import InputError, kl_divergence
from torchgmm.algebra import divergence

every_family = pytest.mark.parametrize("family", FAMILIES)


def normal(p):
    plain = naive(p)
    return MultivariateNormal(plain.means[0], plain.covariances[0])


def on_a_grid(p, q, d):
    points, cell = grid(d)
    one, other = density(p, points), density(q, points)
    seen = one > 1e-300
    return float((one[seen] * np.log(one[seen] / other[seen])).sum() * cell)


@every_family
@pytest.mark.parametrize("other", FAMILIES)
def test_single_components_have_the_closed_form(family, other):
    p, q = near(family, k=1, d=4), near(other, k=1, d=4, seed=1)
    expected = torch_kl(normal(p), normal(q))
    found = kl_divergence(p, q)
    torch.testing.assert_close(found.value, expected)
    assert float(found.standard_error) == 0
    assert abs(float(kl_divergence(p, p).value)) < 1e-12
    # and torch.distributions has learnt it
    one, two = as_module(p).as_distribution(), as_module(q).as_distribution()
    torch.testing.assert_close(torch_kl(one, two).detach(), expected)


def test_torch_has_the_closed_form_for_batches():
    p, q = near("full", k=1, batch=(3,)), near("diagonal", k=1, batch=(3,), seed=1)
    one, two = as_module(p).as_distribution(), as_module(q).as_distribution()
    torch.testing.assert_close(torch_kl(one, two).detach(), kl_divergence(p, q).value)


def test_torch_says_where_there_is_none():
    one, two = (
        as_module(near("full")).as_distribution(),
        as_module(near("full", 1)).as_distribution(),
    )
    with pytest.raises(NotImplementedError, match=r"of 3 and 1 components.*torchgmm.kl_divergence"):
        torch_kl(one, two)


@every_family
@pytest.mark.parametrize("d", [1, 2])
def test_mixtures_are_estimated_within_the_stated_error(family, d):
    p, q = near(family, k=3, d=d), near("full", k=2, d=d, seed=1)
    found = kl_divergence(p, q, n_samples=20_000, generator=torch.Generator().manual_seed(0))
    assert 0 < float(found.standard_error) < 0.1
    # 5 standard errors: missed once in 10^6 seeds, and this one is fixed
    assert abs(float(found.value) - on_a_grid(p, q, d)) < 5 * float(found.standard_error)


def test_the_stated_error_is_the_spread_of_the_estimates():
    p, q, g = near("full"), near("full", k=2, seed=1), torch.Generator().manual_seed(0)
    runs = [kl_divergence(p, q, n_samples=500, generator=g) for _ in range(200)]
    values = torch.stack([run.value for run in runs])
    stated = torch.stack([run.standard_error for run in runs]).mean()
    # the deviation of 200 values is known to 5 %
    assert float(values.std()) == pytest.approx(float(stated), rel=0.25)


@every_family
def test_the_divergence_of_a_mixture_from_itself_is_zero(family):
    p = near(family)
    found = kl_divergence(p, as_module(p))
    assert float(found.value.detach()) == 0
    assert float(found.standard_error) == 0


@every_family
def test_gradients_are_those_of_the_integral(family):
    p, q = near(family, k=2, d=1), near("full", k=2, d=1, seed=1)
    exact = leaves(p), leaves(q)
    points, cell = grid(1)
    x = torch.as_tensor(points)
    log_p, log_q = (
        torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=m.logits),
            torch.distributions.Normal(m.means[:, 0], _spread(m)),
        ).log_prob(x[:, 0])
        for m in exact
    )
    integral = (log_p.exp() * (log_p - log_q)).sum() * cell
    integral.backward()
    g, runs = torch.Generator().manual_seed(0), []
    for _ in range(30):
        drawn = leaves(p), leaves(q)
        kl_divergence(*drawn, n_samples=2000, generator=g).value.backward()
        runs.append([t.grad for m in drawn for t in tensors(m)])
    for truth, found in zip(
        [t.grad for m in exact for t in tensors(m)], zip(*runs, strict=True), strict=True
    ):
        found = torch.stack(found)
        error = found.std(0) / len(found) ** 0.5
        # 6 standard errors, of 30 runs each: fewer than one miss in 10^5 seeds
        assert bool(((found.mean(0) - truth).abs() <= 6 * error + 1e-12).all())


def _spread(p):
    return p.family.dense_tril(p.scale, p.n_components, 1).flatten()


def test_gradients_do_not_depend_on_the_chunks(monkeypatch):
    p, q = near("full"), near("diagonal", seed=1)
    found = []
    for budget in (divergence._BUDGET, 1):
        monkeypatch.setattr(divergence, "_BUDGET", budget)
        own, other = leaves(p), leaves(q)
        value = kl_divergence(
            own, other, n_samples=200, generator=torch.Generator().manual_seed(0)
        ).value
        found.append((value, *torch.autograd.grad(value, (*tensors(own), *tensors(other)))))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_it_is_reproducible_and_needs_two_rows():
    p, q = near("full"), near("full", seed=1)
    one, other = (
        kl_divergence(p, q, n_samples=50, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(one.value, other.value)
    with pytest.raises(InputError, match="n_samples must be at least 2, got 1"):
        kl_divergence(p, q, n_samples=1)
