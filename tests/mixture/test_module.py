"""Questions about rows: shapes, dtypes, gradients off and on, sampling, entropy."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy import stats

from tests.cases import FAMILIES, FLOATS, blobs, drawn, one_of
from tests.definition import log_joint, naive
from torchgmm import EM, GaussianMixture, InputError, Tolerance

every_family = pytest.mark.parametrize("family", FAMILIES)
every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def mixture_of(family, batch=(), dtype=None, k=3, d=4):
    return GaussianMixture.from_parameters(drawn(family, k, d, batch), dtype=dtype)


def rows(n=20, d=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(3)
    return 2 * torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype)


@every_family
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_answers_have_the_shapes_they_announce(family, batch):
    mixture = mixture_of(family, batch)
    for x in (rows(), rows().expand(*batch, 20, 4)):
        assert mixture.log_prob(x).shape == mixture(x).shape == (*batch, 20)
        assert mixture.log_joint(x).shape == (*batch, 20, 3)
        assert mixture.responsibilities(x).shape == (*batch, 20, 3)
        assert mixture.predict(x).shape == (*batch, 20)
        for question in (mixture.score, mixture.bic, mixture.aic, mixture.icl):
            assert question(x).shape == batch


@every_family
@every_dtype
def test_answers_hang_together(family, dtype):
    mixture, x = mixture_of(family, dtype=dtype), rows(dtype=dtype)
    joint = mixture.log_joint(x)
    assert joint.dtype == dtype
    expected = log_joint(x, naive(mixture.as_parameters())).T.to(dtype)
    # float32: eps times Mahalanobis distances of some hundreds
    torch.testing.assert_close(
        joint, expected, rtol=3e-5 if dtype == torch.float32 else 1e-9, atol=1e-5
    )
    torch.testing.assert_close(mixture.log_prob(x), joint.logsumexp(-1))
    torch.testing.assert_close(mixture.responsibilities(x), joint.softmax(-1))
    assert torch.equal(mixture.predict(x), joint.argmax(-1))
    assert mixture.predict(x).dtype == torch.int64
    torch.testing.assert_close(mixture.score(x), joint.logsumexp(-1).mean().detach())
    assert not mixture.score(x).requires_grad  # a figure, not a loss


@every_family
@every_dtype
def test_answers_without_gradients_equal_those_with(family, dtype):
    mixture, x = mixture_of(family, (2,), dtype), rows(dtype=dtype)
    with torch.no_grad():
        chunked = [mixture.log_prob(x), mixture.log_joint(x), mixture.responsibilities(x)]
    for without, asked in zip(chunked, ("log_prob", "log_joint", "responsibilities"), strict=True):
        tracked = getattr(mixture, asked)(x)
        assert tracked.requires_grad
        assert not without.requires_grad
        # the same formula in other chunks
        torch.testing.assert_close(without, tracked.detach())


@every_family
def test_the_mixtures_dtype_and_that_of_the_rows_meet(family):
    x = rows()
    exact = mixture_of(family).log_prob(x).detach()
    assert mixture_of(family, dtype=torch.float32).log_prob(x).dtype == torch.float64
    assert mixture_of(family).log_prob(x.float()).dtype == torch.float64
    single = mixture_of(family, dtype=torch.float32)
    for half in (torch.float16, torch.bfloat16):
        coarse = single.log_prob(x.to(half))
        assert coarse.dtype == torch.float32
        torch.testing.assert_close(coarse, single.log_prob(x.to(half).float()))
    assert single.log_prob(x.float()).dtype == torch.float32
    torch.testing.assert_close(single.log_prob(x.float()).double(), exact, rtol=1e-4, atol=1e-4)


def test_weights_of_a_score_are_those_of_a_mean():
    mixture, x = mixture_of("full"), rows()
    w = torch.linspace(0, 3, 20, dtype=torch.float64)
    expected = (mixture.log_prob(x) * w).sum().detach() / w.sum()
    torch.testing.assert_close(mixture.score(x, w), expected)
    torch.testing.assert_close(mixture.score(x, w.numpy().tolist()), expected)
    torch.testing.assert_close(mixture.score(x, torch.ones(20)), mixture.score(x))


@pytest.mark.parametrize("question", ["log_prob", "log_joint", "responsibilities"])
@every_family
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients_are_those_of_the_differences(question, family, batch):
    mixture, x = mixture_of(family, batch, k=2, d=3), rows(4, 3).requires_grad_()
    names = [name for name, _ in mixture.named_parameters()]
    leaves = [p.detach().clone().requires_grad_() for p in mixture.parameters()]

    def asked(x, *tensors):
        with _holding(mixture, dict(zip(names, tensors, strict=True))):
            return getattr(mixture, question)(x)

    assert torch.autograd.gradcheck(asked, (x, *leaves))


@contextmanager
def _holding(mixture, tensors):
    """The mixture with other tensors in place of its own."""
    own = dict(mixture._parameters)
    mixture._parameters.update(tensors)
    try:
        yield
    finally:
        mixture._parameters.update(own)


@every_family
def test_the_gradient_of_a_maximum_is_zero(family):
    x = blobs(200)
    mixture = GaussianMixture(3, covariance=family, dtype=torch.float64)
    mixture.fit(x, EM(max_iter=500, reg_covar=0), stop=Tolerance(1e-15), generator=0)
    mixture.log_prob(x).mean().backward()
    for name, tensor in mixture.named_parameters():
        # log-likelihoods that rest to 1e-15 leave a gradient of about the root of that
        assert float(tensor.grad.abs().max()) < 1e-6, name


# drawing ----------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_samples_have_the_shape_of_torch_distributions(family, shape, batch):
    mixture = mixture_of(family, batch)
    x, labels = mixture.sample_with_labels(shape)
    assert x.shape == (*shape, *batch, 4)
    assert labels.shape == (*shape, *batch)
    assert x.dtype == torch.float64
    assert not x.requires_grad
    assert mixture.sample(shape).shape == x.shape


@every_family
def test_samples_have_the_weights_means_and_covariances(family):
    mixture, n = mixture_of(family, (2,)), 40_000
    x, labels = mixture.sample_with_labels((n,), torch.Generator().manual_seed(0))
    for b in range(2):
        plain = naive(one_of(mixture.as_parameters().map(torch.Tensor.detach), b))
        for k in range(3):
            mine = x[labels[:, b] == k, b]
            weight, m = float(plain.weights[k]), len(mine)
            # 5 standard errors of a share, a mean, a variance: missed once in 10^6 draws
            assert abs(m / n - weight) < 5 * (weight * (1 - weight) / n) ** 0.5
            factor = torch.linalg.cholesky(plain.covariances[k])
            z = torch.linalg.solve_triangular(factor, (mine - plain.means[k]).mT, upper=False)
            assert float(z.mean(1).abs().max()) < 5 / m**0.5
            assert float((z.mm(z.mT) / m - torch.eye(4)).abs().max()) < 5 * (2 / m) ** 0.5
            p_value = stats.kstest(z[0].numpy(), "norm").pvalue
            assert p_value > 1e-4  # and they are normal


def test_samples_come_from_the_generator_alone():
    mixture = mixture_of("full")
    first = mixture.sample((10,), torch.Generator().manual_seed(1))
    torch.rand(7)
    assert torch.equal(mixture.sample((10,), torch.Generator().manual_seed(1)), first)
    assert not torch.equal(mixture.sample((10,), torch.Generator().manual_seed(2)), first)
    torch.manual_seed(5)
    from_global = mixture.sample((10,))
    torch.manual_seed(5)
    assert torch.equal(mixture.sample((10,)), from_global)


def test_a_number_is_a_shape_and_a_seed_a_generator():
    mixture = mixture_of("full", (2,))
    for draw in (mixture.sample, mixture.rsample, lambda *a: mixture.sample_with_labels(*a)[0]):
        rows = draw((10,), torch.Generator().manual_seed(1))
        assert torch.equal(draw(10, 1), rows)
        assert torch.equal(draw(np.int64(10), np.int64(1)), rows)
    one, other = (mixture.entropy(50, g) for g in (1, torch.Generator().manual_seed(1)))
    assert torch.equal(one.value, other.value)
    built = [GaussianMixture(3, 2, generator=g) for g in (4, torch.Generator().manual_seed(4))]
    assert torch.equal(built[0].means, built[1].means)


@pytest.mark.parametrize(
    ("shape", "seed", "said"),
    [
        (-1, None, "sample_shape must be at least 0, got -1"),
        ((3, -1), None, "sample_shape must be at least 0, got -1"),
        (2.0, None, "sample_shape must be an integer, got 2.0"),
        ("12", None, "sample_shape must be an integer, got '1'"),
        (1, -1, "seed .generator=. must be at least 0, got -1"),
        (1, 0.5, "seed .generator=. must be an integer, got 0.5"),
    ],
)
def test_what_is_no_shape_or_seed_is_refused(shape, seed, said):
    for draw in (mixture_of("full").sample, mixture_of("full").rsample):
        with pytest.raises(InputError, match=said):
            draw(shape, seed)


def test_a_mixture_that_was_sampled_is_found_again():
    truth = GaussianMixture.from_covariances(
        [0.3, 0.7], [[0.0, 0.0], [8.0, 0.0]], [np.eye(2), [[2.0, 1.0], [1.0, 1.0]]]
    )
    x = truth.sample((20_000,), torch.Generator().manual_seed(0))
    mixture = GaussianMixture(2)
    mixture.fit(x, generator=0)
    order = mixture.means[:, 0].argsort()
    # sampling errors: 1 / sqrt(6000) = 0.013
    torch.testing.assert_close(mixture.weights[order], truth.weights, rtol=0, atol=0.02)
    torch.testing.assert_close(mixture.means[order], truth.means, rtol=0, atol=0.06)
    torch.testing.assert_close(mixture.covariances[order], truth.covariances, rtol=0, atol=0.12)


def test_the_entropy_is_reproducible_and_needs_two_draws():
    mixture = mixture_of("full")
    one, other = (mixture.entropy(50, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one.value, other.value)
    with pytest.raises(InputError, match="n_samples must be at least 2, got 1"):
        mixture.entropy(1)


def test_a_mixture_is_a_layer():
    x = rows(dtype=torch.float32)
    network = torch.nn.Sequential(torch.nn.Linear(4, 2), GaussianMixture(3, 2))
    loss = -network(x).mean()
    loss.backward()
    for name, tensor in network.named_parameters():
        assert float(tensor.grad.abs().max()) > 0, name
