"""Questions, gradients and drawn rows on a device without float64: the CPU's answers."""

import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES
from tests.without_float64 import apple
from tests.without_float64.apple import THERE, here, placed, there
from tests.without_float64.common import QUESTIONS, WEIGHTS, X, close, mixture_of

ON_CPU = {"bic", "aic", "icl"}  # float64: of many rows float32 would have no digits for them


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "two"])
@pytest.mark.parametrize("tracked", [False, True])
def test_answers_are_those_on_the_cpu(family, batch, tracked, monkeypatch):
    mixture = mixture_of(family, batch)
    wanted = {ask: getattr(mixture, ask)(X) for ask in QUESTIONS}
    with apple.device(monkeypatch):
        own = placed(mixture).requires_grad_(tracked)
        for ask, answer in wanted.items():
            for rows in (there(X), X.double().numpy()):
                found = getattr(own, ask)(rows)
                assert found.device.type == ("cpu" if ask in ON_CPU else THERE.type)
                assert found.dtype == answer.dtype
                close(found, answer)
        close(own.score(there(X), WEIGHTS), mixture.score(X, WEIGHTS))
        if not batch:
            close(own.bic(lambda: iter(X.numpy().reshape(3, 200, 3))), wanted["bic"])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_on_the_cpu(family, monkeypatch):
    mixture, x = mixture_of(family), X.clone().requires_grad_()
    mixture.log_prob(x).sum().backward()
    with apple.device(monkeypatch):
        for tracked in (True, False):
            own, rows = placed(mixture), there(X).requires_grad_(tracked)
            own.log_prob(rows).sum().backward()
            for name, tensor in mixture.named_parameters():
                found = getattr(own, name).grad
                assert (found.device, found.dtype) == (THERE, torch.float32)
                close(found, tensor.grad, 1e-3)
            if tracked:
                close(rows.grad, x.grad)
        twice = placed(mixture)
        (first,) = torch.autograd.grad(
            twice.log_prob(there(X[:20])).sum(), twice.means, create_graph=True
        )
        first.square().sum().backward()
        assert bool(here(twice.means.grad).isfinite().all())


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_drawn_there(family, monkeypatch):
    mixture = mixture_of(family)
    drawn = mixture.rsample((50,), torch.Generator().manual_seed(0))
    drawn.square().sum().backward()
    with apple.device(monkeypatch):
        own = placed(mixture)
        found = own.rsample((50,), torch.Generator().manual_seed(0))
        assert (found.device, found.dtype) == (THERE, torch.float32)
        close(found, drawn)
        found.square().sum().backward()
        for name, tensor in mixture.named_parameters():
            close(getattr(own, name).grad, tensor.grad, 1e-3)
        assert own.sample((7,)).device == THERE
        assert bool(here(own.entropy(100).value).isfinite())


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_there_are_mixtures(family, monkeypatch):
    tensors = [t.detach() for t in mixture_of(family).parameters()]
    wanted = [ask(X, *tensors, covariance=family) for ask in FUNCTIONS]
    with apple.device(monkeypatch):
        own = [there(t) for t in tensors]
        for ask, answer in zip(FUNCTIONS, wanted, strict=True):
            close(ask(there(X), *own, covariance=family), answer)


FUNCTIONS = (tg.functional.log_prob, tg.functional.log_joint, tg.functional.responsibilities)
