"""A mixture as plain tensors, and its way from and to moments."""

import pytest
import torch

from tests.cases import FAMILIES, drawn
from tests.definition import STRUCTURES, em_step, naive
from torchgmm import InputError, Parameters
from torchgmm.kernels import as_kernel
from torchgmm.parameters import from_moments, to_moments

every_family = pytest.mark.parametrize("family", FAMILIES)


def assert_same_mixture(got, expected, digits=1e-12):
    a, b = naive(got), naive(expected)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=100 * digits, atol=digits)  # condition 100


@every_family
def test_the_moments_of_a_mixture_give_the_mixture_back(family):
    p = drawn(family, 3, 4)
    for rows in (1.0, 250.0):
        moments = to_moments(p, rows)
        assert float(moments.weight.sum()) == pytest.approx(rows)
        again, hopeless = from_moments(moments, p.family, 0.0)
        assert not bool(hopeless.any())
        assert_same_mixture(again, p)


@every_family
def test_the_m_step_is_that_of_the_definition(family):
    p = drawn(family, 3, 4)
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = as_kernel("dense").accumulate(x, None, p)
    got, _ = from_moments(moments, p.family, 0.1)
    expected = Parameters.from_covariances(*em_step(x, None, p, 0.1), family)
    assert_same_mixture(got, expected, STRUCTURES[family].digits)


@every_family
def test_the_m_step_does_not_depend_on_the_frame(family):
    p = drawn(family, 3, 4)
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = as_kernel("dense").accumulate(x, None, p)
    away = p.family.moved(moments, p.means + 3)
    assert_same_mixture(
        from_moments(away, p.family, 0.0)[0], from_moments(moments, p.family, 0.0)[0]
    )


@every_family
def test_a_component_without_weight_keeps_its_place(family):
    p = drawn(family, 3, 4)
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p.means[1] = 1e8
    got, _ = from_moments(as_kernel("dense").accumulate(x, None, p), p.family, 1e-6)
    assert torch.equal(got.means[1], p.means[1])
    assert bool(torch.isfinite(got.logits).all())
    assert float(got.log_weights[1].exp()) < 1e-300


@every_family
def test_a_batch_of_moments_is_a_loop(family):
    p = drawn(family, 3, 4, (2,))
    moments = to_moments(p, 10.0)
    got, hopeless = from_moments(moments, p.family, 0.5)
    assert hopeless.shape == (2, p.family.heads(3))
    for b in range(2):
        one = drawn(family, 3, 4, (2,)).map(lambda t, b=b: t[b])
        alone, _ = from_moments(to_moments(one, 10.0), p.family, 0.5)
        torch.testing.assert_close(got.means[b], alone.means)
        torch.testing.assert_close(got.scale[b], alone.scale)


def test_the_sum_that_is_wrong_is_the_one_that_is_told():
    p = drawn("spherical", 2, 1, (2,))
    weights = torch.tensor([[0.5, 0.5], [0.5, 0.75]], dtype=torch.float64)
    with pytest.raises(InputError, match=r"sum of 1\.25"):
        Parameters.from_covariances(weights, p.means, p.scale.exp()[..., 0], "spherical")


def test_map_and_to_change_every_tensor():
    p = drawn("tied", 3, 4)
    doubled = p.map(lambda t: 2 * t)
    assert torch.equal(doubled.scale, 2 * p.scale)
    single = p.to(torch.float32)
    assert {t.dtype for t in (single.logits, single.means, single.scale)} == {torch.float32}
    assert single.family == p.family


def test_a_value_that_is_not_finite_is_seen():
    for name in ("logits", "means", "scale"):
        p = drawn("full", 2, 2)
        assert p.is_finite()
        getattr(p, name).flatten()[0] = torch.nan
        assert not p.is_finite()
