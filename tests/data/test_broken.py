"""Files that break: the error names file and rows, and the fit ends cleanly."""

import threading
from functools import partial

import numpy as np
import pytest

import torchgmm as tg
from tests.data.common import all_rows, write_parquet
from torchgmm import InputError
from torchgmm.data import ShardSource, as_source
from torchgmm.errors import MissingExtraError


def vanish(path):
    path.unlink()


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])


def garbled(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 8 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 8)
    path.write_bytes(content)


def save(path, rows):
    """Rows in the format of the suffix."""
    writers = {
        ".npy": np.save,
        ".npz": partial(np.savez_compressed),
        ".csv": lambda p, x: np.savetxt(p, x, delimiter=",", header="a,b,c", comments=""),
        ".parquet": lambda p, x: write_parquet(
            p, {f"c{j}": x[:, j] for j in range(3)}, row_group_size=20, compression="gzip"
        ),
        ".safetensors": lambda p, x: pytest.importorskip("safetensors.numpy").save_file(
            {"x": x}, p
        ),
    }
    writers[path.suffix](path, rows)


SUFFIXES = [".npy", ".npz", ".csv", ".parquet", ".safetensors"]


@pytest.mark.parametrize("harm", [vanish, cut_short])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_shard_that_breaks_in_the_middle_of_a_pass(tmp_path, rows, suffix, harm):
    for i in range(3):
        save(tmp_path / f"part-{i}{suffix}", rows)
    source = ShardSource(tmp_path, block_rows=40)
    blocks = source.blocks()
    assert next(blocks).start == 0
    harm(tmp_path / f"part-1{suffix}")
    with pytest.raises(InputError, match=rf"rows \d+\.\.\d+ of .*part-1\{suffix} ") as caught:
        list(blocks)
    assert caught.value.__cause__ is not None
    save(tmp_path / f"part-1{suffix}", rows)  # mended
    assert len(all_rows(source)) == 300


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_shard_that_is_cut_short_before_it_is_opened(tmp_path, rows, suffix):
    path = tmp_path / f"part-1{suffix}"
    save(tmp_path / f"part-0{suffix}", rows)
    save(path, rows)
    cut_short(path)
    if suffix == ".csv":  # lines are not counted anywhere, but the last one is torn
        path.write_bytes(path.read_bytes().rsplit(b",", 1)[0])
    with pytest.raises(InputError, match=rf"part-1\{suffix}"):
        as_source(tmp_path)


def test_how_much_of_a_table_is_missing(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    cut_short(tmp_path / "x.npy")
    with pytest.raises(InputError, match=r"rows 73\.\.99 of .*x\.npy are missing"):
        as_source(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_garbled_content(tmp_path, rows, suffix):
    save(tmp_path / f"x{suffix}", rows)
    garbled(tmp_path / f"x{suffix}")
    with pytest.raises(InputError, match=rf"x\{suffix}"):
        all_rows(ShardSource(tmp_path, block_rows=10))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_that_was_replaced_by_another(tmp_path, rows, suffix):
    save(tmp_path / f"x{suffix}", rows)
    source = ShardSource(tmp_path)
    save(tmp_path / f"x{suffix}", np.concatenate([rows[:1], rows[:60]]))
    with pytest.raises(InputError, match=rf"rows 0\.\.99 of .*x\{suffix} cannot be read"):
        all_rows(source)


def test_a_fit_ends_with_the_error_and_without_its_thread(shards):
    source = ShardSource(shards, block_rows=5)
    vanish(shards / "part-2.npy")
    with pytest.raises(InputError, match=r"rows \d+\.\.\d+ of .*part-2\.npy") as caught:
        tg.GaussianMixture(2).fit(source, init="random", generator=0)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert "torchgmm-reader" not in {thread.name for thread in threading.enumerate()}


def test_reading_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").touch()
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtraError, match=r"x\.parquet needs the package 'pyarrow'"):
        as_source(tmp_path / "x.parquet")
