"""Options, the hypothesis profiles and the fixtures that every suite shares."""

import importlib.util
import os
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Kernels that are written for a GPU run in Triton's interpreter where there is none. It must be
# asked for before anything imports Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent

# One outcome per commit: CI draws the same examples every time. `--hypothesis-profile=explore`
# draws many new ones, to look for what those missed.
settings.register_profile(
    "repeatable",
    deadline=None,  # a shared machine stalls for longer than any example takes
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "explore", settings.get_profile("repeatable"), derandomize=False, max_examples=500
)
settings.load_profile("repeatable")


# The problems here are small: on a busy machine a second thread is waited for, not worked with
# (measured on two cores with a load of 7: 353 s with two threads, 10 s with one).
torch.set_num_threads(1)
# nor do the processes that tests start take more than their part of the cores
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the contract suites put their tensors")


# Which of their tables are no slow tests: an interpreted E-step takes a tenth of a second. The
# families take every path between them.
_INTERPRETED = (
    ("family", "diagonal", "full", "tied"),
    ("dtype", torch.float32),
    ("case", "unit-blobs", "offset1e3-cond1e4", "offset3e4"),
    ("width", 1.0, "unit"),
    ("offset", 3e3),
    ("batch", (2,)),
    ("budget", 10_000),
)

# Of the kernel that forms quadratic features one family per form of them is interpreted, in float64
# the first: the others take the same paths. On a GPU all are run.
_FORMS = ("full", "diagonal", "spherical", "tied")


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` is obeyed
def pytest_collection_modifyitems(config, items):
    on_gpu = torch.device(config.getoption("--device")).type == "cuda"
    absent = pytest.mark.skip(reason="no CUDA device")
    left_out = [] if on_gpu else [item for item in items if _is_same_path(item)]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]
    for item in items:
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(absent)
        asked = getattr(item, "callspec", None)
        if asked is not None and str(asked.params.get("kernel")).startswith("triton"):
            _mark_fused(item, asked.params, on_gpu)


def _is_same_path(item):
    asked = getattr(item, "callspec", None)
    if asked is None or asked.params.get("kernel") != "triton_quadratic":
        return False
    family, dtype = (asked.params.get(name) for name in ("family", "dtype"))
    forms = _FORMS if dtype != torch.float64 else _FORMS[:1]
    return isinstance(family, str) and family not in forms


def _mark_fused(item, asked, on_gpu):
    """Skip tests of the fused kernel where it cannot run; interpreted, keep to a few of them."""
    if importlib.util.find_spec("triton") is None:
        item.add_marker(pytest.mark.skip(reason="Triton is not installed"))
    elif on_gpu:
        return
    elif torch.cuda.is_available():
        item.add_marker(pytest.mark.skip(reason="runs on the GPU: --device cuda"))
    else:
        if any(name in asked and _plain(asked[name]) not in few for name, *few in _INTERPRETED):
            item.add_marker(pytest.mark.slow)


def _plain(value):
    return str(value) if type(value).__name__ == "Case" else value


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def launchable(device):
    """Triton, on the GPU or in its interpreter: it cannot have both in one process."""
    pytest.importorskip("triton", reason="Triton is not installed")
    if device.type == "cpu" and torch.cuda.is_available():
        pytest.skip("runs on the GPU: --device cuda")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _same_global_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quiet_about_convergence():
    """Most fits here are cut short on purpose; tests of the warning itself use pytest.warns."""
    from torchgmm import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@pytest.fixture
def root():
    """The folder of the checkout: README, configs."""
    return ROOT
