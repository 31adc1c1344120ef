"""k-means: as good as scikit-learn's, weighted, in chunks, on every kind of rows."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference
from sklearn.datasets import load_digits

from tests.cases import FLOATS, blobs
from torchgmm.kmeans import (
    assign,
    clustered,
    kmeans,
    kmeans_plus_plus,
    nearest,
    nearest_labels,
    table,
)


def best_run(x, k, w=None, seed=0, n_init=1, **options):
    """Centres and inertia of the best of `n_init` runs."""
    g = torch.Generator().manual_seed(seed)
    best = None
    for _ in range(n_init):
        centres = clustered(x, w, k, g, **options)
        inertia = inertia_of(x, centres, w)
        if best is None or inertia < best[1]:
            best = centres, inertia
    return best


def inertia_of(x, centres, w=None):
    distances = torch.cdist(x.double(), centres).min(1).values ** 2
    return float(distances.sum() if w is None else distances @ w.double())


DATA = {
    "digits": (lambda: torch.as_tensor(load_digits().data), 10),
    "blobs": (lambda: blobs(1000, 5, k=8, separation=4.0), 8),
    "overlapping": (lambda: blobs(800, 2, k=5, separation=1.5), 12),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_inertia_is_that_of_scikit_learn(name, dtype):
    make, k = DATA[name]
    x = make().to(dtype)
    _, inertia = best_run(x, k, n_init=5)
    expected = Reference(k, n_init=5, random_state=0).fit(x.numpy()).inertia_
    # both are local optima of other draws: a few per mille apart, 2 % is what we allow
    assert inertia < 1.02 * expected


def test_from_the_same_centres_it_ends_where_scikit_learn_ends():
    x = blobs(600, 4, k=6, separation=3.0)
    centres = kmeans_plus_plus(x, None, 6, torch.Generator().manual_seed(0))
    got = kmeans(x, None, centres, max_iter=300, tol=0)
    other = Reference(6, init=centres.numpy(), n_init=1, max_iter=300, tol=0).fit(x.numpy())
    np.testing.assert_allclose(got, other.cluster_centers_, rtol=1e-9, atol=1e-9)  # float64


def test_an_integer_weight_is_so_many_rows():
    x, w = blobs(200, 3, k=4), torch.arange(200) % 3
    centres = kmeans_plus_plus(x, w, 4, torch.Generator().manual_seed(0))
    weighted = kmeans(x, w.double(), centres, tol=0)
    repeated = kmeans(x.repeat_interleave(w, 0), None, centres, tol=0)
    torch.testing.assert_close(weighted, repeated)


def test_rows_of_weight_zero_are_never_drawn():
    x, w = torch.zeros(50, 1).double(), torch.zeros(50).double()
    x[:5, 0], w[:5] = torch.arange(5), 1
    x[5:] = 100
    for seed in range(20):
        centres = kmeans_plus_plus(x, w, 5, torch.Generator().manual_seed(seed))
        assert sorted(centres[:, 0].tolist()) == [0, 1, 2, 3, 4]


def test_first_centres_are_rows_and_spread_out():
    x = blobs(400, 2, k=4, separation=50.0)
    for seed in range(10):
        centres = kmeans_plus_plus(x, None, 4, torch.Generator().manual_seed(seed))
        assert all(bool((x == c).all(1).any()) for c in centres)
        assert float(torch.pdist(centres).min()) > 20  # one in each blob


def test_a_cluster_that_loses_its_rows_moves_to_the_farthest_row():
    x = torch.tensor([[0.0], [1.0], [2.0], [30.0]]).double()
    start = torch.tensor([[0.0], [1.0], [1000.0]]).double()
    centres = kmeans(x, None, start)
    assert sorted(centres[:, 0].tolist()) == pytest.approx([0.5, 2, 30]) or sorted(
        centres[:, 0].tolist()
    ) == pytest.approx([0, 1.5, 30])


@pytest.mark.parametrize("k", [1, 3, 7])
def test_equal_rows_are_no_error(k):
    x = torch.full((5, 2), 3.0)
    centres, inertia = best_run(x, k)
    assert centres.shape == (k, 2)
    assert inertia == 0
    assert bool((centres == 3).all())


def test_more_clusters_than_rows_are_no_error():
    x = torch.tensor([[0.0], [1.0]])
    centres, inertia = best_run(x, 5)
    assert inertia == 0
    assert bool(torch.isfinite(centres).all())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_common_offset_costs_no_digits(dtype):
    offset = {torch.float32: 3e4, torch.float64: 1e12}[dtype]
    x = (blobs(300, 3, k=4, separation=6.0) + offset).to(dtype)
    here = x.double() - offset
    centres = kmeans_plus_plus(x, None, 4, torch.Generator().manual_seed(0))
    got = kmeans(x, None, centres)
    expected = kmeans(here, None, centres - offset)
    # the rows are the same to the bit; float64 means near 1e12 are held to 1e-4
    torch.testing.assert_close(got - offset, expected, rtol=0, atol=1e-3)
    labels, _ = assign(x, got)
    assert torch.equal(labels, torch.cdist(here, expected).argmin(1))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_common_offset_draws_the_same_first_centres(dtype):
    offset = {torch.float32: 3e4, torch.float64: 1e9}[dtype]
    x = (blobs(300, 3, k=4, separation=3.0) + offset).to(dtype)
    for seed in range(5):
        there = kmeans_plus_plus(x, None, 6, torch.Generator().manual_seed(seed))
        here = kmeans_plus_plus(x.double() - offset, None, 6, torch.Generator().manual_seed(seed))
        assert torch.equal(there - offset, here)


def test_the_distance_to_the_nearest_centre_is_right():
    x, centres = blobs(100, 3), blobs(7, 3, seed=1)
    labels, distances = assign(x, centres)
    expected = torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert torch.equal(labels, expected.indices)
    torch.testing.assert_close(distances, expected.values**2)
    assert torch.equal(nearest_labels(x, centres), labels)


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_stored_by_columns_are_the_same_rows(weighted):
    x = blobs(500, 3, k=4, separation=2.0)
    w = torch.rand(500, generator=torch.Generator().manual_seed(1)) if weighted else None
    by_rows, by_columns = (
        clustered(rows, w, 4, torch.Generator().manual_seed(0))
        for rows in (x, x.mT.contiguous().mT)
    )
    torch.testing.assert_close(by_columns, by_rows)
    start = kmeans_plus_plus(x, w, 4, torch.Generator().manual_seed(0))
    assert torch.equal(kmeans(x, w, start), by_rows)  # one table for both, or one for each


def test_chunks_do_not_matter(monkeypatch):
    x = blobs(1000, 3, k=5, separation=3.0)
    whole, _ = best_run(x, 5)
    monkeypatch.setattr(nearest, "_TILE_BYTES", 1)  # 256 rows, the least
    parts, _ = best_run(x, 5)
    torch.testing.assert_close(parts, whole)


def test_a_mean_in_parts_is_the_mean(monkeypatch):
    x, w = blobs(900, 3).view(2, 450, 3), torch.rand(2, 450, dtype=torch.float64)
    expected = (w.unsqueeze(-1) * x).sum(-2) / w.sum(-1, keepdim=True)
    torch.testing.assert_close(table.mean_of(x, w), expected)
    monkeypatch.setattr(table, "_NUMBERS", 100 * 6)  # 100 rows of each, then 50
    torch.testing.assert_close(table.mean_of(x, w), expected)


def test_no_steps_give_the_start_back():
    x = blobs(50, 2)
    start = x[:3].clone()
    torch.testing.assert_close(kmeans(x, None, start, max_iter=0), start)


def test_rows_whose_squares_add_up_to_more_than_float32_holds():
    x = torch.from_numpy(blobs(600, 2, 3, separation=2.0).numpy()).float()
    start = x[:3].double()
    scale = 2.0**60  # squares up to 1e37
    torch.testing.assert_close(
        kmeans(scale * x, None, scale * start) / scale, kmeans(x, None, start)
    )
