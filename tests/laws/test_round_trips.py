"""Law 9 and its kin: what goes out and comes back is the same, to the bit or to the dtype."""

import copy
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchgmm as tg
from tests.cases import FLOATS
from tests.laws.strategies import problems
from torchgmm import GaussianMixture

TENSORS = ("logits", "means", "scale")
dtypes = st.sampled_from(FLOATS)


def through_a_file(mixture, **options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mixture.safetensors"
        tg.save(mixture, path)
        return tg.load(path, **options)


def through_a_state_dict(mixture):
    other = GaussianMixture(mixture.n_components, covariance=mixture.family, dtype=mixture.dtype)
    other.load_state_dict(mixture.state_dict())
    return other


def through_its_covariances(mixture):
    return GaussianMixture.from_covariances(
        mixture.weights.detach(), mixture.means.detach(), mixture.covariances.detach(),
        mixture.family, dtype=mixture.dtype,
    )  # fmt: skip


EXACT = {
    "file": through_a_file,
    "state_dict": through_a_state_dict,
    "deepcopy": copy.deepcopy,
    "pickle": lambda mixture: pickle.loads(pickle.dumps(mixture)),
    "parameters": lambda mixture: GaussianMixture.from_parameters(mixture.as_parameters()),
}


@pytest.mark.parametrize("way", EXACT)
@given(problems(), dtypes)
def test_the_way_there_and_back_keeps_every_bit(way, problem, dtype):
    mixture = GaussianMixture.from_parameters(problem.start, dtype=dtype)
    again = EXACT[way](mixture)
    assert repr(again) == repr(mixture)
    for name in TENSORS:
        assert torch.equal(getattr(again, name), getattr(mixture, name))
        assert getattr(again, name).data_ptr() != getattr(mixture, name).data_ptr()


@given(problems(), dtypes, dtypes)
def test_a_file_opens_in_another_dtype(problem, written, read):
    mixture = GaussianMixture.from_parameters(problem.start, dtype=written)
    again = through_a_file(mixture, dtype=read)
    assert again.dtype == read
    for name in TENSORS:
        assert torch.equal(getattr(again, name), getattr(mixture, name).to(read))


@given(problems(), dtypes)
def test_covariances_and_back_are_the_mixture_to_rounding(problem, dtype):
    mixture = GaussianMixture.from_parameters(problem.start, dtype=dtype)
    again = through_its_covariances(mixture)
    ulps = 50 * torch.finfo(dtype).eps  # a square, a root, an exp and a log
    for form in ("weights", "means", "covariances"):
        a, b = getattr(again, form), getattr(mixture, form)
        torch.testing.assert_close(a, b, rtol=ulps, atol=ulps * float(b.detach().abs().max()))
