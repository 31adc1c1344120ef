"""The contract of a seeding: valid parameters, from the generator alone. One line in `SEEDINGS`."""

import pytest
import torch

from tests.cases import FAMILIES, blobs, drawn
from tests.definition import STRUCTURES, naive
from torchgmm import (
    EM,
    GaussianMixture,
    KMeans,
    KMeansPlusPlus,
    Labels,
    RandomResponsibilities,
    RandomRows,
)
from torchgmm.seeding import as_seeding

X = blobs(300, 3, k=4, separation=10.0)
TRUTH = X[:, None].sub(X[None]).norm(dim=-1).lt(6).long().argmax(1)  # the first row of its blob
LABELS = TRUTH.unique(return_inverse=True)[1]
SEEDINGS = {
    "kmeans": KMeans(),
    "kmeans on a sample": KMeans(max_rows=50),
    "k-means++": KMeansPlusPlus(),
    "random_from_data": RandomRows(),
    "random": RandomResponsibilities(),
    "labels": Labels(LABELS),
}
every_seeding = pytest.mark.parametrize("seeding", SEEDINGS)
every_family = pytest.mark.parametrize("family", FAMILIES)


def start(init, family="full", x=X, k=4, seed=0, floor=1e-6, **options):
    mixture = GaussianMixture(k, covariance=family, dtype=x.dtype)
    method = EM(max_iter=0, reg_covar=floor)
    return mixture.fit(x, method, init=init, generator=seed, **options).parameters


@every_seeding
@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_gives_a_valid_mixture_in_float64(seeding, family, dtype):
    p = start(SEEDINGS[seeding], family, X.to(dtype))
    assert p.is_finite()
    assert p.means.shape == (4, 3)
    assert p.scale.shape == p.family.scale_shape(4, 3)
    assert {t.dtype for t in (p.logits, p.means, p.scale)} == {torch.float64}
    plain = naive(p)
    assert float(plain.weights.sum()) == pytest.approx(1)
    assert bool((torch.linalg.eigvalsh(plain.covariances) > 0).all())
    # no wider than the rows: the largest eigenvalue is at most the sum of the variances
    assert float(torch.linalg.eigvalsh(plain.covariances).max()) < float(X.var(0).sum())


@every_seeding
@every_family
def test_float32_rows_give_the_start_of_float64_rows(seeding, family):
    x = X.float()
    got, expected = (
        start(SEEDINGS[seeding], family, x),
        start(SEEDINGS[seeding], family, x.double()),
    )
    # the same draws and labels; sums are in float64
    torch.testing.assert_close(got.means, expected.means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got.scale, expected.scale, rtol=1e-5, atol=1e-5)


@every_seeding
def test_it_draws_from_the_generator_alone(seeding):
    torch.manual_seed(1)
    one = start(SEEDINGS[seeding], seed=5)
    torch.manual_seed(2)
    assert torch.equal(start(SEEDINGS[seeding], seed=5).means, one.means)
    if seeding != "labels":
        more = {start(SEEDINGS[seeding], seed=s).means.sum().item() for s in range(5)}
        assert len(more) > 1 or seeding == "kmeans"  # well separated: k-means always finds them


@every_seeding
def test_it_does_not_mind_an_offset(seeding):
    here = start(SEEDINGS[seeding], x=X)
    there = start(SEEDINGS[seeding], x=X + 1e6)
    torch.testing.assert_close(there.means - 1e6, here.means, rtol=0, atol=1e-8)
    # float64 keeps 1e-16 * 1e6 of a standard deviation, squared by nothing
    torch.testing.assert_close(there.scale, here.scale, rtol=0, atol=1e-7)


@every_seeding
def test_more_components_than_rows_for_a_covariance_are_no_error(seeding):
    init = Labels(torch.arange(300) % 100) if seeding == "labels" else SEEDINGS[seeding]
    if seeding == "kmeans on a sample":
        init = KMeans(max_rows=120)
    p = start(init, k=100)  # three rows each, in three dimensions: each borrows the pooled spread
    least = torch.linalg.eigvalsh(naive(p).covariances)[:, 0]
    assert bool((least > 0.99e-6).all())  # the floor
    assert float(least.median()) > 1e-3  # and not just that


