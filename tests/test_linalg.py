"""Matrix facts: Cholesky with a floor and with repair, inverses, the unconstrained form."""

import pytest
import torch

from torchgmm import linalg

D = 5


def spd(n=3, condition=1e3, seed=0):
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, D, D, generator=g, dtype=torch.float64)).Q
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), D).double()
    return (basis * values) @ basis.mT


def is_cholesky(factor):
    lower = bool((factor.triu(1) == 0).all())
    return lower and bool((factor.diagonal(dim1=-2, dim2=-1) > 0).all())


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cholesky_is_the_factor_of_the_matrix_plus_the_floor(floor):
    matrix = spd()
    factor, hopeless = linalg.cholesky(matrix, floor)
    assert is_cholesky(factor)
    assert not bool(hopeless.any())
    torch.testing.assert_close(factor @ factor.mT, matrix + floor * torch.eye(D).double())


def test_rounding_that_left_a_matrix_indefinite_is_repaired():
    matrix = spd()
    values, vectors = torch.linalg.eigh(matrix[1])
    least = vectors[:, :1]
    matrix[1] -= (values[0] + 1e-14) * least @ least.mT  # an eigenvalue of -1e-14
    assert int(torch.linalg.cholesky_ex(matrix).info[1]) != 0
    floor = 1e-16  # too small to help: rounding is a hundred times larger
    factor, hopeless = linalg.cholesky(matrix, floor)
    assert not bool(hopeless.any())
    assert is_cholesky(factor)
    torch.testing.assert_close(factor @ factor.mT, matrix, rtol=0, atol=2e-14)  # what was added
    sound, _ = linalg.cholesky(matrix[[0, 2]], floor)
    assert torch.equal(factor[[0, 2]], sound)  # the others are as they would have been


@pytest.mark.parametrize("least", [-1e-14, 0.0, 1e-16])
def test_singular_to_rounding_without_a_floor_is_beyond_repair(least):
    matrix = spd()
    values, vectors = torch.linalg.eigh(matrix[1])
    matrix[1] += (least - values[0]) * vectors[:, :1] @ vectors[:, :1].mT
    assert linalg.cholesky(matrix, 0.0)[1].tolist() == [False, True, False]


def test_a_repair_raises_eigenvalues_to_the_floor_at_least():
    matrix = spd()
    matrix[0] -= torch.eye(D).double()
    factor, hopeless = linalg.cholesky(matrix, 0.25)
    assert not bool(hopeless.any())
    values = torch.linalg.eigvalsh(factor @ factor.mT)
    assert float(values[0].min()) == pytest.approx(0.25)


def test_no_spread_and_no_floor_is_beyond_repair():
    matrix = torch.stack([torch.zeros(D, D).double(), spd(1)[0]])
    factor, hopeless = linalg.cholesky(matrix, 0.0)
    assert hopeless.tolist() == [True, False]
    assert is_cholesky(factor[1])
    _, hopeless = linalg.cholesky(matrix, 1e-6)
    assert hopeless.tolist() == [False, False]


def test_leading_axes_are_batches():
    matrix = spd(6).unflatten(0, (2, 3))
    factor, hopeless = linalg.cholesky(matrix, 0.0)
    assert factor.shape == (2, 3, D, D)
    assert hopeless.shape == (2, 3)
    torch.testing.assert_close(factor[1, 2], linalg.cholesky(matrix[1, 2], 0.0)[0])


def test_the_unconstrained_form_makes_the_round_trip():
    factor = torch.linalg.cholesky(spd())
    raw = linalg.to_log_cholesky(factor)
    torch.testing.assert_close(linalg.from_log_cholesky(raw), factor)
    torch.testing.assert_close(
        raw.diagonal(dim1=-2, dim2=-1).exp(), factor.diagonal(dim1=-2, dim2=-1)
    )
    assert torch.equal(raw.tril(-1), factor.tril(-1))


def test_what_stands_above_the_diagonal_is_ignored():
    raw = torch.randn(3, D, D, generator=torch.Generator().manual_seed(0))
    assert is_cholesky(linalg.from_log_cholesky(raw))
    assert torch.equal(linalg.from_log_cholesky(raw), linalg.from_log_cholesky(raw.tril()))


def test_the_inverse_of_a_factor_is_lower_triangular():
    factor = torch.linalg.cholesky(spd(condition=1e8))
    inverse = linalg.inverse_tril(factor)
    assert bool((inverse.triu(1) == 0).all())
    # condition 1e4 of the factor
    torch.testing.assert_close(
        factor @ inverse, torch.eye(D).double().expand(3, D, D), rtol=0, atol=1e-11
    )


def test_symmetric_is_the_symmetric_part():
    matrix = torch.arange(9.0).reshape(3, 3)
    assert torch.equal(linalg.symmetric(matrix), (matrix + matrix.T) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_inverses_of_many_small_factors_are_those_of_each(size, dtype):
    g = torch.Generator().manual_seed(0)
    factor = torch.randn(3, 400, size, size, generator=g, dtype=dtype).tril()
    factor.diagonal(dim1=-2, dim2=-1).abs_().add_(0.5)
    inverse = linalg.inverse_tril(factor)
    assert bool((inverse.triu(1) == 0).all())
    each = torch.stack([linalg.inverse_tril(one) for one in factor[0, :5]])
    torch.testing.assert_close(inverse[0, :5], each)
    torch.testing.assert_close(
        factor @ inverse, torch.eye(size, dtype=dtype).expand_as(factor), rtol=0, atol=1e-4
    )
    factor.requires_grad_()
    (gradient,) = torch.autograd.grad(linalg.inverse_tril(factor).sum(), factor)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ([1.0, 2.0], True),
        ([0.0, 1.0], False),
        ([-1.0], False),
        ([torch.nan, 1.0], False),
        ([torch.inf], False),
    ],
)
def test_positive_means_finite_and_above_zero(values, answer):
    assert linalg.positive(torch.tensor(values)) is answer
