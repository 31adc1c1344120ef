"""Which kernel `auto` takes, what `quadratic` refuses, and where its float32 ends."""

import pytest
import torch

from tests.cases import FAMILIES, Case
from tests.contracts.test_precision import CONTRACT, whitened_errors
from tests.kernels.common import agrees
from torchgmm import EM, GaussianMixture
from torchgmm.kernels import Dense, Quadratic, as_kernel
from torchgmm.parameters import from_moments

APART = Case("apart", 32, 0, 30, 10, k=80, n=20_000)
BLURRED = Case("blurred", 32, 0, 1, 4, k=8, n=20_000)
ILL = Case("ill-conditioned", 64, 0, 1, 1e4, k=3, n=10_000)


def ran(case, family, dtype=torch.float32):
    kernel = as_kernel("auto")
    kernel.accumulate(case.rows(dtype), None, case.start(family))
    return kernel.ran


@pytest.mark.parametrize(
    ("case", "family", "expected"),
    [
        # so few rows that a look at what rounding allows costs more than it saves
        (Case("small", 2, 0, 3, 1, k=3, n=500), "full", "dense"),
        (Case("flat", 2, 0, 3, 1, k=8, n=50_000), "full", "quadratic"),
        (APART, "full", "screened"),
        (BLURRED, "full", "quadratic"),
        (ILL, "full", "dense"),
        (BLURRED, "diagonal", "quadratic"),
        (BLURRED, "tied", "quadratic"),
        # so far apart that no product keeps the digits of a variance
        (Case("far", 4, 0, 3e5, 1, k=3, n=500), "diagonal", "dense"),
    ],
    ids=lambda value: str(value),
)
def test_auto_takes_what_suits(case, family, expected):
    assert ran(case, family) == expected


def test_the_result_says_which_kernel_ran():
    x = APART.rows(torch.float32)
    for name, expected in (("auto", "screened"), ("quadratic", "quadratic"), ("dense", "dense")):
        mixture = GaussianMixture(APART.k)
        result = mixture.fit(x, EM(max_iter=2, kernel=name), init=APART.start("full"))
        assert {step.kernel for step in result.history} == {expected}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("separation", [1, 3, 10, 30, 100, 300, 1000])
@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("n", [500, 20_000])
def test_quadratic_keeps_the_contract_on_both_sides_of_its_limit(family, separation, d, n):
    """From where float32 products are exact enough to where they are refused."""
    case = Case("edge", d, 0, separation, 10, k=4, n=n)
    x, p = case.rows(torch.float32), case.start(family)
    got, _ = from_moments(Quadratic().accumulate(x, None, p), p.family, 1e-6)
    exact, _ = from_moments(Dense().accumulate(x.double(), None, p), p.family, 1e-6)
    mean, covariance = whitened_errors(got, exact)
    assert mean < CONTRACT
    assert covariance < CONTRACT


@pytest.mark.parametrize(("separation", "fits"), [(1, True), (1000, False)])
def test_the_edge_of_float32_lies_within_the_table_above(separation, fits):
    case = Case("edge", 16, 0, separation, 10)
    x, p = case.rows(torch.float32), case.start("diagonal")
    assert (torch.float32 in Quadratic().plan(x, p).dtypes) == fits


def test_rows_far_from_where_the_mixture_expects_them_are_noticed():
    # the parameters promise rows about the origin; the sums tell that there are none
    case = Case("elsewhere", 3, 3e3, 3, 1, k=1)
    x = case.rows(torch.float32)
    p = Case("origin", 3, 0, 0, 1, k=1).start("diagonal")
    assert torch.float32 in Quadratic().plan(x, p).dtypes
    got, _ = from_moments(Quadratic().accumulate(x, None, p), p.family, 1e-6)
    exact, _ = from_moments(Dense().accumulate(x.double(), None, p), p.family, 1e-6)
    assert whitened_errors(got, exact)[1] < CONTRACT


# on a GPU -----------------------------------------------------------------------------------------


MANY = Case("many", 8, 0, 40, 2, k=300, n=4000)


