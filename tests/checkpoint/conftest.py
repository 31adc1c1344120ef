"""A checkpoint that the tests of the file share."""

import pytest

from tests.checkpoint.common import cut
from torchgmm import IncrementalEM


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "fit.safetensors"
    cut(path, IncrementalEM(max_iter=5, n_blocks=3), 2, 2, n_init=2)
    return path