@pytest.mark.parametrize("name", ["kmeans", "k-means++", "random_from_data", "random"])
def test_the_names_are_scikit_learns(name):
    assert as_seeding(name) == SEEDINGS[name]
    assert torch.equal(start(name, seed=3).means, start(SEEDINGS[name], seed=3).means)


# each in particular ------------------------------------------------------------------------------


@every_family
def test_kmeans_finds_separate_blobs(family):
    p = start("kmeans", family)
    expected = torch.stack([X[k == LABELS].mean(0) for k in range(4)])
    nearest = (p.means[:, None] - expected).norm(dim=-1)
    assert sorted(nearest.argmin(1).tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(p.means[nearest.argmin(0)], expected)
    counts = LABELS.bincount().double() / 300
    torch.testing.assert_close(p.log_weights.exp()[nearest.argmin(0)], counts)


@every_family
@pytest.mark.parametrize("as_what", [torch.as_tensor, torch.Tensor.numpy, torch.Tensor.tolist])
def test_labels_give_the_classes_own_moments(family, as_what):
    p = start(as_what(LABELS), family, floor=0.1)
    means, scatter, counts = [], [], LABELS.bincount().double()
    for k in range(4):
        mine = X[k == LABELS]
        means.append(mine.mean(0))
        scatter.append((mine - means[-1]).T @ (mine - means[-1]) + 0.1 * len(mine) * torch.eye(3))
    torch.testing.assert_close(p.means, torch.stack(means))
    expected = STRUCTURES[family].estimate(torch.stack(scatter), counts)
    torch.testing.assert_close(p.family.covariances(p.scale), expected)
    torch.testing.assert_close(p.log_weights.exp(), counts / 300)


def test_rows_of_unknown_label_are_left_out():
    some = LABELS.clone()
    some[::3] = -1
    p = start(some)
    means = torch.stack([X[some == k].mean(0) for k in range(4)])
    torch.testing.assert_close(p.means, means)


def test_labels_follow_their_rows_where_others_have_no_weight():
    w = torch.ones(300)
    w[::4] = 0
    x = X.clone()
    x[::4] = torch.nan
    p = start(LABELS, x=x, weights=w)
    kept = w > 0
    means = torch.stack([X[kept & (k == LABELS)].mean(0) for k in range(4)])
    torch.testing.assert_close(p.means, means)


def test_random_rows_are_rows_with_equal_weights():
    p = start("random_from_data")
    for mean in p.means:
        assert bool((mean == X).all(1).any())
    assert len(p.means.unique(dim=0)) == 4
    torch.testing.assert_close(p.log_weights.exp(), torch.full((4,), 0.25).double())


def test_random_responsibilities_start_near_the_centre():
    p = start("random")
    spread = X.std(0)
    # a mean over 300 rows with weights of 0.58 relative spread: 1/30 of a standard deviation
    assert bool(((p.means - X.mean(0)).abs() < 0.2 * spread).all())
    torch.testing.assert_close(
        p.log_weights.exp(), torch.full((4,), 0.25).double(), rtol=0.1, atol=0
    )


def test_given_parameters_are_the_start_itself():
    given = drawn("tied", 4, 3)
    p = start(given, "tied")
    assert torch.equal(p.means, given.means)
    assert torch.equal(p.scale, given.scale)


def test_weights_draw_the_rows():
    x = torch.cat([torch.zeros(100, 1), torch.ones(100, 1)]).double() + 0.01 * blobs(200, 1)
    w = torch.cat([torch.full((100,), 1e-6), torch.ones(100)])
    p = start("kmeans", x=x, k=1, weights=w)
    assert float(p.means) == pytest.approx(1, abs=0.05)
