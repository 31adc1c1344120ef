"""Options, the hypothesis profiles and the fixtures that every suite shares."""

import os
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

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


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    absent = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(absent)


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("--device"))


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
