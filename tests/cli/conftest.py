"""A fit that the tests of the command line share."""

import numpy as np
import pytest

from tests.cli.common import PLAIN
from torchgmm.cli import main


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(0)
    return np.concatenate([generator.normal(0, 1, (60, 3)), generator.normal(6, 2, (40, 3))])


@pytest.fixture(scope="session")
def folder(tmp_path_factory, rows):
    """A folder with rows.npy and a fit of it, `fitted/`."""
    here = tmp_path_factory.mktemp("cli")
    np.save(here / "rows.npy", rows)
    words = ["fit", "--data", str(here / "rows.npy"), *PLAIN]
    assert main([*words, "--out", str(here / "fitted")]) == 0
    return here


@pytest.fixture
def data(folder):
    return ["--data", str(folder / "rows.npy")]


@pytest.fixture
def mixture_file(folder):
    return str(folder / "fitted" / "mixture.safetensors")
