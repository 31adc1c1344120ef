"""The float32 contract (README, "float32"): float32 rows give the answer of float64.

Errors are measured where they matter: those of the means in standard deviations of the component,
|L^-1 (mu' - mu)|, those of the covariances relative to it in every direction, the spectral norm of
L^-1 (Sigma' - Sigma) L^-T, with L L^T = Sigma the float64 answer.
"""

import pytest
import torch

from tests.cases import EASY, FAMILIES, GRID, Case
from tests.definition import STRUCTURES, em_step, log_joint, naive
from torchgmm import EM, GaussianMixture, Parameters, Tolerance
from torchgmm.kernels import kernels

CONTRACT = 1e-4  # of a standard deviation, and of the covariance
NATS = 1e-5  # per row, of a whole fit

every_family = pytest.mark.parametrize("family", FAMILIES)
every_kernel = pytest.mark.parametrize("kernel", kernels())
every_case = pytest.mark.parametrize("case", [*EASY, *GRID], ids=str)


def whitened_errors(got, exact):
    """The largest error of a mean and of a covariance, in the metric of the exact covariance."""
    a, b = naive(got), naive(exact)
    factor = torch.linalg.cholesky(b.covariances)
    means = torch.linalg.solve_triangular(factor, (a.means - b.means)[..., None], upper=False)
    left = torch.linalg.solve_triangular(factor, a.covariances - b.covariances, upper=False)
    both = torch.linalg.solve_triangular(factor, left.mT, upper=False)
    return float(means.norm(dim=1).max()), float(torch.linalg.matrix_norm(both, 2).max())


def plain_errors(got, exact):
    """The same per feature: in its standard deviation, and relative to the covariance's norm."""
    a, b = naive(got), naive(exact)
    spread = b.covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    norm = torch.linalg.matrix_norm(b.covariances)
    change = torch.linalg.matrix_norm(a.covariances - b.covariances)
    return float(((a.means - b.means).abs() / spread).max()), float((change / norm).max())


def trace_error(got, exact):
    """The largest relative error of a trace, in which the axes have no part."""
    one, other = (_trace(naive(p).covariances) for p in (got, exact))
    return float((one / other - 1).abs().max())


def _trace(matrices):
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def one_step(rows, start, kernel="auto", floor=1e-6, device="cpu"):
    mixture = GaussianMixture(
        start.n_components, covariance=start.family, dtype=rows.dtype, device=device
    )
    method = EM(max_iter=1, reg_covar=floor, kernel=kernel)
    found = mixture.fit(rows, method, init=start.to(device=device)).parameters
    return found.to(device="cpu"), mixture.cpu()


@every_kernel
@every_family
@every_case
def test_one_step_from_float32_rows_is_the_float64_step(kernel, family, case, device):
    case = case.of(family)
    x, start = case.rows(torch.float32), case.start(family)
    exact, _ = one_step(x.double(), start, kernel, device=device)
    got, _ = one_step(x, start, kernel, device=device)
    mean, covariance = whitened_errors(got, exact)
    assert mean < CONTRACT
    assert covariance < CONTRACT


@every_kernel
@every_family
@every_case
def test_the_float64_step_is_the_definition(kernel, family, case, device):
    case = case.of(family)
    x, start = case.rows(torch.float32).double(), case.start(family)
    expected = Parameters.from_covariances(*em_step(x, None, start, 1e-6), family)
    mean, covariance = whitened_errors(one_step(x, start, kernel, device=device)[0], expected)
    # condition 1e6 times float64's 1e-16, over 16 x 16 entries and 2,000 rows
    assert mean < 1e-9
    assert covariance < 1e-9


@every_family
@every_case
def test_what_a_float32_mixture_holds_is_right_to_one_unit_in_the_last_place(family, case, device):
    case = case.of(family)
    x, start = case.rows(torch.float32), case.start(family)
    exact, _ = one_step(x.double(), start, device=device)
    _, mixture = one_step(x, start, device=device)
    spread = naive(exact).covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    there = exact.means.abs().float()
    ulp = (torch.nextafter(there, there + 1) - there).double()
    error = (mixture.means.detach().double() - exact.means).abs()
    assert bool((error <= torch.maximum(CONTRACT * spread, ulp)).all())
    held = mixture.as_parameters(torch.float64).map(torch.Tensor.detach)
    assert whitened_errors(held, exact)[1] < CONTRACT


