"""torch.distributions and SciPy: the same densities, entropies, and the module's own conversion."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as dist

from tests.cases import FAMILIES, drawn, one_of
from tests.definition import naive
from torchgmm import GaussianMixture, InputError

every_family = pytest.mark.parametrize("family", FAMILIES)
SAME = {"rtol": 1e-10, "atol": 1e-10}  # float64, condition 100


def rows(d, n=40):
    g = torch.Generator().manual_seed(5)
    return 3 * torch.randn(n, d, generator=g, dtype=torch.float64)


@every_family
def test_log_prob_is_that_of_scipy(family):
    p = drawn(family, 3, 4)
    mixture, plain, x = GaussianMixture.from_parameters(p), naive(p), rows(4)
    density = sum(
        float(w) * stats.multivariate_normal(m.numpy(), c.numpy()).pdf(x)
        for w, m, c in zip(*plain, strict=True)
    )
    np.testing.assert_allclose(mixture.log_prob(x).detach(), np.log(density), **SAME)


@every_family
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_as_distribution_has_the_same_log_prob(family, batch):
    mixture = GaussianMixture.from_parameters(drawn(family, 3, 4, batch))
    other = mixture.as_distribution()
    assert other.batch_shape == batch
    assert other.event_shape == (4,)
    x = rows(4)
    expected = other.log_prob(x.reshape(-1, *[1] * len(batch), 4)).movedim(0, -1)
    torch.testing.assert_close(mixture.log_prob(x), expected, **SAME)


@every_family
def test_as_distribution_shares_the_tensors(family):
    mixture = GaussianMixture.from_parameters(drawn(family, 2, 3))
    mixture.as_distribution().log_prob(rows(3)).sum().backward()
    for name, tensor in mixture.named_parameters():
        assert tensor.grad is not None, name
        assert float(tensor.grad.abs().max()) > 0, name


@every_family
def test_a_batch_scores_as_its_mixtures_do(family):
    p, x = drawn(family, 3, 4, (2, 3)), rows(4)
    joined = GaussianMixture.from_parameters(p)
    own = torch.stack([x + i for i in range(6)]).unflatten(0, (2, 3))
    for i in range(2):
        for j in range(3):
            alone = GaussianMixture.from_parameters(one_of(p, (i, j)))
            for question in ("log_prob", "log_joint", "responsibilities", "predict"):
                together = getattr(joined, question)
                apart = getattr(alone, question)
                torch.testing.assert_close(together(x)[i, j], apart(x))
                torch.testing.assert_close(together(own)[i, j], apart(own[i, j]))


@every_family
def test_the_entropy_of_one_component_is_the_closed_form(family):
    p = drawn(family, 1, 4)
    mixture = GaussianMixture.from_parameters(p)
    expected = stats.multivariate_normal(np.zeros(4), naive(p).covariances[0].numpy()).entropy()
    estimate = mixture.entropy(20_000, torch.Generator().manual_seed(0))
    assert 0 < float(estimate.standard_error) < 0.05  # the variance of -log p is D/2 = 2
    # 4 standard errors: missed once in 16,000 seeds, and this one is fixed
    assert abs(float(estimate.value) - expected) < 4 * float(estimate.standard_error)


def test_the_entropy_of_a_batch_has_its_shape():
    mixture = GaussianMixture.from_parameters(drawn("full", 2, 3, (2, 2)))
    estimate = mixture.entropy(100)
    assert estimate.value.shape == estimate.standard_error.shape == (2, 2)


@every_family
def test_icl_is_bic_plus_twice_the_entropy_of_the_responsibilities(family):
    mixture, x = GaussianMixture.from_parameters(drawn(family, 3, 4)), rows(4)
    r = mixture.responsibilities(x).detach()
    entropy = float(torch.special.entr(r).sum())
    assert float(mixture.icl(x)) == pytest.approx(float(mixture.bic(x)) + 2 * entropy, rel=1e-12)
    assert entropy > 0.1


@every_family
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_a_mixture_from_a_distribution_has_its_density(family, batch):
    given = GaussianMixture.from_parameters(drawn(family, 3, 4, batch))
    found = GaussianMixture.from_distribution(given.as_distribution())
    assert (found.dtype, found.batch_shape, found.n_components) == (given.dtype, batch, 3)
    torch.testing.assert_close(found.log_prob(rows(4)), given.log_prob(rows(4)), **SAME)
    assert found.means.data_ptr() != given.means.data_ptr()  # copied


G = torch.Generator().manual_seed(6)
LOC, SPREAD = torch.randn(5, 3, generator=G), 0.5 + torch.rand(5, 3, generator=G)
NORMALS = {
    "one of one feature": dist.Normal(0.3, 2.0),
    "many of one feature": dist.Normal(LOC[:, 0], SPREAD[:, 0]),
    "one": dist.MultivariateNormal(LOC[0], SPREAD[0].diag()),
    "many": dist.MultivariateNormal(LOC, SPREAD.diag_embed()),
    "independent": dist.Independent(dist.Normal(LOC, SPREAD), 1),
    "low rank": dist.LowRankMultivariateNormal(LOC, SPREAD.unsqueeze(-1), SPREAD),
    "univariate components": dist.MixtureSameFamily(
        dist.Categorical(logits=LOC[:, 0]), dist.Normal(LOC[:, 1], SPREAD[:, 0])
    ),
}


@pytest.mark.parametrize("case", NORMALS)
def test_normals_of_every_kind_are_mixtures(case):
    given = NORMALS[case]
    mixture = GaussianMixture.from_distribution(given, dtype=torch.float64)
    assert mixture.batch_shape == given.batch_shape
    x = given.sample((7,))  # (7, *B, D), or (7, *B) of one feature
    table = (x if given.event_shape else x.unsqueeze(-1)).movedim(0, -2)
    expected = given.log_prob(x).movedim(0, -1)
    # float32 parameters and samples of the distribution
    torch.testing.assert_close(mixture.log_prob(table).float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "given", [dist.Gamma(1.0, 1.0), dist.Independent(dist.Normal(torch.zeros(2, 3), 1.0), 2)]
)
def test_what_is_no_mixture_of_normals_is_none(given):
    with pytest.raises(InputError, match="a mixture of normals is needed, got"):
        GaussianMixture.from_distribution(given)


@every_family
@pytest.mark.parametrize("batch", [(), (2,)])
def test_mean_and_covariance_of_the_whole_are_those_of_one_component(family, batch):
    p = drawn(family, 3, 4, batch)
    mixture = GaussianMixture.from_parameters(p)
    each = [naive(one_of(p, b)) for b in range(2)] if batch else [naive(p)]
    means = [one.weights @ one.means for one in each]
    found = [
        sum(w * (c + (m - whole).outer(m - whole)) for w, m, c in zip(*one, strict=True))
        for one, whole in zip(each, means, strict=True)
    ]
    mean, covariance = (torch.stack(t).reshape(*batch, *t[0].shape) for t in (means, found))
    assert mixture.event_shape == (4,)
    torch.testing.assert_close(mixture.mean, mean, **SAME)
    torch.testing.assert_close(mixture.covariance_matrix, covariance, **SAME)
    torch.testing.assert_close(mixture.variance, covariance.diagonal(dim1=-2, dim2=-1), **SAME)
    mixture.covariance_matrix.sum().backward()
    assert all(tensor.grad is not None for tensor in mixture.parameters())
