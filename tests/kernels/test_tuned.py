"""Tiles that were tuned: kept in a file, taken by kernels, of no effect on what they find."""

import json

import pytest
import torch

from tests.cases import drawn
from tests.kernels.common import FIELDS, agrees
from torchgmm.kernels import Dense, Triton, TritonQuadratic

pytest.importorskip("triton", reason="Triton is not installed")

CPU = torch.device("cpu")


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    from torchgmm.kernels import triton_tuned as tuned

    monkeypatch.setenv("TORCHGMM_TILES", str(tmp_path / "caches" / "tiles.json"))
    return tuned


def use_of(tuned, sizes=(16,), dtype=torch.float32):
    return tuned.Use("matrix", sizes, dtype)


def some(*sizes, warps=4):
    from torchgmm.kernels.triton_launch import Tile

    return Tile(sizes, warps)


def test_what_is_saved_is_taken_from_then_on(tuned):
    use, other = use_of(tuned), use_of(tuned, (32,))
    usual, best = (some(64, 16, 16),) * 2, (some(32, 16, 16, warps=8), some(64, 32, 16))
    assert tuned.tuned(use, CPU, usual) == usual
    assert tuned.save(CPU, {use: best}) == tuned.path()
    assert tuned.tuned(use, CPU, usual) == best
    assert tuned.tuned(other, CPU, usual) == usual
    assert tuned.tuned(use_of(tuned, dtype=torch.float64), CPU, usual) == usual
    tuned.save(CPU, {other: usual})  # adds to what is there
    assert tuned.tuned(use, CPU, usual) == best
    assert tuned.tuned(use, torch.device("meta"), usual) == usual  # tuned for a device of its own


def test_tiles_of_another_form_are_not_taken(tuned):
    tuned.save(CPU, {use_of(tuned): (some(64, 16),)})
    usual = (some(64, 16, 16),)
    assert tuned.tuned(use_of(tuned), CPU, usual) == usual


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "3", '{"version": 1}', '{"version": 1, "devices": {"cpu": 3}}',
        '{"version": 1, "devices": {"cpu": {"matrix": [[[64, 16, 17], 4, 2]]}}}',
        '{"version": 1, "devices": {"cpu": {"matrix": [[[64, 16, 16], "4", 2]]}}}',
        '{"version": 1, "devices": {"cpu": {"matrix": [[64, 16, 16]]}}}',
    ],
)  # fmt: skip
def test_a_file_that_holds_something_else_is_told_and_left_alone(text, tuned):
    tuned.path().parent.mkdir()
    tuned.path().write_text(text)
    usual = (some(64, 16, 16),)
    with pytest.warns(RuntimeWarning, match="holds no tiles that can be read"):
        assert tuned.tuned(use_of(tuned), CPU, usual) == usual
    assert tuned.path().read_text() == text


def test_a_file_of_another_version_is_not_read(tuned):
    use, usual = use_of(tuned), (some(64, 16, 16),)
    tuned.save(CPU, {use: (some(32, 16, 16),)})
    held = json.loads(tuned.path().read_text())
    tuned.path().write_text(json.dumps(held | {"version": held["version"] + 1}))
    tuned._read.cache_clear()
    assert tuned.tuned(use, CPU, usual) == usual


@pytest.mark.usefixtures("launchable")
@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_kernels_take_them_and_find_the_same(family, tuned, device):
    from torchgmm.kernels import triton_quadratic, triton_tiles

    k, d = 3, 5
    p = drawn(family, k, d)
    x = torch.randn(300, d, generator=torch.Generator().manual_seed(0))
    expected, size = Dense().accumulate(x, None, p), 20 if family == "full" else 10
    of_pass = triton_tiles.use_of(k, d, x.dtype, "ieee", is_matrix=family == "full")
    of_formed = triton_quadratic.use_of(k, size, x.dtype, "ieee")
    small = (some(32, 16, 16),) * 2 if family == "full" else (some(32, 4, 1), some(1, 4, 8))
    rows, q = x.to(device), p.to(device=device)
    for kernel, use, tiles in (
        (Triton(), of_pass, small), (TritonQuadratic(), of_formed, (some(32, 16, 16),) * 2)
    ):  # fmt: skip
        before = kernel.accumulate(rows, None, q)
        tuned.save(device, {use: tiles})
        after = kernel.accumulate(rows, None, q)
        agrees(after, expected)
        # other sums: it did take them
        assert any(not torch.equal(getattr(before, f), getattr(after, f)) for f in FIELDS)
        with tuned.trying(use, tiles):
            again = kernel.accumulate(rows, None, q)
        assert all(torch.equal(getattr(again, f), getattr(after, f)) for f in FIELDS)
