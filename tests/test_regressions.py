"""What broke elsewhere (field.md): each issue's own case, by the program that had it."""

import pytest
import torch
from sklearn.datasets import load_digits

from tests.cases import FAMILIES, blobs
from tests.definition import naive
from torchgmm import EM, GaussianMixture

every_family = pytest.mark.parametrize("family", FAMILIES)


def sound(result):
    """A fit that ended well: finite, and every covariance positive definite."""
    assert result.parameters.is_finite()
    values = torch.linalg.eigvalsh(naive(result.parameters).covariances)
    assert bool((values > 0).all())
    levels = [step.log_likelihood for step in result.history]
    assert levels[-1] > levels[0] - 1e-5  # float32 rounding, where the start is the answer
    return True


def test_two_distant_rows_have_the_floor_for_variances():
    # scikit-learn #30382: float32 loses everything in E[x^2] - mu^2
    x = torch.tensor([[9999.0], [0.0]])
    mixture = GaussianMixture(2, covariance="spherical")
    mixture.fit(x, EM(reg_covar=0.1), generator=0)
    assert mixture.covariances.tolist() == pytest.approx([0.1, 0.1])
    assert sorted(mixture.means.flatten().tolist()) == [0, 9999]


@every_family
def test_a_hundred_rows_of_99_features(family):
    # gmm-torch #35
    x = torch.randn(100, 99, generator=torch.Generator().manual_seed(0))
    mixture = GaussianMixture(3, covariance=family)
    assert sound(mixture.fit(x, EM(max_iter=20), generator=0))
    assert bool(torch.isfinite(mixture.log_prob(x)).all())


@every_family
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_integer_pixels_with_many_duplicates(family, kind):
    # gmm-torch #25, #31: few distinct rows, constant columns, integers
    pixels = torch.as_tensor(load_digits().data)[:, 24:34].round().to(kind)
    assert len(pixels.unique(dim=0)) < len(pixels)
    mixture = GaussianMixture(10, covariance=family)
    assert sound(mixture.fit(pixels, EM(max_iter=20), generator=0))
    assert mixture.dtype == torch.float32


@every_family
def test_two_hundred_components_in_six_dimensions(family):
    x = blobs(3000, 6, k=20, separation=4.0, dtype=torch.float32)
    mixture = GaussianMixture(200, covariance=family)
    assert sound(mixture.fit(x, EM(max_iter=10), generator=0))


@every_family
@pytest.mark.parametrize("offset", [300, 3e3, 3e4])
def test_float32_rows_with_a_common_offset(family, offset):
    # scikit-learn 1.9 (tied, diag, spherical), PyPI's torchgmm, pomegranate, gmm-gpu: NaN or error
    x = blobs(500, 4, k=3, separation=5.0)
    here, there = (GaussianMixture(3, covariance=family) for _ in range(2))
    near = here.fit(x.float(), generator=0)
    far = there.fit((x + offset).float(), generator=0)
    assert sound(far)
    # the rows themselves are rounded to offset * 6e-8: 2e-3 standard deviations at 3e4
    assert far.log_likelihood == pytest.approx(near.log_likelihood, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_row_more_than_a_covariance_needs(dtype):
    x = torch.randn(11, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert sound(GaussianMixture(1, dtype=dtype).fit(x, EM(max_iter=5), generator=0))


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("_two_threads")
def test_five_thousand_sparse_rows_in_two_thousand_dimensions():
    # PyCave #20: ReLU(randn - 1) has columns that are zero for most rows of a component
    x = (torch.randn(5000, 2000, generator=torch.Generator().manual_seed(0)) - 1).relu()
    mixture = GaussianMixture(10)
    result = mixture.fit(x, EM(max_iter=2, reg_covar=1e-3), generator=0)
    assert result.parameters.is_finite()
    first, second = (step.log_likelihood for step in result.history)
    # a step towards covariances with a floor, and float32 sums over 2,000 features
    assert second > first - 1e-2
    with torch.no_grad():
        assert bool(torch.isfinite(mixture.log_prob(x[:100])).all())
