"""The kernels of k-means against its definition: labels, distances, sums of the clusters."""

import pytest
import torch

from tests.cases import blobs
from torchgmm.errors import MemoryWarning
from torchgmm.kernels import memory
from torchgmm.kmeans import assign, kmeans, kmeans_plus_plus
from torchgmm.kmeans import nearest as room

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.usefixtures("launchable")


@pytest.fixture
def fused(monkeypatch):
    monkeypatch.setattr(room, "is_fused", lambda x: True)


def several_chunks(monkeypatch, size):
    """So many bytes of a chunk, on a GPU too, or what it turned out to bear."""

    def chunk_budget(asked, usual, device):
        return memory._borne.get(device, size)

    monkeypatch.setattr(memory, "_borne", {})
    monkeypatch.setattr(room, "chunk_budget", chunk_budget)


def drawn(b, own, n, d, k, dtype):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(own, n, d, generator=g, dtype=torch.float64).to(dtype)
    centres = torch.randn(b, k, d, generator=g, dtype=torch.float64).to(dtype)
    return x, centres, torch.rand(b, n, generator=g, dtype=torch.float64).to(dtype)


SIZES = {
    "one": (1, 1, 1100, 5, 7),  # a cluster of more than one tile, rows past whole ones
    "many": (2, 2, 300, 2, 3),
    "shared": (3, 1, 200, 3, 2),
    "wide": (1, 1, 60, 70, 66),  # features and centres past whole tiles
}


@pytest.mark.parametrize(
    ("size", "dtype", "weighted"),
    [
        ("one", torch.float64, True),
        ("one", torch.float32, False),
        ("many", torch.float32, True),
        ("shared", torch.float32, False),
        ("wide", torch.float32, True),
    ],
)
def test_they_are_the_definition(size, dtype, weighted, device):
    from torchgmm.kernels.triton_nearest import cluster_sums, nearest

    x, centres, w = drawn(*SIZES[size], dtype)
    w = w if weighted else None
    label, away = (t.cpu() for t in nearest(x.to(device), centres.to(device)))
    gap = centres.double().square().sum(-1).unsqueeze(-2) - 2 * x.double() @ centres.double().mT
    least = gap.min(-1)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype]  # of sums of 130 terms near 1
    torch.testing.assert_close(away.double(), least.values, rtol=tolerance, atol=tolerance)
    chosen = gap.gather(-1, label.long().unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(chosen, least.values, rtol=tolerance, atol=tolerance)
    k = centres.shape[-2]
    on_device = None if w is None else w.to(device)
    found = cluster_sums(x.to(device), on_device, label.to(device), k)
    member = torch.nn.functional.one_hot(label.long(), k).double()
    if w is not None:
        member *= w.double().unsqueeze(-1)
    expected = (member.sum(-2), member.mT @ x.double())
    for got, right in zip(found, expected, strict=True):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got.cpu(), right, rtol=tolerance, atol=tolerance)


@pytest.mark.cuda
def test_equal_calls_give_equal_bits():
    x, centres, _ = (t.cuda() for t in drawn(1, 1, 100_000, 16, 40, torch.float32))
    found = [kmeans(x[0], None, centres[0].double(), tol=0, max_iter=5) for _ in range(3)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_of_equals_the_first_is_taken(device):
    from torchgmm.kernels.triton_nearest import nearest

    x = torch.zeros(1, 4, 2, device=device)
    centres = torch.tensor([[[3.0, 0], [1, 0], [0, 1], [1, 0]]], device=device)
    assert nearest(x, centres)[0].tolist() == [[1, 1, 1, 1]]


def test_an_operator_gives_the_same(device):
    from torchgmm.kernels.triton_nearest import nearest
    from torchgmm.kernels.triton_ops import nearest_centre

    x, centres, _ = drawn(*SIZES["many"], torch.float32)
    x, centres = x.to(device), centres.to(device)
    for got, right in zip(nearest_centre(x, centres), nearest(x, centres), strict=True):
        assert torch.equal(got, right)
    shapes = torch.ops.torchgmm.nearest_centre(x.to("meta"), centres.to("meta"))
    assert [t.shape for t in shapes] == [(2, 300), (2, 300)]


@pytest.mark.parametrize(("b", "weighted"), [(1, False), (2, True)])
def test_steps_end_where_the_others_end(b, weighted, fused, monkeypatch, device):
    x = torch.stack([blobs(300, 4, k=4, separation=6.0), 2 * blobs(300, 4, k=4)])[:b].float()
    w = torch.rand(b, 300, generator=torch.Generator().manual_seed(1)) if weighted else None
    start = kmeans_plus_plus(x, w, 4, torch.Generator().manual_seed(0))
    on_device = None if w is None else w.to(device)
    several_chunks(monkeypatch, 32 * 200 * b)
    found = kmeans(x.to(device), on_device, start.to(device), tol=0, max_iter=2)
    monkeypatch.setattr(room, "is_fused", lambda x: False)
    expected = kmeans(x, w, start, tol=0, max_iter=2)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)  # float32 sums


def test_out_of_memory_fewer_rows_are_sorted_at_once(fused, monkeypatch, device):
    from torchgmm.kernels import triton_nearest

    x, start = blobs(300, 4, k=4, separation=6.0).to(device), blobs(4, 4).to(device)
    monkeypatch.setattr(memory, "_LEAST", 1)
    several_chunks(monkeypatch, 32 * 128)
    expected = kmeans(x, None, start, max_iter=2)
    several_chunks(monkeypatch, 32 * 256)
    whole, sizes = triton_nearest.cluster_sums, []

    def sums(rows, w, label, k):
        sizes.append(rows.shape[-2])
        if len(sizes) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(rows, w, label, k)

    monkeypatch.setattr(triton_nearest, "cluster_sums", sums)
    with pytest.warns(MemoryWarning) as said:
        found = kmeans(x, None, start, max_iter=2)
    assert len(said) == 1
    assert sizes[:5] == [256, 44, 128, 128, 44]
    assert torch.equal(found, expected)


def test_a_cluster_that_loses_its_rows_moves_to_the_farthest_row(fused, device):
    x = torch.tensor([[0.0], [0.1], [10.0]], device=device)
    centres = torch.tensor([[0.0], [500.0]], dtype=torch.float64, device=device)
    found = kmeans(x, None, centres, max_iter=5).cpu()
    torch.testing.assert_close(found.sort(0).values[:, 0], torch.tensor([0.05, 10.0]).double())


def test_labels_and_distances_are_those_of_the_definition(fused, monkeypatch, device):
    x = (blobs(200, 3, k=3) + 1e3).float()
    centres = kmeans_plus_plus(x, None, 3, torch.Generator().manual_seed(0))
    several_chunks(monkeypatch, 12 * 300)
    label, distance = (t.cpu() for t in assign(x.to(device), centres.to(device)))
    monkeypatch.setattr(room, "is_fused", lambda x: False)
    expected = assign(x, centres)
    assert label.dtype == torch.int64
    assert torch.equal(label, expected[0])
    torch.testing.assert_close(distance, expected[1], rtol=1e-4, atol=1e-3)  # |x|^2 near 20
