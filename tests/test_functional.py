"""Mixtures as plain tensors: the same numbers as the module's, conditional mixtures, bad input."""

import math

import pytest
import torch
from torch import nn

from tests.cases import FAMILIES, drawn, one_of
from torchgmm import GaussianMixture, InputError, functional

every_family = pytest.mark.parametrize("family", FAMILIES)


def rows(*shape):
    g = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@every_family
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_answers_are_those_of_the_module(family, batch):
    p = drawn(family, 3, 4, batch)
    mixture, tensors = GaussianMixture.from_parameters(p), (p.logits, p.means, p.scale)
    for x in (rows(7, 4), rows(*batch, 7, 4)):
        for name in ("log_prob", "log_joint", "responsibilities"):
            got = getattr(functional, name)(x, *tensors, covariance=family)
            torch.testing.assert_close(got, getattr(mixture, name)(x).detach())


@every_family
def test_each_row_has_a_mixture_of_its_own(family):
    p, x = drawn(family, 3, 2, (5,)), rows(5, 2)
    got = functional.log_prob(x.unsqueeze(-2), p.logits, p.means, p.scale, family).squeeze(-1)
    expected = [
        GaussianMixture.from_parameters(one_of(p, i)).log_prob(x[i : i + 1]) for i in range(5)
    ]
    torch.testing.assert_close(got, torch.cat(expected).detach())


@every_family
def test_the_outputs_of_a_network_are_mixtures(family):
    width = functional.n_outputs(3, 2, family)
    outputs = rows(4, 5, width).requires_grad_()
    mixture = functional.split_outputs(outputs, 3, 2, family)
    assert mixture.logits.shape == (4, 5, 3)
    assert mixture.means.shape == (4, 5, 3, 2)
    assert mixture.scale.shape == (4, 5, *functional.scale_shape(3, 2, family))
    x = rows(4, 5, 1, 2)
    loss = -functional.log_prob(x, *mixture, covariance=family).mean()
    loss.backward()
    used = outputs.grad.abs().amax((0, 1)) > 0
    # what stands above the diagonal of a factor is not read
    heads = mixture.scale.shape[2]
    unread = heads if family in ("full", "tied", "common_axes") else 0
    assert int(used.sum()) == width - unread
    assert torch.autograd.gradcheck(
        lambda o: functional.log_prob(
            x, *functional.split_outputs(o, 3, 2, family), covariance=family
        ),
        rows(4, 5, width).requires_grad_(),
    )


@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_a_mixture_density_network_learns_both_branches(family):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(400, 1, generator=g) * 0.9 + 0.1
    y = x.sqrt() * torch.randn(400, 1, generator=g).sign()
    y = y + 0.1 * torch.randn(400, 1, generator=g)
    width = functional.n_outputs(2, 1, family)
    network = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, width))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(200):
        mixture = functional.split_outputs(network(x), 2, 1, family)
        loss = -functional.log_prob(y.unsqueeze(-2), *mixture, covariance=family).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # the density of the data: a branch of two, normal with deviation 0.1
    entropy = math.log(2) + math.log(0.1) + 0.5 * math.log(2 * math.pi * math.e)
    assert float(loss.detach()) < entropy + 0.3
    found = functional.split_outputs(network(torch.tensor([[0.25], [0.81]])), 2, 1, family)
    branches = found.means.detach().squeeze(-1).sort(-1).values
    expected = torch.tensor([[-0.5, 0.5], [-0.9, 0.9]])
    torch.testing.assert_close(branches, expected, rtol=0, atol=0.15)


def test_outputs_in_half_precision_are_computed_in_single():
    network = nn.Linear(3, functional.n_outputs(2, 2))
    x, y = torch.randn(6, 3), torch.randn(6, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(x)
        got = functional.log_prob(y, *functional.split_outputs(outputs, 2, 2))
    assert outputs.dtype == torch.bfloat16
    assert got.dtype == torch.float32
    got.sum().backward()
    assert network.weight.grad is not None
    expected = functional.log_prob(y, *functional.split_outputs(outputs.float(), 2, 2))
    assert torch.equal(got, expected)


def test_it_is_vmapped_over_networks():
    p, x = drawn("full", 3, 2, (4,)), rows(5, 2)
    got = torch.func.vmap(functional.log_prob, (None, 0, 0, 0))(x, p.logits, p.means, p.scale)
    torch.testing.assert_close(got, functional.log_prob(x, p.logits, p.means, p.scale))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(4)}, r"logits must have shape \(3,\) to go with means \(3, 2\)"),
        ({"scale": torch.zeros(3, 2)}, r"scale must have shape \(3, 2, 2\).*full covariances"),
        ({"means": torch.zeros(3)}, r"means must be \(\*B, K, D\), got shape \(3,\)"),
        ({"x": torch.zeros(5, 3)}, "rows have 3 columns, the mixture has n_features=2"),
        ({"x": torch.zeros(4, 5, 2)}, "rows must be a table|rows must be"),
        ({"x": torch.tensor([[0.0, float("nan")]])}, "rows hold 1 NaN or infinite"),
        ({"covariance": "round"}, "covariance must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {"x": torch.zeros(5, 2), "logits": torch.zeros(3), "means": torch.zeros(3, 2),
             "scale": torch.zeros(3, 2, 2)} | change  # fmt: skip
    with pytest.raises(InputError, match=message):
        functional.log_prob(**given)


def test_outputs_of_another_width_are_refused():
    with pytest.raises(InputError, match=r"2 full component\(s\) in 3 dimension\(s\) need 26 out"):
        functional.split_outputs(torch.zeros(5, 25), 2, 3)


def test_rows_of_another_batch_are_refused():
    p = drawn("full", 3, 2, (2, 3))
    with pytest.raises(InputError, match=r"with batch axes \(2, 3\), got shape \(3, 5, 2\)"):
        functional.log_prob(rows(3, 5, 2), p.logits, p.means, p.scale)
