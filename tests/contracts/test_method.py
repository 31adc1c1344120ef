"""The contract of a method: pure steps to the optimum of exact EM. One line in `METHODS`."""

import dataclasses

import pytest
import torch

from tests.cases import FAMILIES, blobs, drawn
from torchgmm import EM, GaussianMixture, IncrementalEM, InputError, OnlineEM, Tolerance
from torchgmm.data import Checked, as_source
from torchgmm.fitting import Method, Problem

# how to make it, and how far from the optimum its settings may leave it, in nats per row
METHODS = {
    "em": (lambda **o: EM(max_iter=100, **o), 1e-6),
    "incremental": (lambda **o: IncrementalEM(max_iter=50, **o), 1e-6),
    # step sizes that fall leave a noise of about K P / (2 N) nats: 0.007 here
    "online": (lambda **o: OnlineEM(max_iter=30, **o), 1e-2),
}
every_method = pytest.mark.parametrize("name", METHODS)
every_family = pytest.mark.parametrize("family", FAMILIES)
X = blobs(2000, 3, k=3, separation=10.0)  # apart, so that the optimum is found soon


def start(family="full", k=3):
    mixture = GaussianMixture(k, covariance=family, dtype=torch.float64)
    return mixture.fit(X, EM(max_iter=0), generator=0).parameters


def fitted(name, family="full", x=X, dtype=torch.float64, **options):
    mixture = GaussianMixture(3, covariance=family, dtype=dtype)
    method = METHODS[name][0]()
    options = {"init": start(family), "generator": 0, "stop": Tolerance(1e-9)} | options
    return mixture, mixture.fit(x, method, **options)


def problem(seed=0):
    source = Checked(as_source(X), torch.float64, torch.device("cpu"))
    return Problem(source, torch.Generator().manual_seed(seed))


@every_method
@every_family
def test_it_reaches_the_optimum_of_exact_em(name, family):
    best, _ = fitted("em", family)
    mixture, result = fitted(name, family)
    assert result.parameters.is_finite()
    optimum = float(best.score(X))
    assert float(mixture.score(X)) == pytest.approx(optimum, abs=METHODS[name][1])


@every_method
def test_float32_rows_reach_it_too(name):
    best, _ = fitted("em")
    _, result = fitted(name, x=X.float(), dtype=torch.float32)
    level = float(GaussianMixture.from_parameters(result.parameters).score(X))
    assert level == pytest.approx(float(best.score(X)), abs=METHODS[name][1] + 1e-5)


@every_method
def test_a_step_leaves_the_state_it_was_given(name):
    method, given = METHODS[name][0](), problem()
    state = method.init(start(), given)
    before = {f.name: repr(getattr(state, f.name)) for f in dataclasses.fields(state)}
    one, step = method.step(state, given)
    assert {f.name: repr(getattr(state, f.name)) for f in dataclasses.fields(state)} == before
    again, other = method.step(state, given)
    assert torch.equal(one.parameters.means, again.parameters.means)
    assert step.log_likelihood == other.log_likelihood
    assert one.step == state.step + 1
    assert step.rows == len(X)
    assert not torch.equal(one.parameters.means, state.parameters.means)


@every_method
def test_the_same_seed_gives_the_same_bits(name):
    one, other, third = (fitted(name, generator=seed)[0] for seed in (3, 3, 4))
    for tensor in ("logits", "means", "scale"):
        assert torch.equal(getattr(one, tensor), getattr(other, tensor))
    if name == "online":  # whose rows come in random order
        assert not torch.equal(one.means, third.means)


@every_method
def test_rows_of_weight_zero_are_absent(name):
    x, w = X.clone(), torch.ones(len(X))
    x[::5], w[::5] = torch.nan, 0
    mixture, _ = fitted(name, x=x, weights=w)
    kept, _ = fitted("em", x=X[w > 0])
    expected = float(kept.score(X[w > 0]))
    assert float(mixture.score(x, w)) == pytest.approx(expected, abs=METHODS[name][1])


@every_method
def test_weights_count(name):
    w = 1 + (torch.arange(len(X)) % 3)
    mixture, _ = fitted(name, weights=w)
    exact, _ = fitted("em", weights=w)
    expected = float(exact.score(X, w))
    assert float(mixture.score(X, w)) == pytest.approx(expected, abs=METHODS[name][1])


@every_method
def test_its_fields_are_its_configuration(name):
    make = METHODS[name][0]
    method = make(reg_covar=0.5)
    assert isinstance(method, Method)
    assert method == make(reg_covar=0.5) != make(reg_covar=0.25)
    assert "reg_covar=0.5" in repr(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.max_iter = 3


@every_method
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_iter", -1, "max_iter must be at least 0, got -1"),
        ("max_iter", 2.5, "max_iter must be an integer"),
        ("reg_covar", -1e-6, "reg_covar must be at least 0"),
        ("reg_covar", float("inf"), "reg_covar must be"),
        ("kernel", "fast", "kernel must be auto or one of"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, field, value, message):
    kind = type(METHODS[name][0]())
    with pytest.raises(InputError, match=message):
        kind(**{field: value})


@every_method
def test_the_floor_is_added_to_every_variance(name):
    x = torch.cat([X, torch.ones(len(X), 1)], 1).double()
    mixture = GaussianMixture(2, dtype=torch.float64)
    method = METHODS[name][0](reg_covar=0.04)
    mixture.fit(x, method, generator=0)
    variance = mixture.covariances[:, 3, 3].detach()
    # online EM has the start's floor in its memory, and adds its own to what remains of that
    assert bool((variance >= 0.04 * (1 - 1e-9)).all())
    assert bool((variance < 0.12).all())


@every_method
def test_an_emptied_component_is_rescued_and_counted(name):
    p = drawn("full", 3, 3)
    p.means[2] = 1e6
    mixture, result = fitted(name, init=p)
    assert result.rescued >= 1
    assert float(mixture.weights[2].detach()) > 1e-3
