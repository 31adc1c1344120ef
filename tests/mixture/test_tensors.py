"""The mixture as a module: built, sized late, moved, copied, saved, shown."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from tests.cases import FAMILIES, blobs, drawn
from tests.definition import STRUCTURES, naive
from torchgmm import EM, GaussianMixture, InputError, Parameters

every_family = pytest.mark.parametrize("family", FAMILIES)
TENSORS = ("logits", "means", "scale")


def equal(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


@every_family
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_shapes_names_and_number_of_its_tensors(family, batch):
    mixture = GaussianMixture(3, 4, family, batch_shape=batch)
    shapes = {name: tuple(p.shape) for name, p in mixture.named_parameters()}
    scale = mixture.family.scale_shape(3, 4)
    assert shapes == {"logits": (*batch, 3), "means": (*batch, 3, 4), "scale": (*batch, *scale)}
    assert list(mixture.state_dict()) == list(TENSORS)
    assert not list(mixture.buffers())
    assert mixture.weights.shape == (*batch, 3)
    assert mixture.scale_tril.shape == (*batch, 3, 4, 4)
    assert mixture.covariances.shape == (*batch, *mixture.family.covariance_shape(3, 4))
    assert mixture.precisions.shape == mixture.covariances.shape
    assert mixture.n_parameters == 2 + 12 + STRUCTURES[family].n_parameters(3, 4)


def test_a_new_mixture_is_standard_normal_about_random_means():
    g = torch.Generator().manual_seed(0)
    mixture = GaussianMixture(500, 2, generator=g)
    assert torch.equal(mixture.covariances, torch.eye(2).expand(500, 2, 2))
    assert torch.allclose(mixture.weights, torch.tensor(1 / 500))
    assert 0.9 < float(mixture.means.detach().std()) < 1.1  # 1,000 normals: 0.02 standard error
    again = GaussianMixture(500, 2, generator=torch.Generator().manual_seed(0))
    assert equal(mixture, again)


@every_family
@pytest.mark.parametrize("batch", [(), (2,)])
def test_it_holds_what_it_was_built_from(family, batch):
    p = drawn(family, 3, 4, batch)
    public = p.family.covariances(p.scale)
    weights = p.logits.softmax(-1)
    mixture = GaussianMixture.from_covariances(
        weights, p.means, public, family, dtype=torch.float64
    )
    assert mixture.batch_shape == batch
    torch.testing.assert_close(mixture.weights, weights)
    assert torch.equal(mixture.means, p.means)
    torch.testing.assert_close(mixture.covariances, public)


@pytest.mark.parametrize("make", [np.asarray, list, torch.tensor, tuple])
def test_it_is_built_from_anything_array_like(make):
    mixture = GaussianMixture.from_covariances(
        make([0.25, 0.75]), make([[0.0, 1.0], [2.0, 3.0]]), make([1.0, 4.0]), "spherical"
    )
    assert mixture.dtype == torch.float32
    assert mixture.covariances.tolist() == pytest.approx([1, 4])
    assert mixture.weights.tolist() == pytest.approx([0.25, 0.75])


WRONG = [
    ([0.5, 0.6], [[0.0], [1.0]], [[1.0], [1.0]], r"sum to 1.*sum of 1\.1"),
    ([1.5, -0.5], [[0.0], [1.0]], [[1.0], [1.0]], r"at least 0.*-0\.5"),
    ([1.0], [[0.0], [1.0]], [[1.0], [1.0]], r"weights must have shape \(2,\)"),
    ([0.5, 0.5], [0.0, 1.0], [[1.0], [1.0]], r"means must be \(\*B, K, D\)"),
    ([0.5, 0.5], [[0.0], [1.0]], [[1.0]], r"covariances must have shape \(2, 1\)"),
    ([0.5, 0.5], [[0.0], [1.0]], [[1.0], [0.0]], "above zero, got 0"),
    ([0.5, 0.5], [[0.0], [np.nan]], [[1.0], [1.0]], "means hold NaN"),
    ([np.nan, 0.5], [[0.0], [1.0]], [[1.0], [1.0]], "weights hold NaN"),
]


@pytest.mark.parametrize(("weights", "means", "covariances", "message"), WRONG)
def test_what_is_no_mixture_is_refused(weights, means, covariances, message):
    with pytest.raises(InputError, match=message):
        GaussianMixture.from_covariances(weights, means, covariances, "diagonal")


def test_a_component_of_weight_zero_is_allowed():
    mixture = GaussianMixture.from_covariances([1.0, 0.0], [[0.0], [1.0]], [[1.0], [1.0]], "diag")
    x = torch.tensor([[0.0], [1.0]])
    assert bool(torch.isfinite(mixture.log_prob(x)).all())
    assert mixture.responsibilities(x).tolist() == [[1, 0], [1, 0]]
    assert mixture.predict(x).tolist() == [0, 0]
    assert bool(torch.isfinite(mixture.icl(x)))
    assert bool((mixture.sample_with_labels((50,))[1] == 0).all())


def test_wrong_settings_are_refused_with_the_value():
    for k, message in (
        (0, "at least 1, got 0"),
        (-2, "got -2"),
        (2.5, "integer, got 2.5"),
        (True, "integer, got True"),
        ("3", "integer, got '3'"),
        (None, "None"),
    ):
        with pytest.raises(InputError, match=f"n_components.*{message}"):
            GaussianMixture(k)
    with pytest.raises(InputError, match=r"n_features must be at least 1, got 0"):
        GaussianMixture(2, 0)
    with pytest.raises(InputError, match=r"float32 or torch.float64, got dtype=torch.float16"):
        GaussianMixture(2, dtype=torch.float16)
    with pytest.raises(InputError, match="covariance must be one of"):
        GaussianMixture(2, covariance="banana")
    assert GaussianMixture(np.int64(3), np.int32(2)).means.shape == (3, 2)


@pytest.mark.parametrize("fitted", [False, True])
def test_a_deep_copy_is_a_mixture_of_its_own(fitted):
    mixture = GaussianMixture(2)
    if fitted:
        mixture.fit(blobs(50), EM(max_iter=2), generator=0)
    twin = copy.deepcopy(mixture)
    assert repr(twin) == repr(mixture)
    twin.fit(blobs(60, seed=3), EM(max_iter=3), generator=1)
    if fitted:
        assert not equal(twin, mixture)
    else:
        assert not mixture.is_sized
        mixture.fit(blobs(60, seed=3), EM(max_iter=3), generator=1)
        assert equal(twin, mixture)


@pytest.mark.parametrize("sized", [False, True])
def test_to_changes_the_dtype_before_and_after_the_fit(sized):
    mixture = GaussianMixture(2, 2 if sized else None).double()
    assert mixture.dtype == torch.float64
    mixture.fit(blobs(50), EM(max_iter=2), generator=0)
    assert {p.dtype for p in mixture.parameters()} == {torch.float64}
    exact = mixture.means.detach().clone()
    mixture.to(torch.float32)
    assert {p.dtype for p in mixture.parameters()} == {torch.float32}
    torch.testing.assert_close(mixture.means.detach().double(), exact, rtol=1e-7, atol=0)


def test_a_meta_mixture_takes_no_memory_and_can_be_filled():
    mixture = GaussianMixture(3, 4, device="meta")
    assert mixture.means.is_meta
    full = GaussianMixture(3, 4)
    mixture.to_empty(device="cpu").load_state_dict(full.state_dict())
    assert equal(mixture, full)
    assigned = GaussianMixture(3, 4, device="meta")
    assigned.load_state_dict(full.state_dict(), assign=True)
    assert equal(assigned, full)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_a_fit_keeps_the_tensors_that_an_optimiser_holds(optimiser):
    mixture = GaussianMixture(2)
    held = optimiser(mixture.parameters(), lr=0.01)
    before = [id(p) for p in mixture.parameters()]
    x = blobs(50, dtype=torch.float32)
    mixture.fit(x, EM(max_iter=3), generator=0)
    assert [id(p) for p in mixture.parameters()] == before
    place = [p.data_ptr() for p in mixture.parameters()]
    mixture.fit(x, EM(max_iter=3), init="current")
    assert [p.data_ptr() for p in mixture.parameters()] == place
    fitted = float(mixture.score(x))
    mixture.means.data += 1
    for _ in range(50):
        held.zero_grad()
        loss = -mixture.log_prob(x).mean()
        loss.backward()
        held.step()
    assert -float(loss.detach()) < fitted + 1  # it moves, and stays a mixture
    assert all(p.requires_grad for p in mixture.parameters())


def test_torch_save_of_the_state_dict_makes_the_round_trip():
    mixture = GaussianMixture.from_parameters(drawn("full", 3, 4))
    file = io.BytesIO()
    torch.save(mixture.state_dict(), file)
    file.seek(0)
    other = GaussianMixture(3, dtype=torch.float64)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert equal(other, mixture)


def test_frozen_parameters_stay_frozen_through_a_fit():
    mixture = GaussianMixture(2, 2).requires_grad_(False)
    mixture.fit(blobs(50), EM(max_iter=2), generator=0)
    assert not any(p.requires_grad for p in mixture.parameters())
    assert not mixture.log_prob(blobs(5)).requires_grad


def test_its_repr_says_what_it_is():
    assert repr(GaussianMixture(3)) == (
        "GaussianMixture(n_components=3, n_features=None, covariance='full', dtype=torch.float32)"
    )
    big = GaussianMixture(2, 5, "tied", batch_shape=(4,), dtype=torch.float64)
    assert repr(big) == (
        "GaussianMixture(n_components=2, n_features=5, covariance='tied', batch_shape=(4,), "
        "dtype=torch.float64)"
    )
    assert "device='meta'" in repr(GaussianMixture(2, 2, device="meta"))
    assert "(gmm): GaussianMixture(" in repr(nn.ModuleDict({"gmm": GaussianMixture(2)}))


def test_assigning_what_does_not_fit_is_refused():
    mixture = GaussianMixture(3, 4)
    with pytest.raises(InputError, match="spherical parameters do not fit a full mixture"):
        mixture.assign(drawn("spherical", 3, 4))
    with pytest.raises(InputError, match=r"logits of shape \(2,\).*\(3,\)"):
        mixture.assign(drawn("full", 2, 4))
    with pytest.raises(InputError, match=r"means of shape \(3, 5\).*\(3, 4\)"):
        mixture.assign(drawn("full", 3, 5))


@every_family
def test_as_parameters_and_back_is_the_same(family):
    mixture = GaussianMixture.from_parameters(drawn(family, 3, 4, (2,)))
    p = mixture.as_parameters()
    assert isinstance(p, Parameters)
    assert (p.n_components, p.n_features, tuple(p.batch_shape)) == (3, 4, (2,))
    assert p.means.requires_grad
    assert p.is_finite()
    assert equal(GaussianMixture.from_parameters(p), mixture)
    assert p.to(torch.float32).scale.dtype == torch.float32
    torch.testing.assert_close(p.log_weights.exp().sum(-1), torch.ones(2).double())


@every_family
def test_scale_tril_is_the_factor_of_the_covariances(family):
    mixture = GaussianMixture.from_parameters(drawn(family, 3, 4))
    dense = naive(mixture.as_parameters()).covariances
    torch.testing.assert_close(mixture.scale_tril @ mixture.scale_tril.mT, dense)
    assert bool((mixture.scale_tril.triu(1) == 0).all())
