"""Derivatives of `log_prob`: right to the second order, under any weights, in float32."""

import pytest
import torch

from tests.autograd.common import dense, every_family, leaves, ours, rows, tensors_of
from tests.cases import drawn
from torchgmm import GaussianMixture
from torchgmm.covariance import Diagonal
from torchgmm.kernels import as_kernel, score


@every_family
@pytest.mark.parametrize(("batch", "own_rows"), [((), False), ((2,), False), ((2,), True)])
def test_first_and_second_derivatives_are_those_of_the_differences(family, batch, own_rows):
    p = drawn(family, 2, 2, batch)
    x = rows(*(batch if own_rows else ()), 3, 2)
    inputs = leaves(x, *tensors_of(p))
    assert torch.autograd.gradcheck(ours(p.family), inputs)
    assert torch.autograd.gradgradcheck(ours(p.family), inputs)


WEIGHTS = {
    "equal": torch.full((50,), -1 / 50),
    "positive": torch.linspace(0, 2, 50),
    "of both signs": torch.linspace(-1, 1, 50),
    "that cancel": torch.tensor([1.0, -1.0]).repeat(25),
    "tiny": torch.linspace(1, 2, 50) * 1e-30,
    "zero": torch.zeros(50),
}


@every_family
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("of", ["parameters", "rows", "all"])
def test_gradients_under_any_weights_are_those_of_the_definition(family, weights, of):
    p, x, g = drawn(family, 3, 2, (2,)), rows(50, 2), WEIGHTS[weights].double()
    found = []
    for f in (ours(p.family), dense(p.family)):
        inputs = [t.detach().clone() for t in (x, *tensors_of(p))]
        wanted = {"parameters": inputs[1:], "rows": inputs[:1], "all": inputs}[of]
        for t in wanted:
            t.requires_grad_()
        found.append(torch.autograd.grad((f(*inputs) * g).sum(), wanted))
    size = float(g.abs().max())
    for got, expected in zip(*found, strict=True):
        # float64 sums of 50 terms of size 100
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * size)


@every_family
def test_float32_gradients_are_those_of_float64(family):
    p, x = drawn(family, 3, 4), rows(500, 4)
    exact, single = leaves(x, *tensors_of(p)), leaves(*(t.float() for t in (x, *tensors_of(p))))
    for inputs in (exact, single):
        ours(p.family)(*inputs).mean().backward()
    for one, other in zip(single, exact, strict=True):
        assert one.grad.dtype == torch.float32
        size = float(other.grad.abs().max())
        # eps of float32 times Mahalanobis distances of some hundreds
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0, atol=1e-4 * size)


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_gets_a_gradient(family, dtype):
    mixture = GaussianMixture.from_parameters(drawn(family, 3, 4), dtype=dtype)
    (-mixture.log_prob(rows(30, 4).to(dtype)).mean()).backward()
    for name, tensor in mixture.named_parameters():
        assert tensor.grad.shape == tensor.shape, name
        assert tensor.grad.dtype == dtype
        assert float(tensor.grad.abs().max()) > 0


@every_family
def test_the_score_of_moments_is_the_gradient(family):
    p, x = drawn(family, 3, 4), rows(200, 4)
    w = torch.linspace(0, 3, 200, dtype=torch.float64)
    found = score(as_kernel("dense").accumulate(x, w, p), p)
    inputs = leaves(*tensors_of(p))
    expected = torch.autograd.grad((dense(p.family)(x, *inputs) * w).sum(), inputs)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_a_row_far_from_every_component_has_a_finite_gradient():
    mixture = GaussianMixture(3, 2)
    x = torch.tensor([[1e12, 0.0], [0.0, 1.0]]).requires_grad_()
    mixture.log_prob(x).sum().backward()
    for tensor in (x, *mixture.parameters()):
        assert bool(torch.isfinite(tensor.grad).all())


def test_only_what_is_wanted_is_computed():
    p, x = drawn("full", 3, 2), rows(5, 2)
    mixture = GaussianMixture.from_parameters(p)
    mixture.requires_grad_(False)
    assert not mixture.log_prob(x).requires_grad
    mixture.log_prob(x.requires_grad_()).sum().backward()  # a frozen prior
    assert x.grad is not None
    assert all(t.grad is None for t in mixture.parameters())
    mixture.means.requires_grad_(True)
    mixture.log_prob(x).sum().backward()
    assert mixture.means.grad is not None
    assert mixture.scale.grad is mixture.logits.grad is None


class Unregistered(Diagonal):
    """A family that no operator can know by its name."""

    name = "diagonal of mine"


def test_a_family_that_nobody_registered_has_gradients_too():
    p, x = drawn("diagonal", 3, 2), rows(5, 2)
    got, expected = leaves(*tensors_of(p)), leaves(*tensors_of(p))
    ours(Unregistered())(x, *got).sum().backward()
    ours(p.family)(x, *expected).sum().backward()
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
