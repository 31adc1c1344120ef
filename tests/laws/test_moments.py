"""Law 1: the moments of a data set do not depend on how it is cut; they form a vector space."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import FAMILIES, drawn
from tests.laws.strategies import problems, seeds
from torchgmm.kernels import as_kernel
from torchgmm.moments import Moments

SUMS = ("weight", "first", "second", "log_prob", "rows")


def total(x, start, cuts):
    kernel = as_kernel("dense")
    parts = [kernel.accumulate(part, None, start) for part in torch.tensor_split(x, cuts)]
    return sum(parts[1:], parts[0])


def assert_same(a, b, rtol=1e-12):
    # float64 sums of some hundred terms in another order; first moments are sums of both signs, so
    # the size of their terms counts, and that of the second moments is an upper bound for it
    size = float(b.second.abs().max()) + float(b.weight.max()) + float(b.log_prob.abs())
    for field in SUMS:
        x, y = getattr(a, field), getattr(b, field)
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol * size)


@given(problems(), seeds, st.integers(1, 5))
def test_any_cut_gives_the_same_moments(problem, seed, n_cuts):
    g = torch.Generator().manual_seed(seed)
    n = len(problem.x)
    cuts = sorted(torch.randint(1, n, (n_cuts,), generator=g).unique().tolist())
    whole = total(problem.x, problem.start, [])
    assert_same(total(problem.x, problem.start, cuts), whole)


@given(problems(), seeds)
def test_any_order_gives_the_same_moments(problem, seed):
    order = torch.randperm(len(problem.x), generator=torch.Generator().manual_seed(seed))
    whole = total(problem.x, problem.start, [])
    assert_same(total(problem.x[order], problem.start, []), whole)


@given(problems(), st.floats(0.01, 100))
def test_scaling_moments_is_scaling_the_weights(problem, factor):
    kernel = as_kernel("dense")
    w = torch.full((len(problem.x),), factor, dtype=torch.float64)
    scaled = factor * kernel.accumulate(problem.x, None, problem.start)
    assert_same(scaled, kernel.accumulate(problem.x, w, problem.start))


@given(problems(), seeds)
def test_moving_there_and_back_changes_nothing(problem, seed):
    moments = total(problem.x, problem.start, [])
    family = problem.start.family
    away = drawn(family.name, *moments.frame.shape, seed=seed).means
    back = family.moved(family.moved(moments, away), moments.frame)
    # the scatter about the other frame is larger by the squared distance, and so are its roundings
    distance = float((moments.frame - away).abs().max()) ** 2 + 1
    assert_same(back, moments, rtol=1e-12 * distance)


@given(problems(), seeds)
def test_moving_commutes_with_adding(problem, seed):
    family = problem.start.family
    half = len(problem.x) // 2
    away = drawn(family.name, *problem.start.means.shape, seed=seed).means
    kernel = as_kernel("dense")
    one, other = (
        kernel.accumulate(part, None, problem.start) for part in problem.x.tensor_split([half])
    )
    moved = family.moved(one + other, away)
    assert_same(family.moved(one, away) + family.moved(other, away), moved)


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_about_different_frames_do_not_add(family):
    p = drawn(family, 2, 3)
    here = as_kernel("dense").accumulate(torch.zeros(1, 3).double(), None, p)
    with pytest.raises(ValueError, match="different frames"):
        here + here.__class__(*(getattr(here, f) for f in SUMS), here.frame + 1)


def test_the_mean_log_prob_is_per_unit_of_weight():
    nothing = torch.zeros(1)
    moments = Moments(nothing, nothing, nothing, torch.tensor(-6.0), torch.tensor(3.0), nothing)
    assert float(moments.mean_log_prob) == -2
    assert float((5 * moments).mean_log_prob) == -2
    assert moments.is_finite()
    assert not (torch.nan * moments).is_finite()
