"""Merging: moments stay, the cheapest pairs go, and the bound is one."""

import itertools

import numpy as np
import pytest
import torch

from tests.algebra.common import density, grid, leaves, near, tensors, whole_moments
from tests.cases import FAMILIES
from tests.definition import STRUCTURES, naive
from torchgmm import GaussianMixture, InputError, Parameters, kl_divergence, merge

every_family = pytest.mark.parametrize("family", FAMILIES)


def pair(a, b):
    """The textbook's union of two components `(weight, mean, covariance)`."""
    w = a[0] + b[0]
    mean = (a[0] * a[1] + b[0] * b[1]) / w
    covariance = sum(c[0] / w * (c[2] + np.outer(c[1] - mean, c[1] - mean)) for c in (a, b))
    return w, mean, covariance


def bound(a, b):
    def part(c):
        return c[0] * np.linalg.slogdet(c[2])[1]

    return (part(pair(a, b)) - part(a) - part(b)) / 2


def greedy(p, wanted):
    """Runnalls' algorithm as he writes it; components in the order of their first member."""
    parts = dict(enumerate(zip(*(t.numpy() for t in naive(p)), strict=True)))
    while len(parts) > wanted:
        i, j = min(
            itertools.combinations(sorted(parts), 2),
            key=lambda ij: bound(parts[ij[0]], parts[ij[1]]),
        )
        parts[i] = pair(parts[i], parts.pop(j))
    return [np.array(t) for t in zip(*(parts[i] for i in sorted(parts)), strict=True)]


@every_family
@pytest.mark.parametrize("wanted", [7, 4, 1])
def test_it_is_the_algorithm_of_the_paper(family, wanted):
    p = near(family, k=8)
    found = merge(p, wanted)
    assert found.family.name == "full"
    for ours, theirs in zip(naive(found), greedy(p, wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@every_family
@pytest.mark.parametrize("wanted", [5, 2, 1])
def test_the_mean_and_covariance_of_the_whole_stay(family, wanted):
    p = near(family, k=5, d=4)
    for found, expected in zip(whole_moments(merge(p, wanted)), whole_moments(p), strict=True):
        torch.testing.assert_close(found, expected)


@every_family
@pytest.mark.parametrize("target", FAMILIES)
def test_within_a_family_it_keeps_what_the_family_can_hold(family, target):
    p = near(family, k=5, d=3)
    whole = naive(merge(p, 1))
    found = merge(p, 1, covariance=target)
    assert found.family.name == target
    structure = STRUCTURES[target]
    public = structure.estimate(whole.covariances, whole.weights)
    torch.testing.assert_close(found.family.covariances(found.scale), public)
    torch.testing.assert_close(found.means, whole.means)


@every_family
def test_as_many_as_there_are_is_the_same_mixture(family):
    p = near(family, k=4)
    same = merge(p, 4, covariance=family)
    for found, expected in zip(naive(same), naive(p), strict=True):
        torch.testing.assert_close(found, expected)


def test_tied_covariances_are_pooled():
    p = near("full", k=4)
    found, apart = merge(p, 2, covariance="tied"), naive(merge(p, 2))
    pooled = (apart.weights[:, None, None] * apart.covariances).sum(0)
    torch.testing.assert_close(found.family.covariances(found.scale), pooled)


@every_family
@pytest.mark.parametrize("target", ["full", "diagonal", "spherical"])
def test_the_bound_is_above_the_divergence(family, target):
    p = near(family, k=2, d=1)
    for weight in (0.1, 0.5):
        mixed = Parameters(
            torch.tensor([weight, 1 - weight]).double().log(), *tensors(p)[1:], p.family
        )
        merged = merge(mixed, 1, covariance=target)
        points, cell = grid(1, reach=20)
        before, after = density(mixed, points), density(merged, points)
        seen = before > 0
        divergence = (before[seen] * np.log(before[seen] / after[seen])).sum() * cell
        # 1-D: the three families hold the same
        limit = bound(*zip(*(t.numpy() for t in naive(mixed)), strict=True))
        assert 0 < divergence < limit


@every_family
def test_split_components_find_each_other(family):
    p = near(family, k=3, d=2)
    twice = Parameters(
        torch.cat([p.logits, p.logits]),
        torch.cat([p.means, p.means + 1e-3]),
        p.scale if p.family.tied else torch.cat([p.scale, p.scale]),
        p.family,
    )
    found = naive(merge(twice, 3))
    whole = naive(p)
    torch.testing.assert_close(found.weights, whole.weights)
    torch.testing.assert_close(found.means, whole.means + 5e-4)
    torch.testing.assert_close(found.covariances, whole.covariances, rtol=1e-5, atol=1e-6)
    assert float(kl_divergence(p, merge(twice, 3)).value) < 1e-4


def test_components_without_weight_go_first():
    mixture = GaussianMixture.from_covariances(
        [0.5, 0.0, 0.5, 0.0], [[0.0], [9.0], [2.0], [-5.0]], [1.0] * 4, "spherical"
    )
    found = merge(mixture, 2)
    assert sorted(found.means.flatten().tolist()) == [0, 2]
    assert found.covariances.flatten().tolist() == pytest.approx([1, 1])
    many = merge(mixture, 3)
    assert many.as_parameters().is_finite() or bool((many.weights == 0).any())
    assert bool(torch.isfinite(many.means).all())


def test_the_choice_of_each_mixture_of_a_batch_is_its_own():
    means = torch.tensor([[[0.0], [1.0], [9.0]], [[0.0], [8.0], [9.0]]]).double()
    p = Parameters(
        torch.zeros(2, 3).double(), means, torch.zeros(2, 3, 1).double(), near("spherical").family
    )
    found = merge(p, 2)
    torch.testing.assert_close(found.means, torch.tensor([[[0.5], [9]], [[0], [8.5]]]).double())


@every_family
@pytest.mark.parametrize("target", FAMILIES)
def test_merged_components_have_gradients(family, target):
    p = near(family, k=3, d=2)
    if target == "common_axes":  # the answer of a search
        with pytest.raises(InputError, match="gradients do not flow"):
            merge(Parameters(*tensors(leaves(p)), p.family), 2, covariance=target)
        return

    def merged(*given):
        found = merge(Parameters(*given, p.family), 2, covariance=target)
        return found.log_weights, found.means, found.scale

    assert torch.autograd.gradcheck(merged, tensors(leaves(p)))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [(0, "at least 1, got 0"), (4, "n_components=4 is more than the 3"), (2.0, "integer, got 2.0")],
)
def test_numbers_that_cannot_be_reached_are_refused(wanted, message):
    with pytest.raises(InputError, match=message):
        merge(near("full"), wanted)


def test_singular_covariances_are_refused():
    scale = torch.diag_embed(torch.zeros(2, 2).double())
    scale[:, 1, 0], scale[:, 1, 1] = 1.0, -60.0  # the second feature is the first, plus 1e-26
    p = Parameters(torch.zeros(2).double(), torch.zeros(2, 2).double(), scale, near("full").family)
    with pytest.raises(InputError, match="cannot be told from singular"):
        merge(p, 1)
