"""Common principal components: the search for the axes, and Cayley's form of them."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.optimize import minimize
from sklearn import datasets

from tests.definition import rotation
from torchgmm import EM, GaussianMixture, InputError, Parameters
from torchgmm.covariance import as_family
from torchgmm.covariance.rotation import (
    common_axes,
    from_lower,
    objective,
    pulled_to_lower,
    signs,
    to_lower,
)
from torchgmm.fitting.shrunk import ShrunkEM


def drawn(k, d, seed=0, apart=0.5, batch=()):
    """Covariances `(*batch, k, d, d)` whose axes are nearly shared, and their weights."""
    g = torch.Generator().manual_seed(seed)
    shape = (*batch, k, d, d)
    q = torch.linalg.qr(torch.randn(*batch, 1, d, d, generator=g, dtype=torch.float64)).Q
    spread = torch.randn(*batch, k, 1, d, generator=g, dtype=torch.float64).exp()
    factor = q * spread + apart * torch.randn(shape, generator=g, dtype=torch.float64)
    weights = 0.2 + torch.rand(*batch, k, generator=g, dtype=torch.float64)
    return factor @ factor.mT, weights / weights.sum(-1, keepdim=True)


# the search -------------------------------------------------------------------------------------


def skew(angles, d):
    a = np.zeros((d, d))
    a[np.tril_indices(d, -1)] = angles
    return a - a.T


@pytest.mark.parametrize("d", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_no_rotation_that_scipy_finds_is_better(d, seed):
    s, w = drawn(3, d, seed)
    found = float(objective(s, w, common_axes(s, w, steps=500)))
    drawing = np.random.default_rng(seed)

    def level(angles):
        q = expm(skew(angles, d))
        return float(w.numpy() @ np.log(np.einsum("ij,kil,lj->kj", q, s.numpy(), q)).sum(-1))

    starts = drawing.normal(size=(6, d * (d - 1) // 2))
    best = min(minimize(level, start, tol=1e-12).fun for start in starts)
    # scipy's differences leave 1e-9 of a minimum whose value is of order one
    assert found <= best + 1e-7
    assert found == pytest.approx(best, abs=1e-6)


def test_the_axes_of_the_irises_are_the_published_ones():
    # the FG algorithm's answer as Trendafilov (2010) prints it, in square millimetres
    x, species = datasets.load_iris(return_X_y=True)
    x = 10 * torch.from_numpy(x)
    s = torch.stack([torch.cov(x[species == k].T) for k in range(3)])
    q = common_axes(s, torch.full((3,), 49.0, dtype=torch.float64), steps=500)
    q = q * q[0].sign()
    q = q[:, q[0].argsort(descending=True)]
    expected = torch.tensor(
        [
            [0.7367, 0.6471, 0.1640, 0.1084],
            [0.2468, -0.4655, 0.8346, -0.1607],
            [0.6047, -0.5003, -0.5221, -0.3338],
            [0.1753, -0.3382, -0.0628, 0.9225],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(q, expected, rtol=0, atol=2e-4)  # four digits are printed
    variances = (q.mT @ s @ q).diagonal(dim1=-2, dim2=-1)
    assert variances[1].tolist() == pytest.approx([48.4602, 7.4689, 5.5394, 1.0139], abs=2e-4)
    assert variances[2].tolist() == pytest.approx([69.2235, 6.7124, 7.5367, 5.3642], abs=2e-4)


@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_axes_that_are_shared_are_found_exactly(d):
    q, v = rotation(d, torch.Generator().manual_seed(d)), torch.rand(4, d).double() + 0.1
    s = (q * v.unsqueeze(-2)) @ q.mT
    found = common_axes(s, torch.ones(4).double(), steps=500, tolerance=1e-28)
    seen = found.mT @ s @ found
    across = seen - torch.diag_embed(seen.diagonal(dim1=-2, dim2=-1))
    assert float(across.abs().max()) < 1e-12  # some hundred roundings
    torch.testing.assert_close(found.mT @ found, torch.eye(d).double(), rtol=0, atol=1e-14 * d)


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 50])
@pytest.mark.parametrize("apart", [0.0, 0.1, 3.0])
def test_no_number_of_steps_makes_it_worse_than_its_start(steps, apart):
    for seed in range(5):
        s, w = drawn(4, 6, seed, apart + 0.01)
        start = rotation(6, torch.Generator().manual_seed(seed))
        begin, last = float(objective(s, w, start)), float("inf")
        found = float(objective(s, w, common_axes(s, w, start, steps=steps)))
        assert found <= begin + 1e-12
        better = common_axes(s, w, steps=steps)
        again = float(objective(s, w, common_axes(s, w, better, steps=1)))
        last = float(objective(s, w, better))
        assert again <= last + 1e-12


def test_a_batch_of_searches_is_a_loop_of_them():
    s, w = drawn(3, 5, batch=(2, 3))
    together = common_axes(s, w, steps=500)
    for b in range(2):
        for c in range(3):
            alone = common_axes(s[b, c], w[b, c], steps=500)
            torch.testing.assert_close(together[b, c], alone, rtol=0, atol=1e-9)


def test_the_axes_turn_with_the_rows_and_know_no_unit_of_a_component():
    s, w = drawn(3, 4)
    turn = rotation(4, torch.Generator().manual_seed(5))
    level = objective(s, w, common_axes(s, w, steps=500))
    turned = turn @ s @ turn.mT
    torch.testing.assert_close(objective(turned, w, common_axes(turned, w, steps=500)), level)
    scaled = s * torch.tensor([1e-200, 1.0, 1e150], dtype=torch.float64)[:, None, None]
    found, other = common_axes(s, w, steps=500), common_axes(scaled, w, steps=500)
    torch.testing.assert_close(objective(s, w, other), objective(s, w, found))


def test_many_axes_are_found_in_bounded_time():
    s, w = drawn(3, 128, apart=0.05)
    start = common_axes(s, w, steps=0)
    found = common_axes(s, w, start, steps=20)
    assert float(objective(s, w, found)) < float(objective(s, w, start)) - 0.01


# Cayley's form ----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("size", [0.1, 1.0, 100.0])
def test_every_triangle_is_a_rotation(d, size):
    g = torch.Generator().manual_seed(d)
    lower = size * torch.randn(3, d, d, generator=g, dtype=torch.float64)
    q = from_lower(lower)
    eye = torch.eye(d).double().expand(3, d, d)
    torch.testing.assert_close(q.mT @ q, eye, rtol=0, atol=1e-13 * (1 + size))
    assert bool((torch.linalg.det(q) > 0.99).all())


@pytest.mark.parametrize("d", [1, 2, 3, 8, 64])
def test_every_set_of_axes_has_a_small_triangle(d):
    g = torch.Generator().manual_seed(d)
    frames = torch.linalg.qr(torch.randn(20, d, d, generator=g, dtype=torch.float64)).Q
    hard = torch.stack(
        [-torch.eye(d).double(), torch.eye(d).double().flip(0), frames[0] @ frames[0]]
    )
    for q in (frames, hard):
        lower = to_lower(q)
        assert float(lower.abs().max()) < 8  # such as `signs` leaves, or to begin with
        again = from_lower(lower)
        torch.testing.assert_close(again.abs(), q.abs(), rtol=0, atol=1e-12)
        same = (again * q).sum(-2).abs()  # the same columns, up to their signs
        torch.testing.assert_close(same, torch.ones_like(same))


def test_signs_do_not_hang_on_the_signs_before():
    g = torch.Generator().manual_seed(0)
    q = rotation(6, g)
    turned = q * (torch.randint(2, (6,), generator=g) * 2 - 1)
    torch.testing.assert_close(q * signs(q), turned * signs(turned))


def test_the_gradient_in_the_triangle_is_that_of_autograd():
    g = torch.Generator().manual_seed(0)
    lower = torch.randn(5, 5, generator=g, dtype=torch.float64).requires_grad_()
    pull = torch.randn(5, 5, generator=g, dtype=torch.float64)
    (expected,) = torch.autograd.grad((pull * from_lower(lower)).sum(), lower)
    torch.testing.assert_close(pulled_to_lower(pull, lower.detach()), expected)
    assert torch.autograd.gradcheck(lambda t: to_lower(from_lower(0.3 * t.tril(-1))), (lower,))


# the family -------------------------------------------------------------------------------------


def test_covariances_with_other_axes_are_refused():
    s = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[2.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    weights, means = torch.full((2,), 0.5).double(), torch.zeros(2, 2).double()
    with pytest.raises(InputError, match=r"same eigenvectors.*take 'full'"):
        Parameters.from_covariances(weights, means, s, "common_axes")


def test_where_copies_of_the_axes_differ_their_mean_counts():
    family = as_family("common_axes")
    scale = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    mean = scale.tril(-1).mean(0) + torch.diag_embed(scale.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(family.covariances(scale), family.covariances(mean))


def test_rotated_blobs_are_told_apart_with_few_parameters():
    g = torch.Generator().manual_seed(0)
    d, k, n = 6, 4, 150
    q = rotation(d, g)
    deviations = 0.2 + 2 * torch.rand(k, 1, d, generator=g, dtype=torch.float64)
    means = 6 * torch.randn(k, 1, d, generator=g, dtype=torch.float64)
    noise = torch.randn(k, n, d, generator=g, dtype=torch.float64)
    x = ((means + deviations * noise) @ q.mT).flatten(0, 1)
    level = {}
    for family in ("diagonal", "full", "common_axes"):
        mixture = GaussianMixture(k, covariance=family, dtype=torch.float64)
        mixture.fit(x, n_init=3, generator=0)
        level[family] = float(mixture.bic(x))
    assert level["common_axes"] < min(level["diagonal"], level["full"])
    fitted = mixture.family.factor(mixture.scale.detach())
    angles = (fitted[0] / fitted[0].norm(dim=0)).mT @ q
    assert bool((angles.abs().amax(0) > 0.98).all())


def test_shrinking_keeps_the_axes():
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).double()
    mixture = GaussianMixture(2, covariance="common_axes", dtype=torch.float64)
    result = mixture.fit(x, ShrunkEM(max_iter=3, shrinkage=1.0), generator=0)
    assert result.parameters.is_finite()
    for matrix in mixture.covariances.detach():  # nothing but round is left
        expected = matrix.diagonal().mean() * torch.eye(8).double()
        torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-12)


def test_a_covariance_without_spread_is_left_out_of_the_search():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).double()
    x = torch.cat([x, torch.full((20, 3), 30.0).double()])
    mixture = GaussianMixture(2, covariance="common_axes", dtype=torch.float64)
    result = mixture.fit(x, EM(reg_covar=1e-6), init=(torch.arange(80) >= 60).long())
    assert result.parameters.is_finite()
    values = torch.linalg.eigvalsh(mixture.covariances.detach())
    assert float(values.min()) >= 1e-6 * (1 - 1e-9)  # the floor holds for every variance
