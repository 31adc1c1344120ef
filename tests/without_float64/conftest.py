"""The device, for as long as a test runs."""

import pytest

from tests.without_float64 import apple


@pytest.fixture
def far(monkeypatch):
    with apple.device(monkeypatch) as told:
        yield told