@every_family
@every_case
def test_a_whole_float32_fit_is_as_likely_as_the_float64_fit(family, case, device):
    case = case.of(family)
    x, start = case.rows(torch.float32), case.start(family)
    level = []
    for rows in (x, x.double()):
        mixture = GaussianMixture(case.k, covariance=family, dtype=rows.dtype, device=device)
        # a tolerance below NATS: stopping one step earlier or later must not decide
        result = mixture.fit(
            rows, EM(max_iter=100), init=start.to(device=device), stop=Tolerance(1e-7)
        )
        found = naive(result.parameters.to(device="cpu"))
        level.append(float(log_joint(x, found).logsumexp(0).mean()))
    assert level[0] == pytest.approx(level[1], abs=NATS)


def rough_start(case, family, width):
    """Means at rows, one round covariance for all: far from the shape of the answer."""
    x = case.rows()
    variance = width**2 * x.var(0).mean()
    dense = (variance * torch.eye(case.d).double()).expand(case.k, -1, -1)
    public = STRUCTURES[family].estimate(dense, x.new_ones(case.k))
    weights = torch.full((case.k,), 1 / case.k, dtype=torch.float64)
    return Parameters.from_covariances(weights, x[7 : 7 + case.k], public, family)


@every_kernel
@every_family
@every_case
@pytest.mark.parametrize("width", [0.1, 1.0])
def test_one_step_from_a_rough_start_is_the_float64_step(kernel, family, case, width, device):
    # Rows that a round covariance whitens are as ill-conditioned as they were, so directions of
    # 1e-6 of the variance keep no digits in this one step: errors relative to the whole covariance.
    case = case.of(family)
    x, start = case.rows(torch.float32), rough_start(case, family, width)
    exact, _ = one_step(x.double(), start, kernel, device=device)
    got, _ = one_step(x, start, kernel, device=device)
    mean, covariance = plain_errors(got, exact)
    assert mean < CONTRACT
    if family == "common_axes":
        # blurred components have no axes in common, and which ones are found hangs on every digit
        covariance = trace_error(got, exact)
    assert covariance < CONTRACT


@every_kernel
@every_family
@pytest.mark.parametrize("offset", [1e3, 3e3, 3e4])
@pytest.mark.parametrize(("k", "width"), [(4, "as wide as it is far"), (1, "unit")])
def test_one_step_from_a_start_outside_the_rows_is_the_float64_step(
    kernel, family, offset, k, width, device
):
    # k = 1 of unit width at the origin is what a new mixture holds; with more of them float32
    # cannot say which is nearer
    case = Case("far", 4, offset, 3, 1, k)
    case = case.of(family)
    x, near = case.rows(torch.float32), case.start(family)
    means = torch.randn(k, 4, generator=torch.Generator().manual_seed(0)).double()
    scale = near.family.from_covariances(
        near.family.covariances(near.scale) * (offset**2 if k > 1 else 1), 4
    )
    start = Parameters(near.logits, means, scale, near.family)
    exact, _ = one_step(x.double(), start, kernel, device=device)
    mean, covariance = plain_errors(one_step(x, start, kernel, device=device)[0], exact)
    # x - mu, with mu of many digits, is rounded as x itself is
    assert mean < max(CONTRACT, 2 * offset * torch.finfo(torch.float32).eps)
    assert covariance < CONTRACT


@pytest.mark.slow
@every_family
def test_many_rows_do_not_wear_float32_sums_out(family, device):
    case = Case("many", 8, 100, 2, 100, k=3, n=300_000)
    case = case.of(family)
    x, start = case.rows(torch.float32), case.start(family)
    exact, _ = one_step(x.double(), start, device=device)
    mean, covariance = whitened_errors(one_step(x, start, device=device)[0], exact)
    assert mean < CONTRACT
    assert covariance < CONTRACT
