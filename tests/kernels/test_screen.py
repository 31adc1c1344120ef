"""Screening: bounds that hold, pairs that may be dismissed, and places that are found again."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import CASES, FLOATS, Case
from torchgmm.kernels import Dense, Screened
from torchgmm.kernels.pairs import Chosen, Pairs, nats_of, places
from torchgmm.kernels.screen import Screen, turned
from torchgmm.kernels.screened import Plan, best_plan
from torchgmm.moments import Moments

SEPARATE = ["full", "diagonal", "spherical"]
WIDE = Case("wide", 24, 3, 8, 1e3, k=6, n=1500)
every_family = pytest.mark.parametrize("family", SEPARATE)
every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)
every_case = pytest.mark.parametrize("case", [*CASES, WIDE], ids=str)


def joint_of(x, p):
    return torch.cat([joint.clone() for _, joint in Dense().log_joint(x, p)], -1)


def bounds_of(x, p, coordinates=None):
    screen = Screen(turned(p, x.dtype), coordinates or p.n_features, x.dtype)
    out = x.new_empty(p.n_components, len(x))
    return screen.bounds(x, screen.layout(len(x), x), out)


@every_family
@every_dtype
@every_case
def test_a_bound_is_never_below_what_it_bounds(family, dtype, case):
    x, p = case.rows(dtype), case.start(family)
    exact = joint_of(x.double(), p)
    for coordinates in {1, min(3, case.d), case.d} if family == "full" else {case.d}:
        u = bounds_of(x, p, coordinates).double()
        assert bool((u >= exact).all()), float((u - exact).min())


@every_family
@every_dtype
def test_bounds_of_all_coordinates_are_tight_on_easy_data(family, dtype):
    x, p = CASES[0].rows(dtype), CASES[0].start(family)
    gap = (bounds_of(x, p).double() - joint_of(x.double(), p)).max()
    assert float(gap) < {torch.float32: 1e-2, torch.float64: 1e-10}[dtype]


def test_fewer_coordinates_bound_less():
    x, p = WIDE.rows(), WIDE.start("full")
    gaps = [float((bounds_of(x, p, n) - joint_of(x, p)).mean()) for n in (4, 8, 16, 24)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6


@every_family
@every_dtype
def test_pairs_left_out_at_first_are_found_when_they_count(family, dtype):
    """With no margin only the best bound of a row is looked at: often not its best pair."""
    case = Case("overlap", 12, 0, 2, 100, k=5, n=3000)
    x, p = case.rows(dtype), case.start(family)
    mixture = turned(p, dtype)
    coordinates = 2 if family == "full" else 12
    blind = Plan(coordinates, 0.0, 1.0, 0.0)
    got = Screened().planned(x, None, p, mixture, blind)
    expected = Dense().accumulate(x, None, p)
    rounding = 200 * torch.finfo(dtype).eps
    for name in Moments.__dataclass_fields__:
        a, b = getattr(got, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=rounding, atol=rounding * float(b.abs().max() + 1))


@every_dtype
def test_what_is_dismissed_weighs_less_than_rounding(dtype):
    for k in (2, 64, 4096):
        assert k * math.exp(-nats_of(dtype, k)) < torch.finfo(dtype).eps


def test_the_probe_finds_few_pairs_where_components_are_apart():
    case = Case("apart", 16, 0, 30, 10, k=12, n=4000)
    x, p = case.rows(torch.float32), case.start("full")
    plan = best_plan(x, p, turned(p, x.dtype))
    assert plan.kept < 1.5
    blurred = Case("blurred", 16, 0, 0.1, 1, k=12, n=4000)
    x, p = blurred.rows(torch.float32), blurred.start("full")
    assert best_plan(x, p, turned(p, x.dtype)).kept > 11


def test_components_too_tight_for_float32_are_left_to_dense():
    p = CASES[0].start("full")
    p.scale[0] = p.family.unconstrained(1e-12 * p.family.factor(p.scale[0]))
    x = CASES[0].rows(torch.float32)
    assert best_plan(x, p, turned(p, x.dtype)) is None
    got, expected = Screened().accumulate(x, None, p), Dense().accumulate(x, None, p)
    assert torch.equal(got.first, expected.first)


def test_a_row_whose_bounds_overflow_is_looked_at_whole():
    p = CASES[0].start("full")
    pairs = Pairs(p, p.means, None)
    x = CASES[0].rows()[:7]
    nothing = torch.zeros(3, 7, dtype=torch.bool)
    mask = nothing.logical_not()  # what comparisons with NaN give
    unbounded = torch.full((7,), -math.inf, dtype=torch.float64)
    pairs.add(x, None, Chosen(mask, unbounded, lambda rows: x.new_full((3, len(rows)), math.nan)))
    expected = Dense().accumulate(x, None, p)
    torch.testing.assert_close(pairs.moments().weight, expected.weight)


@given(st.integers(1, 9), st.integers(1, 70), st.floats(0, 1), st.integers(0, 1000))
def test_places_are_where_the_mask_is_true(k, n, density, seed):
    mask = torch.rand(k, n, generator=torch.Generator().manual_seed(seed)) < density
    assert places(mask).tolist() == mask.flatten().nonzero().flatten().tolist()
