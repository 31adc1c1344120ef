"""The stand-in refuses what Apple's GPUs refuse, and they can do what is asked of it."""

import pathlib

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES
from tests.without_float64.apple import THERE, placed, there
from tests.without_float64.common import QUESTIONS, X, mixture_of
from torchgmm.exact import exact_device, has_float64

REFUSED = {
    "float64": lambda x: x.double(),
    "a sum in float64": lambda x: x.sum(dtype=torch.float64),
    "made in float64": lambda x: torch.zeros(2, dtype=torch.float64, device=THERE),
    "sent in float64": lambda x: torch.zeros(2, dtype=torch.float64).to(THERE),
    "float64 beside it": lambda x: torch.add(x, torch.zeros((), dtype=torch.float64)),
    "two devices": lambda x: torch.add(x, torch.zeros(3)),
    "a product of two": lambda x: torch.dot(x, torch.zeros(3)),
    "another dtype on the way": lambda x: x.to("cpu", torch.float64),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_stand_in_refuses(what, far):
    with pytest.raises((RuntimeError, TypeError), match="device"):
        REFUSED[what](there(torch.ones(3)))


def test_the_stand_in_computes(far):
    x = there(torch.tensor([1.0, 2.0, 3.0]))
    view = x[1:]
    view.mul_(2)  # into the same numbers
    assert x.device == view.device == THERE
    assert x.cpu().double().tolist() == [1.0, 4.0, 6.0]
    assert far.brought == 3


def test_mps_is_such_a_device():
    assert not has_float64(torch.device("mps"))
    assert exact_device(torch.device("mps")) == torch.device("cpu")
    for name in ("cpu", "cuda", "meta"):
        assert has_float64(torch.device(name))
        assert exact_device(torch.device(name)) == torch.device(name)


def test_apple_has_a_kernel_for_every_operation(far):
    """By the table of kernels that torch is built from: `MPS`, or made of others that have it."""
    yaml = pytest.importorskip("yaml")
    torchgen = pytest.importorskip("torchgen")
    place = "packaged/ATen/native/native_functions.yaml"
    path = pathlib.Path(torchgen.__file__).parent / place
    if not path.exists() or torch.__version__ < "2.13":
        pytest.skip("no table of kernels, or an old one")
    table = {entry["func"].partition("(")[0]: entry for entry in yaml.safe_load(path.read_text())}
    for family in FAMILIES:
        mixture = placed(mixture_of(family))
        mixture.fit(there(X), tg.EM(max_iter=2), generator=0, weights=np.ones(600))
        for ask in QUESTIONS:
            getattr(mixture, ask)(there(X))
        mixture.log_prob(there(X).requires_grad_()).sum().backward()
        mixture.rsample((50,), torch.Generator()).sum().backward()
        mixture.log_joint(there(X)).sum().backward()
    lacking = {str(op) for op in far.operations if not _has_kernel(op, table)}
    assert not lacking
    assert len(far.operations) > 50


def _has_kernel(op, table):
    name = op._schema.name.removeprefix("aten::")
    overload = op._schema.overload_name
    entry = table[f"{name}.{overload}" if overload else name]
    entry = table.get(entry.get("structured_delegate"), entry)
    kinds = {kind.strip() for kinds in entry.get("dispatch", {}) for kind in kinds.split(",")}
    composed = any(kind.startswith("Composite") for kind in kinds)
    return not kinds or composed or "MPS" in kinds
