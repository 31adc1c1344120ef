"""Screening as a GPU does it, against the definition: here its rows may lie on the CPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cases import CASES, FLOATS, Case
from tests.kernels.common import FIELDS
from torchgmm.kernels import Dense, Screened, grouped, screened
from torchgmm.kernels.screen import turned
from torchgmm.kernels.screened import Plan

SEPARATE = ["full", "diagonal", "spherical"]
OVERLAP = Case("overlap", 12, 0, 2, 100, k=5, n=3000)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(screened, "is_grouped", lambda x: True)


@pytest.fixture
def added(monkeypatch):
    """Tiles added up by torch, as without Triton: the kernel has a test of its own."""
    monkeypatch.setattr(grouped, "can_launch", lambda device: False)


def agrees(got, expected, rtol):
    for name in FIELDS:
        a, b = getattr(got, name).cpu(), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max() + 1))


def placed(x, w, p, device):
    return x.to(device), None if w is None else w.to(device), p.to(device=device)


@pytest.mark.parametrize("family", SEPARATE)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", [*CASES, OVERLAP], ids=str)
def test_moments_are_the_definition(case, family, dtype, added, device):
    x, p = case.rows(dtype), case.start(family)
    w = torch.linspace(0.1, 3, len(x), dtype=dtype)
    got = Screened(budget=100_000).accumulate(*placed(x, w, p, device))
    agrees(got, Dense().accumulate(x, w, p), {torch.float32: 1e-4, torch.float64: 1e-9}[dtype])


@pytest.mark.parametrize("family", SEPARATE)
@pytest.mark.parametrize("kept", [1.0, 5.0])
def test_few_coordinates_and_chunks_change_nothing(family, kept, added, device):
    x, p = OVERLAP.rows(), OVERLAP.start(family)
    coordinates = 2 if family == "full" else 12
    plan, kernel = Plan(coordinates, 0.0, kept, 0.0), Screened(budget=30_000)
    y, _, q = placed(x, None, p, device)
    got = kernel.planned(y, None, q, turned(q, y.dtype), plan)
    agrees(got, Dense().accumulate(x, None, p), 1e-9)


def test_tiles_are_joined_by_a_kernel(launchable, device):
    x, p = OVERLAP.rows(torch.float32), OVERLAP.start("full")
    y, _, q = placed(x, None, p, device)
    found = [Screened().accumulate(y, None, q) for _ in range(2)]
    agrees(found[0], Dense().accumulate(x, None, p), 1e-4)
    assert all(torch.equal(getattr(found[0], f), getattr(found[1], f)) for f in FIELDS)


def test_rows_at_an_absurd_distance_are_looked_at_whole(added, device):
    p = CASES[0].start("full")
    x = CASES[0].rows(torch.float32)[:500].clone()
    x[7], x[90] = 1e30, -3e25  # bounds overflow
    got = Screened().accumulate(*placed(x, None, p, device))
    assert got.weight.sum() == pytest.approx(500, rel=1e-6)
    expected = Dense().accumulate(x, None, p)
    torch.testing.assert_close(got.weight.cpu(), expected.weight, rtol=1e-5, atol=1e-5)


class Looks(TorchDispatchMode):
    READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.count += op.overloadpacket in self.READS
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", SEPARATE)
def test_a_chunk_is_looked_at_once(family, added):
    x, p = OVERLAP.rows(torch.float32), OVERLAP.start(family)
    mixture, counts = turned(p, x.dtype), []
    screen = screened.Screen(mixture, 12, x.dtype)
    work = grouped.Grouped(p, screen, 2.0, x, None, 2**20)
    for part in x.split(work.rows):
        with Looks() as looks:
            work.add(part, None)
        counts.append(looks.count)
    assert set(counts) == {1}
