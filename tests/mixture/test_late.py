"""A mixture that learns n_features late: at the fit, from a state_dict, and what it says before."""

import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from tests.cases import FAMILIES, blobs, drawn
from torchgmm import EM, GaussianMixture
from torchgmm.errors import NotSizedError

TENSORS = ("logits", "means", "scale")


def equal(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


def test_n_features_is_learnt_at_the_fit():
    mixture = GaussianMixture(2)
    assert mixture.n_features is None
    assert not mixture.is_sized
    mixture.fit(blobs(50, 3), EM(max_iter=2), generator=0)
    assert mixture.n_features == 3
    assert mixture.is_sized
    assert type(mixture.means) is nn.Parameter
    assert mixture.dtype == torch.float32


QUESTIONS = [
    lambda m: m.log_prob(torch.zeros(3, 2)),
    lambda m: m.predict(torch.zeros(3, 2)),
    lambda m: m.score(torch.zeros(3, 2), torch.ones(3)),
    lambda m: m.bic(torch.zeros(3, 2)),
    lambda m: m.sample(),
    lambda m: m.entropy(),
    lambda m: m.as_distribution(),
    lambda m: m.covariances,
    lambda m: m.scale_tril,
    lambda m: m.n_parameters,
    lambda m: m.mean,
    lambda m: m.variance,
    lambda m: m.covariance_matrix,
    lambda m: m.event_shape,
]


@pytest.mark.parametrize("ask", QUESTIONS)
def test_before_that_questions_name_the_remedy(ask):
    with pytest.raises(NotSizedError, match="fit it first, load a state_dict, or give n_features"):
        ask(GaussianMixture(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_dict_sizes_it(family):
    full = GaussianMixture.from_parameters(drawn(family, 3, 4), dtype=torch.float32)
    late = GaussianMixture(3, covariance=family)
    late.load_state_dict(full.state_dict())
    assert equal(late, full)
    nested, other = nn.Sequential(GaussianMixture(3, covariance=family)), nn.Sequential(full)
    nested.load_state_dict(other.state_dict())
    assert equal(nested[0], full)


def test_a_state_dict_of_another_shape_is_refused():
    state = GaussianMixture(3, 4).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for logits"):
        GaussianMixture(2).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for means"):
        GaussianMixture(3, 5).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for scale"):
        GaussianMixture(3, 4, "spherical").load_state_dict(state)


def test_a_state_dict_before_the_fit_loads_into_another_before_its_fit():
    state = GaussianMixture(3).state_dict()
    assert list(state) == list(TENSORS)
    other = GaussianMixture(3)
    other.load_state_dict(state)
    assert not other.is_sized
    other.fit(blobs(30), EM(max_iter=1))
    assert other.n_features == 2


def test_an_uninitialised_tensor_is_one_that_torch_knows():
    mixture = GaussianMixture(2)
    assert isinstance(mixture.means, UninitializedParameter)
    assert isinstance(mixture.scale, UninitializedParameter)
    assert mixture.logits.shape == (2,)
