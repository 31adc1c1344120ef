"""The contract of a method: pure steps to the optimum of exact EM. One line in `METHODS`."""

import dataclasses
import warnings
from typing import NamedTuple

import pytest
import torch

from tests.cases import FAMILIES, Case, blobs, drawn
from tests.definition import naive
from torchgmm import (
    EM,
    SQUAREM,
    GaussianMixture,
    Gradient,
    IncrementalEM,
    InputError,
    OnlineEM,
    Tolerance,
    VarianceReducedEM,
)
from torchgmm.data import Checked, LoaderSource, as_source
from torchgmm.fitting import Method, Problem
from torchgmm.kernels import kernels


class Entry(NamedTuple):
    """A method as the contract sees it."""

    kind: type[Method]
    settings: dict  # passes enough to the optimum, M-steps enough to be another than EM
    slack: float  # how far from the optimum that may leave it, in nats per row
    rows: str | None  # the setting that says after how many rows an M-step comes
    mended: float = 0.5  # how much of a spoilt start two passes mend, at least


METHODS = {
    "em": Entry(EM, {"max_iter": 100}, 1e-6, None),
    "squarem": Entry(SQUAREM, {"max_iter": 100}, 1e-6, None),
    "incremental": Entry(IncrementalEM, {"max_iter": 50, "n_blocks": 8}, 1e-6, "block_rows"),
    "reduced": Entry(VarianceReducedEM, {"max_iter": 50, "n_blocks": 8}, 1e-6, "block_rows"),
    # step sizes that fall leave noise, which averaging takes away: 5e-5 is left of it here
    "online": Entry(OnlineEM, {"max_iter": 10}, 1e-4, "batch_size"),
    # the same noise, until the learning rate has come down: 1e-5 is left of it here
    "gradient": Entry(
        Gradient,
        {"max_iter": 20, "batch_size": 250, "lr": 0.05, "scheduler": "CosineAnnealingLR"},
        1e-4,
        "batch_size",
        0.0,  # an update moves nothing by more than lr, and the smallest cases have two
    ),
}
every_method = pytest.mark.parametrize("name", METHODS)
every_family = pytest.mark.parametrize("family", FAMILIES)
APART = Case("apart", 3, 0, 10, 1, k=3, n=2000)  # so that the optimum is found soon
X = APART.rows()


def make(name, **settings):
    """The method with these settings and passes enough."""
    return METHODS[name].kind(**(METHODS[name].settings | settings))


def fitted(name, family="full", x=X, dtype=torch.float64, **options):
    mixture = GaussianMixture(3, covariance=family, dtype=dtype)
    # a start 0.3 nats below the optimum
    options = {"init": APART.start(family), "generator": 0, "stop": Tolerance(1e-9)} | options
    return mixture, mixture.fit(x, make(name), **options)


def level(parameters, x=X, weights=None):
    return float(GaussianMixture.from_parameters(parameters).score(x, weights).detach())


def problem(seed=0):
    source = Checked(as_source(X), torch.float64, torch.device("cpu"))
    return Problem(source, torch.Generator().manual_seed(seed))


# where it goes -----------------------------------------------------------------------------------


@every_method
@every_family
def test_it_reaches_the_optimum_of_exact_em(name, family):
    best, result = fitted("em", family)[1].parameters, fitted(name, family)[1]
    assert result.parameters.is_finite()
    assert level(APART.start(family)) < level(best) - 0.3
    assert level(result.parameters) == pytest.approx(level(best), abs=METHODS[name].slack)


@every_method
@pytest.mark.parametrize("family", ["full", "tied_diagonal"])
def test_float32_rows_reach_it_too(name, family):
    best = fitted("em", family)[1].parameters
    result = fitted(name, family, x=X.float(), dtype=torch.float32)[1].parameters
    # rows of size 10 rounded to 1e-6 of their spread move an optimum by the square of that
    assert level(result) == pytest.approx(level(best), abs=METHODS[name].slack)


@every_method
def test_weights_are_repetitions(name):
    w = torch.arange(len(X)) % 3
    weighted = fitted(name, weights=w)[1].parameters
    repeated = fitted("em", x=X.repeat_interleave(w, 0))[1].parameters
    expected = level(repeated, X, w)
    assert level(weighted, X, w) == pytest.approx(expected, abs=METHODS[name].slack)


