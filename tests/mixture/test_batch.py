"""A batch of mixtures as a value: one of it, stacked and unstacked, weighed row by row, stored."""

import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, blobs, drawn, one_of
from torchgmm.kernels import turns

every_family = pytest.mark.parametrize("family", FAMILIES)
X = torch.stack([blobs(50, 3, 2, seed=b) for b in range(4)])


def batch(family="full", shape=(4,), k=2):
    return tg.GaussianMixture.from_parameters(drawn(family, k, 3, shape))


@every_family
@pytest.mark.parametrize("rows", [X, X[0]], ids=["own rows", "shared rows"])
def test_every_answer_is_that_of_the_mixture_alone(family, rows):
    many = batch(family)
    w = torch.rand(4, 50, generator=torch.Generator().manual_seed(0)).double()
    w[:, ::7] = 0
    for b, alone in enumerate(many.unstack()):
        mine = rows if rows.dim() == 2 else rows[b]
        for name in ("log_prob", "predict", "responsibilities", "score", "bic", "aic", "icl"):
            got, expected = getattr(many, name)(rows)[b], getattr(alone, name)(mine)
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
        for name in ("score", "bic", "aic", "icl"):
            got, expected = getattr(many, name)(rows, w)[b], getattr(alone, name)(mine, w[b])
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@every_family
def test_stacking_and_unstacking_are_inverse(family):
    many = batch(family, (2, 3))
    again = tg.stack([tg.stack(part.unstack()) for part in many.unstack()])
    for name, tensor in many.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    one = many[1, 2]
    assert torch.equal(one.means, one_of(many.as_parameters(), (1, 2)).means)
    assert many[0].batch_shape == (3,)
    assert many[:, 1].batch_shape == (2,)
    with torch.no_grad():
        one.means += 1
    assert not torch.equal(one.means, many.means[1, 2])  # a copy


@every_family
def test_mixtures_of_different_size_keep_their_densities(family):
    each = [tg.GaussianMixture.from_parameters(drawn(family, k, 3, seed=k)) for k in (1, 3, 2)]
    many = tg.stack(each)
    assert many.n_components == 3
    for b, alone in enumerate(each):
        torch.testing.assert_close(many.log_prob(X[0])[b], alone.log_prob(X[0]))
        assert many[b].n_components == alone.n_components
        assert torch.equal(many[b].covariances, alone.covariances)
    drawn_rows, labels = many.sample_with_labels((200,), torch.Generator().manual_seed(0))
    assert drawn_rows.shape == (200, 3, 3)
    assert bool((labels < torch.tensor([1, 3, 2])).all())


def test_one_mixture_is_no_batch():
    one = tg.GaussianMixture(2, 3)
    with pytest.raises(tg.InputError, match="one mixture"):
        one[0]
    with pytest.raises(tg.InputError, match="one mixture"):
        one.unstack()
    with pytest.raises(tg.InputError, match="no mixture to stack"):
        tg.stack([])
    with pytest.raises(tg.InputError, match=r"mixture 1 is .*n_features=4"):
        tg.stack([one, tg.GaussianMixture(2, 4)])


def test_mixtures_that_are_not_sized_yet_stack_too():
    sweep = tg.stack(
        [tg.GaussianMixture(k, covariance="spherical", dtype=torch.float64) for k in (1, 2, 3)]
    )
    assert not sweep.is_sized
    sweep.fit(X[0], generator=0)
    assert [m.n_components for m in sweep.unstack()] == [1, 2, 3]
    assert int(sweep.bic(X[0]).argmin()) == 1  # the rows are of two blobs


@every_family
def test_a_batch_is_stored(family, tmp_path):
    each = [tg.GaussianMixture.from_parameters(drawn(family, k, 3, seed=k)) for k in (1, 3)]
    many = tg.stack(each)
    tg.save(many, tmp_path / "batch.safetensors")
    again = tg.load(tmp_path / "batch.safetensors")
    assert again.batch_shape == (2,)
    for name, tensor in many.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize("weights", [torch.ones(3, 50), torch.zeros(4, 50), -torch.ones(4, 50)])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(tg.InputError, match="weights"):
        batch().score(X, weights)


@every_family
@pytest.mark.parametrize("rows", [X, X[0]], ids=["own rows", "shared rows"])
def test_some_mixtures_after_the_others_are_all_at_once(family, rows, monkeypatch):
    def all_of_it():
        many = batch(family, (2, 2))
        x = rows.reshape(2, 2, 50, 3) if rows.dim() == 3 else rows
        x = x.clone().requires_grad_()
        many.log_prob(x).square().sum().backward()
        with torch.no_grad():
            answers = (many.log_prob(x), many.log_joint(x), many.predict(x), many.mahalanobis(x))
        held = many.as_parameters().map(torch.Tensor.detach)
        moments = tg.kernels.as_kernel("auto").accumulate(x.detach(), None, held)
        sums = (moments.weight, moments.first, moments.second, moments.log_prob, moments.rows)
        return [x.grad, *(p.grad for p in many.parameters()), *answers, *sums]

    whole = all_of_it()
    monkeypatch.setattr(turns, "_BYTES", 1)  # one at a time
    for got, expected in zip(all_of_it(), whole, strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
