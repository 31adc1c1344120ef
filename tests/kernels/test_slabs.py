"""Products that sum over rows slab by slab: float32 would wear out, and a GPU have little to do."""

import pytest
import torch

from tests.cases import FAMILIES, FLOATS, drawn
from torchgmm import Parameters
from torchgmm.covariance import as_family
from torchgmm.kernels import Dense, Quadratic, layouts
from torchgmm.linalg import long_product
from torchgmm.moments import Moments


@pytest.fixture
def slabs(monkeypatch):
    monkeypatch.setattr(layouts, "_SLAB", 64)


@pytest.mark.parametrize("n", [5, 64, 300])
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_product_is_the_product(n, batch, dtype):
    g = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*batch, m, n, generator=g, dtype=dtype) for m in (4, 7))
    found = layouts._by_slabs(left, right.mT, 64)
    assert found.dtype == torch.float64
    expected = left.double() @ right.double().mT
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("family", FAMILIES)
def test_moments_are_the_definition(family, batch, slabs):
    p = drawn(family, 3, 4, batch, condition=2.0)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 4, generator=g)
    w = torch.rand(500, generator=g)
    got, expected = Quadratic().accumulate(x, w, p), Dense().accumulate(x, w, p)
    for field in Moments.__dataclass_fields__:
        a, b = getattr(got, field), getattr(expected, field)
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("lying", ["rows", "columns"])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(("k", "p"), [(3, 7), (20, 7), (20, 30), (3, 2)])
def test_either_way_round_it_is_the_product(k, p, batch, lying):
    g = torch.Generator().manual_seed(0)
    left = torch.randn(*batch, k, 50, generator=g, dtype=torch.float64)
    right = torch.randn(*batch, 50, p, generator=g, dtype=torch.float64)
    right = right.mT.contiguous().mT if lying == "columns" else right
    torch.testing.assert_close(long_product(left, right), left @ right)


def test_float32_sums_of_many_rows_keep_the_digits_of_separated_means():
    g = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(5, 4, generator=g)
    x = centres[torch.randint(5, (60_000,), generator=g)] + torch.randn(60_000, 4, generator=g)
    scale = torch.zeros(5, 4, 4, dtype=torch.float64)
    p = Parameters(scale.new_zeros(5), centres.double(), scale, as_family("full"))
    plan = Quadratic().plan(x, p)
    assert plan.dtypes[0] == torch.float32
    magnitude = torch.stack(plan.features.magnitude(plan.features.spread()))[1].max()
    assert magnitude > 168  # more than sums of all rows at once would bear
    kernel = Quadratic(budget=64 * 2**20)  # all rows in one chunk
    got, exact = (as_covariances(kernel.accumulate(t, None, p)) for t in (x, x.double()))
    assert float(((got - exact).abs() / exact.diagonal(dim1=-2, dim2=-1).amin()).max()) < 1e-5


def as_covariances(m):
    outer = m.mean[..., None] * m.mean[..., None, :]
    return m.second / m.weight[..., None, None] - outer
