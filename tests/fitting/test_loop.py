"""The loop: how fits end, what they keep, whom they tell."""

import itertools
import types
import warnings

import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, blobs, drawn
from torchgmm import EM, ConvergenceWarning, GaussianMixture, Status, Tolerance
from torchgmm.covariance import as_family

every_family = pytest.mark.parametrize("family", FAMILIES)
X = blobs(200, 2, separation=2.0)  # overlapping: fits take some steps


def new(family="full", k=3, dtype=torch.float64):
    return GaussianMixture(k, covariance=family, dtype=dtype)


# how it ended -----------------------------------------------------------------------------------


def test_a_fit_that_meets_the_rule_says_so_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = new().fit(X, EM(max_iter=1000), generator=0)
    assert result.status is Status.CONVERGED
    assert result.converged
    assert result.message == "the stopping rule is met"
    levels = [step.log_likelihood for step in result.history]
    assert abs(levels[-1] - levels[-2]) < 1e-3 <= abs(levels[-2] - levels[-3])
    assert result.n_steps == len(levels) < 1000


@pytest.mark.parametrize("call", [tg.fit, GaussianMixture.fit])
def test_a_spent_budget_warns_once_where_it_was_called(call):
    with pytest.warns(ConvergenceWarning) as seen:
        result = call(new(), X, EM(max_iter=3), stop=Tolerance(0), generator=0)
    assert result.status is Status.BUDGET_SPENT
    assert not result.converged
    assert result.n_steps == 3
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert "BUDGET_SPENT" in str(seen[0].message)
    assert "raise max_iter" in str(seen[0].message)
    assert f"{result.log_likelihood:.6g}" in str(seen[0].message)


def test_the_warning_points_to_a_caller_whose_name_begins_like_the_package():
    source = "def call(mixture, *a, **o): return mixture.fit(*a, **o)"
    module = types.ModuleType("torchgmm_of_a_user")
    exec(compile(source, "the_users_file.py", "exec"), module.__dict__)
    with pytest.warns(ConvergenceWarning) as seen:
        module.call(new(), X, EM(max_iter=2), generator=0)
    assert seen[0].filename == "the_users_file.py"


def test_no_steps_are_a_start_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixture = new()
        result = mixture.fit(X, EM(max_iter=0), generator=0)
    assert result.n_steps == 0
    assert result.history == ()
    assert torch.equal(mixture.means.detach(), result.parameters.means)


def overflowing(steps=1):
    """Rows at the limit of float32 and a start so narrow that their squares overflow."""
    x = 1e15 * torch.tensor([[1.0], [-1.0]]).repeat(10, 1)
    scale = torch.full(as_family("full").scale_shape(2, 1), -60.0).double()
    start = tg.Parameters(
        torch.zeros(2).double(), torch.zeros(2, 1).double(), scale, as_family("full")
    )
    return x, start


def test_sums_that_overflow_end_a_fit_as_diverged():
    x, start = overflowing()
    mixture = new(k=2, dtype=torch.float32)
    with pytest.warns(ConvergenceWarning, match="DIVERGED.*no longer finite.*rescale"):
        result = mixture.fit(x, init=start)
    assert result.status is Status.DIVERGED
    assert torch.equal(result.parameters.means, start.means)  # the last good step
    assert bool(torch.isfinite(mixture.means).all())


class Bad(tg.KMeans):
    """A seeding whose first start overflows and whose second is sound."""

    calls = itertools.count()

    def __call__(self, source, n_components, family, floor, generator):
        sound = super().__call__(source, n_components, family, floor, generator)
        if next(self.calls) == 0:
            return tg.Parameters(sound.logits, 0 * sound.means, sound.scale - 99, family)
        return sound


def test_a_run_that_diverged_at_once_is_not_kept_if_another_did_not():
    x, _ = overflowing()
    result = new(k=2, dtype=torch.float32).fit(
        x, EM(reg_covar=1.0), init=Bad(), n_init=2, generator=0
    )
    assert result.status is not Status.DIVERGED
    assert len(result.runs) == 2
    assert result.parameters.means.abs().max() > 1e14


def test_a_fit_at_rest_with_a_tolerance_of_zero_is_stalled_and_keeps_its_best():
    x = blobs(100, separation=50.0)
    with pytest.warns(ConvergenceWarning, match="STALLED.*has not risen"):
        result = new().fit(x, EM(max_iter=500), stop=Tolerance(0), generator=0)
    assert result.status is Status.STALLED
    assert 50 <= result.n_steps < 500
    levels = [step.log_likelihood for step in result.history]
    again = GaussianMixture.from_parameters(result.parameters)
    # nothing but rounding since the best step
    assert float(again.score(x)) == pytest.approx(max(levels), abs=1e-12)


# what it reports --------------------------------------------------------------------------------


def test_the_history_tells_every_step():
    result = new().fit(X, EM(max_iter=5), stop=Tolerance(0), generator=0)
    for step in result.history:
        assert step.seconds > 0
        assert step.rescued == step.collapsed == 0
        assert step.kernel in tg.kernels.kernels()
    assert result.seconds == pytest.approx(sum(step.seconds for step in result.history))
    assert result.log_likelihood == result.history[-1].log_likelihood
    assert result.state.step == 5
    words = str(result)
    assert "BUDGET_SPENT" in words
    assert "5 steps" in words


