"""What the contracts do not see of features formed in registers: tiles, slabs, that they are."""

import importlib.util

import pytest
import torch

from tests.algebra.common import Largest
from tests.cases import FAMILIES, Case, drawn
from tests.kernels.common import agrees, fits_as_dense
from torchgmm import InputError
from torchgmm.errors import MissingExtraError
from torchgmm.kernels import Dense, Quadratic, Triton, TritonQuadratic, as_kernel

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.usefixtures("launchable")

APART = Case("apart", 16, 0, 100, 10)
BLURRED = Case("blurred", 6, 0, 1, 4, k=3, n=1300)


@pytest.fixture(autouse=True)
def _nobody_takes_over(monkeypatch):
    """What these products would round is small: another kernel must not have made the answer."""

    def refused(*arguments):
        raise AssertionError("refused")

    monkeypatch.setattr(Triton, "accumulate", refused)


@pytest.fixture
def compiled_tiles(monkeypatch):
    """Tiles as on a GPU, whose kernels still run in the interpreter where there is none."""
    from torchgmm.kernels import triton_quadratic

    monkeypatch.setattr(triton_quadratic, "interpreted", lambda: False)


def near(family, k, d, batch=()):
    """A mixture of little separation: float32 products of many features keep its digits too."""
    p = drawn(family, k, d, batch, condition=2.0)
    return type(p)(p.logits, p.means / 4, torch.zeros_like(p.scale), p.family)


def compare(p, n, device, weighted=True, own_rows=False, budget=None, dtype=torch.float32):
    g, batch = torch.Generator().manual_seed(0), p.batch_shape if own_rows else ()
    x = torch.randn(*batch, n, p.n_features, generator=g, dtype=torch.float64).to(dtype)
    w = torch.rand(*batch, n, generator=g, dtype=torch.float64).to(dtype) if weighted else None
    q, there = p.to(device=device), None if w is None else w.to(device)
    kernel, rows = TritonQuadratic(budget), x.to(device)
    assert kernel.plan(rows, q).dtypes[0] == dtype
    got = kernel.accumulate(rows, there, q)
    agrees(got, Dense().accumulate(x, w, p), {torch.float32: 2e-5, torch.float64: 1e-11}[dtype])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_the_definition(family, weighted, device):
    compare(near(family, 3, 4), 300, device, weighted)


@pytest.mark.parametrize("family", ["full", "diagonal", "spherical", "tied"])
@pytest.mark.parametrize("own_rows", [False, True], ids=["shared rows", "own rows"])
def test_batches(family, own_rows, device):
    compare(near(family, 2, 3, (2, 2)), 70, device, own_rows=own_rows)


@pytest.mark.parametrize("family", ["full", "diagonal", "spherical"])
@pytest.mark.parametrize("slab", [512, 1024])  # 1024: longer than what is left of the buffers
@pytest.mark.parametrize("times", [0, 100])  # responsibilities are made once, or for every tile
def test_chunks_and_slabs_add_up(family, slab, times, monkeypatch, device):
    from torchgmm.kernels import triton_quadratic

    p = near(family, 3, 4)
    monkeypatch.setattr(triton_quadratic, "_PROGRAMS", 1)
    monkeypatch.setattr(triton_quadratic, "_LARGEST_SLAB", {torch.float32: slab})
    monkeypatch.setattr(triton_quadratic, "_TIMES", {torch.float32: times})
    compare(p, 1300, device)
    compare(p, 1300, device, budget=1)  # chunks of 512 rows, 512, and some


@pytest.mark.parametrize(
    ("family", "d", "k", "n", "dtype"),
    [  # rows, components and features past whole tiles
        ("full", 7, 3, 90, torch.float32),
        ("diagonal", 35, 70, 40, torch.float32),  # more than 64 components
        ("spherical", 70, 5, 70, torch.float32),
        ("full", 7, 35, 40, torch.float64),
    ],
)
def test_tiles_of_a_gpu_give_the_same(family, d, k, n, dtype, compiled_tiles, device):
    compare(near(family, k, d), n, device, dtype=dtype)


def test_many_features_share_responsibilities(compiled_tiles, device):
    from torchgmm.kernels import triton_quadratic

    d = 24  # 324 features: past what an exponential is made again for
    width = triton_quadratic.usual_tiles(3, 324, torch.float32)[1].sizes[2]
    assert 324 // width > triton_quadratic._TIMES[torch.float32]
    compare(near("full", 3, d), 70, device)


def test_no_tensor_has_all_features_of_all_rows(device):
    d, n = 24, 4096
    p = near("full", 2, d).to(device=device)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(device)
    sizes = []
    for kernel in (Quadratic(2**30), TritonQuadratic(2**30)):
        with Largest() as seen:
            kernel.accumulate(x, None, p)
        sizes.append(8 * seen.entries)
    features = 4 * n * (d * (d + 3) // 2 + 1)
    assert sizes[0] >= features  # so that this sees it
    assert sizes[1] < features / 4


@pytest.mark.parametrize("precision", ["tf32x3", "tf32", "bf16"])
def test_other_precisions_have_names(precision, device):
    kernel = as_kernel(f"triton_quadratic:{precision}")
    assert kernel.ran == f"triton_quadratic:{precision}"
    if precision == "bf16" and device.type == "cpu":
        pytest.skip("the interpreter has no bfloat16 products")
    # the interpreter knows float32 for both tf32s; on a GPU they keep 10 bits of a product
    rough = {"tf32x3": 1e-5, "tf32": 1e-2, "bf16": 5e-2}[precision]
    p = near("full", 2, 4)
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    agrees(
        kernel.accumulate(x.to(device), None, p.to(device=device)),
        Dense().accumulate(x, None, p),
        rough,
    )


def test_a_fit_by_name_is_the_fit_of_dense(device):
    fits_as_dense("triton_quadratic", BLURRED, device)


def test_what_would_lose_digits_is_multiplied_in_float64_where_that_is_quick(monkeypatch, device):
    from torchgmm.kernels import formed, triton_quadratic

    x, p = APART.rows(torch.float32), APART.start("full")
    rows, q = x.to(device), p.to(device=device)
    monkeypatch.setattr(formed, "_is_quick", lambda device: True)
    found = TritonQuadratic().accumulate(rows, None, q)
    agrees(found, Dense().accumulate(x.double(), None, p))
    monkeypatch.setattr(triton_quadratic, "_TIMES", {torch.float64: 0})
    agrees(TritonQuadratic().accumulate(rows, None, q), found)
    monkeypatch.setattr(formed, "_is_quick", lambda device: False)
    with pytest.raises(AssertionError, match="refused"):
        TritonQuadratic().accumulate(rows, None, q)


def test_where_float64_is_quick(monkeypatch):
    from torchgmm.kernels import formed

    found = []
    for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        found.append(formed._is_quick(torch.device("cuda")))
    assert found == [True, False, False, True, True, False]


@pytest.mark.parametrize("ask", ["accumulate", "log_joint"])
def test_rows_on_the_cpu_are_refused_unless_interpreted(ask, monkeypatch):
    x, p, kernel = BLURRED.rows(), BLURRED.start("full"), TritonQuadratic()
    calls = {
        "accumulate": lambda: kernel.accumulate(x, None, p),
        "log_joint": lambda: list(kernel.log_joint(x, p)),
    }
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match="'triton_quadratic' runs on CUDA devices"):
        calls[ask]()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="gpu"):
        calls[ask]()
