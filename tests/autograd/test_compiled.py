"""`log_prob` compiled and exported."""

import io

import pytest
import torch
from torch.func import grad, vmap

from tests.autograd.common import rows, tensors_of
from tests.cases import drawn
from torchgmm import GaussianMixture


def losses(mixture, x, loss):
    """The loss and its gradients."""
    mixture.zero_grad()
    x = x.clone().requires_grad_()
    value = loss(x)
    value.backward()
    return value.detach(), x.grad, *(t.grad.clone() for t in mixture.parameters())


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("family", ["full", "tied_diagonal"])
def test_a_loss_compiles_into_one_graph(family, dynamic):
    compiles(GaussianMixture.from_parameters(drawn(family, 3, 2)), "aot_eager", dynamic)


@pytest.mark.slow
def test_a_loss_compiles_with_inductor():
    compiles(GaussianMixture.from_parameters(drawn("full", 3, 2)), "inductor", None)


def compiles(mixture, backend, dynamic):
    torch._dynamo.reset()

    def loss(x):
        return -mixture.log_prob(2 * x).mean()

    compiled = torch.compile(loss, fullgraph=True, backend=backend, dynamic=dynamic)
    for n in (20, 33):
        x = rows(n, 2)
        torch.testing.assert_close(losses(mixture, x, compiled), losses(mixture, x, loss))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), loss(x))


@pytest.mark.parametrize("question", ["log_joint", "responsibilities", "predict"])
@pytest.mark.parametrize("tracking", [True, False])
def test_questions_compile_into_one_graph(question, tracking):
    torch._dynamo.reset()
    mixture, x = GaussianMixture.from_parameters(drawn("full", 3, 2)), rows(20, 2)
    ask = getattr(mixture, question)
    with torch.set_grad_enabled(tracking):
        got = torch.compile(ask, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(got, ask(x))


def test_transforms_compile_into_one_graph():
    torch._dynamo.reset()
    mixture, x = GaussianMixture.from_parameters(drawn("full", 3, 2)), rows(20, 2)
    each = vmap(grad(lambda row: mixture.log_prob(row[None])[0]))
    compiled = torch.compile(each, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), each(x))


@pytest.mark.parametrize("strict", [True, False])
def test_it_is_exported_for_any_number_of_rows(strict):
    mixture = GaussianMixture(3, 2)
    shapes = {"x": {0: torch.export.Dim("N", min=2, max=10**6)}}
    x = torch.randn(20, 2)
    program = torch.export.export(mixture, (x,), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        for n in (7, 300):
            x = torch.randn(n, 2)
            torch.testing.assert_close(loaded(x), mixture(x))


@pytest.mark.parametrize("of_rows", [True, False])
def test_torch_finds_no_fault_with_the_operators(of_rows):
    p, x = drawn("full", 3, 2), rows(5, 2)
    inputs = (x, *tensors_of(p))
    torch.library.opcheck(torch.ops.torchgmm.mixture_log_prob.default, (*inputs, "full"))
    operator = torch.ops.torchgmm.mixture_log_prob_backward.default
    torch.library.opcheck(operator, (rows(5), *inputs, "full", of_rows, True))
