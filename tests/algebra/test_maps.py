"""Affine maps: the density moves, and the family is the simplest that holds it."""

import numpy as np
import pytest
import torch

from tests.algebra.common import as_module, leaves, near, tensors
from tests.cases import FAMILIES, drawn
from tests.definition import STRUCTURES, any_matrix, axes, naive, rotation, similarity
from torchgmm import InputError, affine

every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
@pytest.mark.parametrize("draw", [any_matrix, axes, similarity, rotation])
def test_the_density_moves_with_the_rows(family, draw):
    p, g = drawn(family, 3, 4), torch.Generator().manual_seed(0)
    A, b = draw(4, g), torch.randn(4, generator=g, dtype=torch.float64)
    moved = affine(p, A, b)
    x = torch.randn(20, 4, generator=g, dtype=torch.float64)
    expected = as_module(p).log_prob(x) - torch.linalg.slogdet(A).logabsdet
    torch.testing.assert_close(as_module(moved).log_prob(x @ A.mT + b), expected)
    # float32 matrices carry their own rounding, and their families do not suffer from it
    assert affine(p, A.float(), b).family == moved.family


@every_family
def test_the_maps_of_a_family_leave_it_what_it_is(family):
    g = torch.Generator().manual_seed(1)
    for d in (1, 2, 5):
        A = STRUCTURES[family].moves(d, g).mT
        assert affine(drawn(family, 2, d), A).family.name == family
        assert affine(drawn(family, 2, d), A.float()).family.name == family
    assert affine(drawn(family, 2, 3), -2.5).family.name == family


BECOMES = [  # matrix, what becomes of spherical, diagonal, full
    ([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]], "spherical", "diagonal"),
    ([[0, 3.0, 0], [-3.0, 0, 0]], "spherical", "diagonal"),
    ([[2.0, 0, 0], [0, 1.0, 0]], "diagonal", "diagonal"),
    ([[1.0, 1.0, 0], [1.0, -1.0, 0]], "spherical", "full"),
    ([[1.0, 2.0, 0], [0, 0, 1.0]], "diagonal", "diagonal"),
    ([[1.0, 1.0, 0], [0, 1.0, 0]], "full", "full"),
    ([[1.0, 1.0, 1.0]], "spherical", "diagonal"),
    ([[1.0, 1e-5, 0], [0, 1.0, 0]], "full", "full"),
]


@pytest.mark.parametrize(("matrix", "spherical", "diagonal"), BECOMES)
@pytest.mark.parametrize("tied", [False, True])
def test_what_becomes_of_a_family(matrix, spherical, diagonal, tied):
    of = {"spherical": spherical, "diagonal": diagonal, "full": "full"}
    for before, after in of.items():
        names = [f"tied_{n}" if n != "full" else "tied" for n in (before, after)]
        before, after = names if tied else (before, after)
        p, A = drawn(before, 2, 3), torch.tensor(matrix, dtype=torch.float64)
        moved = affine(p, A)
        assert moved.family.name == after
        found, plain = naive(moved), naive(p)
        torch.testing.assert_close(found.covariances, A @ plain.covariances @ A.mT)
        torch.testing.assert_close(found.means, plain.means @ A.mT)
        torch.testing.assert_close(found.weights, plain.weights)


@every_family
def test_there_and_back_is_the_same_mixture(family):
    p, g = near(family, d=4), torch.Generator().manual_seed(0)
    A, b = any_matrix(4, g), torch.randn(4, generator=g, dtype=torch.float64)
    inverse = torch.linalg.inv(A)
    again = naive(affine(affine(p, A, b), inverse, -inverse @ b))
    for found, expected in zip(again, naive(p), strict=True):
        torch.testing.assert_close(found, expected)


def test_it_undoes_a_standardisation():
    from torchgmm import GaussianMixture

    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 100])
    mean, std = x.mean(0), x.std(0)
    mixture = GaussianMixture(2, covariance="diagonal")
    mixture.fit((x - mean) / std, generator=0)
    back = affine(mixture, torch.diag(std), mean)
    assert back.covariance == "diagonal"
    expected = mixture.log_prob((x - mean) / std) - std.log().sum()
    torch.testing.assert_close(back.log_prob(x), expected, rtol=1e-4, atol=1e-4)


@every_family
def test_the_map_has_gradients(family):
    p, g = near(family, d=3), torch.Generator().manual_seed(0)
    A = any_matrix(3, g).requires_grad_()
    b = torch.randn(3, generator=g, dtype=torch.float64, requires_grad=True)

    def moved(A, b, *given):
        return tensors(affine(type(p)(*given, p.family), A, b))

    assert torch.autograd.gradcheck(moved, (A, b, *tensors(leaves(p))))


WRONG = [
    ([[1.0, 0.0]], None, r"A must be \(E, 3\) to map 3 features, got shape \(1, 2\)"),
    ([1.0, 0.0, 0.0], None, r"got shape \(3,\)"),
    (np.zeros((0, 3)), None, r"got shape \(0, 3\)"),
    (np.zeros((2, 3)), None, "rank 0"),
    ([[1.0, 2, 3], [2.0, 4, 6]], None, "rank 1.*give 1 independent"),
    (np.ones((4, 3)), None, "rank 1"),
    (0.0, None, "rank 0"),
    ([[1.0, np.nan, 0]], None, "A holds NaN"),
    (2.0, [1.0, 2.0], r"b must be \(3,\), got shape \(2,\)"),
    (2.0, [[1.0, 2.0, 3.0]], r"got shape \(1, 3\)"),
    (2.0, np.inf, "b holds NaN or infinite"),
]


@pytest.mark.parametrize(("A", "b", "message"), WRONG, ids=str)
def test_maps_that_cannot_be_used_are_refused(A, b, message):
    with pytest.raises(InputError, match=message):
        affine(near("full"), A, b)