@every_method
@pytest.mark.parametrize("total", [1.0, 1e9])
def test_only_the_ratios_of_weights_count(name, total):
    w = 0.5 + torch.arange(len(X)).double() % 3
    got, expected = (fitted(name, weights=v)[1].parameters for v in (w * total / w.sum(), w))
    slack = METHODS[name].slack
    assert level(got, X, w) == pytest.approx(level(expected, X, w), abs=slack)


@every_method
def test_rows_of_weight_zero_are_absent(name):
    x, w = X.clone(), torch.ones(len(X))
    x[::5], w[::5] = torch.nan, 0
    result = fitted(name, x=x, weights=w)[1].parameters
    kept = fitted("em", x=X[w > 0])[1].parameters
    expected = level(kept, X[w > 0])
    assert level(result, X[w > 0]) == pytest.approx(expected, abs=METHODS[name].slack)


@every_method
def test_rows_that_are_all_absent_are_refused(name):
    def batches():
        return ((x, torch.zeros(len(x))) for x in X.split(500))

    with pytest.raises(InputError, match="the source gave no rows of positive weight"):
        fitted(name, x=LoaderSource(batches, weights=1))


@every_method
@every_family
def test_the_floor_is_added_to_every_variance(name, family):
    x = torch.cat([X, torch.ones(len(X), 1)], 1).double()  # a feature that is constant
    mixture = GaussianMixture(3, covariance=family, dtype=torch.float64)
    mixture.fit(x, make(name, reg_covar=0.04), generator=0, stop=Tolerance(1e-9))
    exact = GaussianMixture(3, covariance=family, dtype=torch.float64)
    exact.fit(x, make("em", reg_covar=0.04), generator=0, stop=Tolerance(1e-9))
    got, expected = (m.scale_tril.square().sum(-1)[:, 3].detach() for m in (mixture, exact))
    if "spherical" not in family:
        assert expected.tolist() == pytest.approx([0.04] * 3, rel=1e-9)
    if name in ("online", "gradient"):  # it adds its own to what is left of the start's; it bounds
        least = expected.clamp_max(0.04) if name == "gradient" else expected
        assert bool((got >= least * 0.99).all())
        assert bool((got < expected + 0.04).all())
    else:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=0)  # the root of the tolerance


