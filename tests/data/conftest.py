"""Some rows, and the same in shards."""

import numpy as np
import pytest

from tests.cases import blobs


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((100, 3))


@pytest.fixture
def shards(tmp_path, rows):
    """part-0.npy to part-3.npy, of 25 rows each."""
    for i in range(4):
        np.save(tmp_path / f"part-{i}.npy", rows[25 * i : 25 * (i + 1)])
    return tmp_path


@pytest.fixture
def x():
    return blobs(100, 3, 2)
