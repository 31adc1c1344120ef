"""Reduced products of float32 are a program's choice for its networks, and never ours."""

import pytest
import torch

from tests.cases import Case
from torchgmm import GaussianMixture
from torchgmm.kernels import full_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("word", ["highest", "high", "medium"])
def test_the_switch_is_off_inside_and_as_it_was_outside(word):
    torch.set_float32_matmul_precision(word)
    allowed = torch.backends.cuda.matmul.allow_tf32
    with full_precision(CPU), full_precision(CPU):  # one inside the other, as fit and kernel
        assert torch.backends.cuda.matmul.fp32_precision in ("none", "ieee")
        assert torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee")
    assert torch.get_float32_matmul_precision() == word
    assert torch.backends.cuda.matmul.allow_tf32 == allowed


def test_an_error_inside_leaves_it_as_it_was():
    torch.set_float32_matmul_precision("high")
    with pytest.raises(ValueError, match="inside"), full_precision(CPU):
        raise ValueError("inside")
    assert torch.get_float32_matmul_precision() == "high"


def test_a_fit_and_its_scores_do_not_see_it(device):
    case = Case("offset", 6, 100, 3, 100)
    x, start = case.rows(torch.float32), case.start("full").to(device=device)
    found = []
    for word in ("highest", "medium"):
        torch.set_float32_matmul_precision(word)
        mixture = GaussianMixture(case.k, device=device)
        mixture.fit(x, init=start)
        found.append((mixture.means.detach(), mixture.log_prob(x).detach(), mixture.log_joint(x)))
    for exact, other in zip(*found, strict=True):
        assert torch.equal(exact, other)
