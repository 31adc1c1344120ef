"""Products that sum over rows slab by slab: float32 would wear out, and a GPU have little to do."""

import pytest
import torch

from tests.cases import FAMILIES, FLOATS, drawn
from torchgmm.kernels import Dense, Quadratic, layouts
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