@every_family
def test_the_log_likelihood_is_that_of_the_parameters_that_entered_the_step(family):
    start = drawn(family, 3, 2)
    result = new(family).fit(X, EM(max_iter=3), init=start, stop=Tolerance(0))
    entered = GaussianMixture.from_parameters(start)
    assert result.history[0].log_likelihood == pytest.approx(float(entered.score(X)))
    two = new(family).fit(X, EM(max_iter=2), init=start, stop=Tolerance(0))
    after_two = GaussianMixture.from_parameters(two.parameters)
    assert result.history[2].log_likelihood == pytest.approx(float(after_two.score(X)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mixture_holds_what_was_found_in_its_own_dtype(dtype):
    mixture = new(dtype=dtype)
    result = mixture.fit(X, EM(max_iter=5), generator=0)
    assert result.parameters.means.dtype == torch.float64
    for name in ("logits", "means", "scale"):
        held = getattr(mixture, name).detach()
        assert torch.equal(held, getattr(result.parameters, name).to(dtype))
    assert not result.parameters.means.requires_grad


def test_restarts_keep_the_best_run_and_report_all():
    x = blobs(120, 2, k=5, separation=8.0)
    single = [
        new(k=5).fit(x, init="random_from_data", generator=seed).log_likelihood for seed in range(4)
    ]
    assert max(single) - min(single) > 0.01  # these starts do differ
    mixture = new(k=5)
    result = mixture.fit(x, init="random_from_data", n_init=6, generator=0)
    assert len(result.runs) == 6
    assert result.log_likelihood == max(result.runs)
    assert len(set(result.runs)) > 1
    assert torch.equal(mixture.means.detach(), result.parameters.means)
    one = new(k=5).fit(x, init="random_from_data", generator=0)
    assert result.runs[0] == one.log_likelihood


# going on ---------------------------------------------------------------------------------------


@every_family
def test_ten_and_ten_steps_are_twenty(family):
    whole, parts = new(family), new(family)
    twenty = whole.fit(X, EM(max_iter=20), stop=Tolerance(0), generator=0)
    ten = parts.fit(X, EM(max_iter=10), stop=Tolerance(0), generator=0)
    more = parts.fit(X, EM(max_iter=10), stop=Tolerance(0), init="current")
    assert torch.equal(parts.means, whole.means)
    assert torch.equal(parts.scale, whole.scale)
    assert torch.equal(parts.logits, whole.logits)
    levels = [s.log_likelihood for s in (*ten.history, *more.history)]
    assert levels == [s.log_likelihood for s in twenty.history]


def test_a_float32_mixture_goes_on_exactly_from_the_result():
    x = X.float()
    whole, parts = new(dtype=torch.float32), new(dtype=torch.float32)
    whole.fit(x, EM(max_iter=20), stop=Tolerance(0), generator=0)
    ten = parts.fit(x, EM(max_iter=10), stop=Tolerance(0), generator=0)
    parts.fit(x, EM(max_iter=10), stop=Tolerance(0), init=ten.parameters)
    assert torch.equal(parts.means, whole.means)
    assert torch.equal(parts.scale, whole.scale)


def test_a_warm_start_leaves_the_start_as_it_was():
    start = drawn("full", 3, 2)
    before = start.means.clone()
    new().fit(X, EM(max_iter=3), init=start)
    assert torch.equal(start.means, before)
    mixture = GaussianMixture.from_parameters(start)
    one, other = new(), new()
    one.fit(X, EM(max_iter=3), init=mixture.as_parameters())
    other.fit(X, EM(max_iter=3), init=mixture)  # the same
    assert torch.equal(mixture.means.detach(), before)
    assert torch.equal(one.means, other.means)


def test_a_fit_changes_no_global_state():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    new().fit(X, EM(max_iter=2), generator=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_rows_and_weights_are_left_as_they_were():
    x, w = X.clone(), torch.rand(200, dtype=torch.float64)
    before = x.clone(), w.clone()
    new().fit(x, EM(max_iter=3), weights=w, generator=0)
    assert torch.equal(x, before[0])
    assert torch.equal(w, before[1])


@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_result_is_a_line_at_a_prompt(batch):
    result = tg.GaussianMixture(3, batch_shape=batch).fit(X, EM(max_iter=3), generator=0)
    assert repr(result) == f"<{type(result).__name__} {result}>"
    assert "\n" not in repr(result)
    assert f"{result.seconds:.3g} s" in repr(result)


def test_settings_stand_in_the_repr():
    method = EM(max_iter=7, reg_covar=0.5)
    assert "max_iter=7" in repr(method)
    assert "reg_covar=0.5" in repr(method)
    assert method == EM(max_iter=7, reg_covar=0.5)
    with pytest.raises(AttributeError):
        method.max_iter = 8


def test_a_fit_under_autocast_is_the_same_fit():
    x = blobs(400, 2, separation=8.0, dtype=torch.float32)
    plain, mixed = tg.GaussianMixture(3), tg.GaussianMixture(3)
    expected = plain.fit(x, generator=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = mixed.fit(x, generator=0)
    assert torch.equal(got.parameters.means, expected.parameters.means)