@pytest.fixture
def on_gpu(monkeypatch, launchable):
    """The choice as it is made there; kernels run in Triton's interpreter where there is no GPU."""
    from torchgmm.kernels import auto, auto_gpu, screened

    monkeypatch.setattr(auto, "is_fused", lambda x, parameters: True)
    monkeypatch.setattr(screened, "is_grouped", lambda x: True)
    monkeypatch.setattr(auto_gpu, "_PLANNING", 0)  # what cannot pay on few rows
    return auto_gpu


def gpu_choice(case, family, device, dtype=torch.float32):
    kernel, x, p = as_kernel("auto"), case.rows(dtype), case.start(family)
    got = kernel.accumulate(x.to(device), None, p.to(device=device))
    agrees(got, Dense().accumulate(x, None, p), 1e-4 if dtype == torch.float32 else 1e-9)
    return kernel.ran


@pytest.mark.parametrize(
    ("case", "family", "expected"),
    [
        (Case("near", 8, 0, 1, 2, k=4, n=300), "full", "triton_quadratic"),
        (Case("near", 8, 0, 1, 2, k=4, n=300), "diagonal", "triton_quadratic"),
        (Case("near", 8, 0, 1, 2, k=4, n=300), "tied", "triton_quadratic"),
        # float32 would not do there; float64 does
        (Case("apart", 8, 0, 300, 2, k=4, n=300), "full", "triton_quadratic"),
        # so far apart that neither does
        (Case("far", 4, 0, 3e5, 1, k=3, n=300), "diagonal", "triton"),
    ],
    ids=lambda value: str(value),
)
def test_auto_on_a_gpu_takes_what_suits(case, family, expected, on_gpu, device):
    assert gpu_choice(case, family, device) == expected


def test_few_rows_are_not_worth_a_question(on_gpu, device, monkeypatch):
    monkeypatch.undo()
    row, p = torch.zeros(1, 8, device=device), Case("near", 8, 0, 1, 2, k=4).start("full")
    choice, q = on_gpu.AutoGPU()._quadratic, p.to(device=device)
    assert choice(row.expand(10**4, 8), q) is None
    assert choice(row.expand(10**7, 8), q) is not None


def test_float64_is_left_to_devices_that_are_quick_in_it(on_gpu, device, monkeypatch):
    from torchgmm.kernels import formed

    monkeypatch.setattr(formed, "_is_quick", lambda device: False)
    apart = Case("apart", 8, 0, 300, 2, k=4, n=300)
    assert gpu_choice(apart, "full", device) == "triton"


def test_many_components_are_screened_where_a_probe_pays(on_gpu, device, monkeypatch):
    assert gpu_choice(MANY, "full", device) != "screened"  # a thousand times too few rows
    monkeypatch.setattr(on_gpu, "_PROBE", 0)
    monkeypatch.setattr("torchgmm.kernels.screened._PROBE_CUBIC", 0)
    assert gpu_choice(MANY, "full", device) == "screened"
    blurred = Case("blurred", 8, 0, 0.1, 1, k=300, n=4000)  # nothing to dismiss
    assert gpu_choice(blurred, "full", device) != "screened"
    assert gpu_choice(Case("few", 8, 0, 40, 2, k=30, n=4000), "full", device) != "screened"


def test_many_components_leave_products_to_the_library(on_gpu, device):
    wide = Case("wide", 32, 0, 1, 2, k=600, n=200)
    assert gpu_choice(wide, "full", device) == "quadratic"


def test_what_the_library_cannot_do_triton_does(on_gpu, device, monkeypatch):
    from torchgmm.kernels import quadratic

    monkeypatch.setattr(quadratic, "_sums", lambda *given: None)  # the rows turn out to lie badly
    taken = []
    own = on_gpu.Triton.accumulate
    monkeypatch.setattr(
        on_gpu.Triton, "accumulate", lambda self, *given: taken.append(1) or own(self, *given)
    )
    gpu_choice(Case("wide", 32, 0, 1, 2, k=600, n=200), "full", device)
    assert taken == [1]