@every_method
def test_no_steps_give_the_start(name):
    mixture = GaussianMixture(3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mixture.fit(X, make(name, max_iter=0), init=APART.start("full"), generator=0)
    assert result.history == ()
    assert torch.equal(mixture.means, APART.start("full").means)
    assert torch.equal(mixture.scale, APART.start("full").scale)


# how it goes -------------------------------------------------------------------------------------


def tensors(value, name=""):
    """Copies of all tensors in a state, by their place in it."""
    if isinstance(value, torch.Tensor):
        return {name: value.clone()}
    if isinstance(value, tuple):
        parts = {f"{name}[{i}]": part for i, part in enumerate(value)}
    elif dataclasses.is_dataclass(value):
        parts = {f"{name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        return {name: torch.tensor(value)} if isinstance(value, (int, float)) else {}
    return {k: v for key, part in parts.items() for k, v in tensors(part, key).items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@every_method
@every_family
def test_a_step_leaves_the_state_it_was_given(name, family):
    method, given = make(name), problem()
    state = method.init(APART.start(family), given)
    for number in (1, 2, 3):
        before = tensors(state)
        after, step = method.step(state, given)
        assert_same(tensors(state), before)
        again, other = method.step(state, given)
        assert_same(tensors(again), tensors(after))
        assert step.log_likelihood == other.log_likelihood
        assert after.step == number
        # SQUAREM reads the rows again where it looked ahead in vain
        assert step.rows in (len(X), 2 * len(X) if name == "squarem" else len(X))
        assert number > 1 or not torch.equal(after.parameters.means, state.parameters.means)
        state = after
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.step = 7


@every_method
@every_family
def test_the_same_seed_gives_the_same_bits(name, family):
    results = []
    for seed in (3, 3, 4):
        torch.rand(3)  # torch's global generator is elsewhere each time
        mixture = GaussianMixture(3, covariance=family)
        method = make(name, max_iter=4)
        x = blobs(400, 2, separation=3.0, dtype=torch.float32)
        start = drawn(family, 3, 2)
        results.append(mixture.fit(x, method, init=start, generator=seed, stop=Tolerance(0)))
    one, other, third = (tensors(result.state) for result in results)
    assert_same(one, other)
    assert [s.log_likelihood for s in results[0].history] == [
        s.log_likelihood for s in results[1].history
    ]
    if name not in ("em", "squarem"):  # the order of the rows is drawn
        assert not torch.equal(one[".parameters.means"], third[".parameters.means"])


@every_method
def test_the_first_step_reports_the_start(name):
    # with one M-step a pass, after it: the likelihood of the parameters that entered
    settings = {METHODS[name].rows: len(X)} if METHODS[name].rows else {}
    method, given = make(name, **settings), problem()
    _, step = method.step(method.init(APART.start("full"), given), given)
    assert step.log_likelihood == pytest.approx(level(APART.start("full")), rel=1e-12)
    assert step.kernel in set(kernels()) - {"auto"}


@every_method
def test_an_emptied_component_is_rescued_and_counted(name):
    p = drawn("full", 3, 3)
    p.means[2] = 1e6
    mixture, result = fitted(name, init=p)
    assert result.rescued >= 1
    assert result.state.rescues == result.rescued
    assert float(mixture.weights[2].detach()) > 1e-3


# hard cases --------------------------------------------------------------------------------------


def sorted_by_cluster():
    x = blobs(1200, 6, k=6, separation=10.0)
    labels = (x[:, None] - x[None]).norm(dim=-1).lt(9).long().argmax(1)
    return x[labels.argsort(stable=True)]


def five_places():
    return torch.arange(5.0).double()[:, None].mul(torch.tensor([1.0, -2.0])).repeat(40, 1)


def wide(p):
    """The same mixture with four times its covariances."""
    return dataclasses.replace(p, scale=p.family.unconstrained(2 * p.family.factor(p.scale)))


# rows, K, rows between M-steps, families
HARD = {
    "sorted by cluster": (sorted_by_cluster(), 6, None, FAMILIES),
    "K=200 in batches of 16": (blobs(2000, 6, k=20, separation=5.0), 200, 16, ("full", "tied")),
    "K above the number of places": (five_places(), 10, None, FAMILIES),
    "batches smaller than D": (blobs(240, 20, k=2, separation=10.0), 2, 8, FAMILIES),
    "a batch is a row": (blobs(60, 2), 3, 1, ("full", "tied_diagonal")),
}


@every_method
@pytest.mark.parametrize(
    ("case", "family"), [(case, f) for case, (*_, families) in HARD.items() for f in families]
)
def test_hard_cases_end_finite_and_well(name, case, family):
    x, k, rows, _ = HARD[case]
    settings = {METHODS[name].rows: rows} if rows and METHODS[name].rows else {}
    mixture = GaussianMixture(k, covariance=family)
    kmeans = mixture.fit(x.float(), EM(max_iter=0), generator=0).parameters
    start = wide(kmeans)
    method = make(name, max_iter=2, **settings)
    result = mixture.fit(x.float(), method, init=start, generator=0, stop=Tolerance(0))
    assert result.n_steps == 2
    assert result.parameters.is_finite()
    least = torch.linalg.eigvalsh(naive(result.parameters).covariances).min()
    assert float(least) > 0.99e-6  # the floor
    assert bool(torch.isfinite(mixture.log_prob(x)).all())
    # what was spoilt is mended, by half at least; exact EM does hardly better with K=200
    low, high = level(start, x), level(kmeans, x)
    assert level(result.parameters, x) > low + METHODS[name].mended * (high - low)


# its configuration -------------------------------------------------------------------------------


@every_method
def test_its_fields_are_its_configuration(name):
    method = make(name, reg_covar=0.5)
    assert isinstance(method, Method)
    assert method == make(name, reg_covar=0.5) != make(name, reg_covar=0.25)
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
        ("reg_covar", float("nan"), "reg_covar must be"),
        ("kernel", "fast", "kernel must be auto or one of"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, field, value, message):
    with pytest.raises(InputError, match=message):
        make(name, **{field: value})
