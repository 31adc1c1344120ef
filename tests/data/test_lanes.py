"""Columns of parquet files decoded by several threads: the same rows, the same errors."""

import threading

import numpy as np
import pytest
import torch

from tests.data.common import write_parquet
from torchgmm import InputError
from torchgmm.data import ShardSource, parquet
from torchgmm.data.decoding import together

N = 5000


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    """So many threads, also for blocks that are too small for several."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(parquet, "_SHARED_FROM", 1)
    return request.param


def columns():
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((N, 5)).astype(np.float32)
    return {
        **{f"x{j}": numbers[:, j] for j in range(5)},
        "half": rng.standard_normal(N).astype(np.float16),
        "whole": rng.integers(-1000, 1000, N).astype(np.int16),
        "yes": rng.random(N) < 0.5,
        "w": rng.random(N),
    }


@pytest.mark.parametrize("row_group_size", [7, 700, 4096, 10_000])
@pytest.mark.parametrize("block_rows", [300, 1024, 9000])
def test_rows_do_not_depend_on_threads_groups_and_blocks(
    tmp_path, threads, row_group_size, block_rows
):
    table = columns()
    write_parquet(tmp_path / "x.parquet", table, row_group_size=row_group_size)
    chosen = ["whole", "x3", "half", "x0", "yes"]
    source = ShardSource(tmp_path / "x.parquet", "w", columns=chosen, block_rows=block_rows)
    blocks = list(source.blocks())
    assert [b.start for b in blocks] == list(range(0, N, block_rows))
    got = torch.cat([b.x for b in blocks]).double()
    want = np.stack([table[name].astype(np.float64) for name in chosen], 1)
    assert torch.equal(got, torch.from_numpy(want))
    assert torch.equal(torch.cat([b.w for b in blocks]), torch.from_numpy(table["w"]))
    some = source.take(torch.tensor([4321, 17, N - 1]))
    assert torch.equal(some.x.double(), torch.from_numpy(want[[4321, 17, N - 1]]))


def test_integers_of_which_one_is_missing_are_numbers_in_every_lane(tmp_path, threads):
    """Only the lane of that column sees it."""
    whole = np.arange(4 * N).reshape(4, N)
    table = {f"x{j}": column for j, column in enumerate(whole)}
    table["x2"] = [None if i == 1234 else int(v) for i, v in enumerate(whole[2])]
    write_parquet(tmp_path / "x.parquet", table, row_group_size=1000)
    blocks = list(ShardSource(tmp_path / "x.parquet", block_rows=1000).blocks())
    got = torch.cat([b.x.double() for b in blocks])
    want = torch.from_numpy(whole.T).double()
    want[1234, 2] = np.nan
    assert torch.equal(got.nan_to_num(-1), want.nan_to_num(-1))
    assert got.isnan().sum() == 1


def test_lists_share_a_block_with_numbers(tmp_path, threads):
    rng = np.random.default_rng(1)
    table = {"a": list(rng.random((N, 3))), "b": rng.random(N), "c": list(rng.random((N, 2)))}
    write_parquet(tmp_path / "x.parquet", table, row_group_size=900)
    got = torch.cat([b.x for b in ShardSource(tmp_path / "x.parquet", block_rows=777).blocks()])
    want = np.concatenate([np.stack(table["a"]), table["b"][:, None], np.stack(table["c"])], 1)
    assert torch.equal(got, torch.from_numpy(want))


def test_an_error_in_one_lane_names_the_rows_and_leaves_no_thread(tmp_path, threads):
    ragged = [[1.0, 2.0]] * N
    ragged[3210] = [1.0]
    table = {"a": np.zeros(N), "b": np.zeros(N), "c": ragged}
    write_parquet(tmp_path / "x.parquet", table, row_group_size=500)
    before = set(threading.enumerate())
    blocks = ShardSource(tmp_path / "x.parquet", block_rows=1000).blocks()
    for _ in range(3):
        next(blocks)
    with pytest.raises(InputError, match=r"rows 3000\.\.3999 of .*x\.parquet .*different lengths"):
        next(blocks)
    assert set(threading.enumerate()) == before


def test_a_reader_that_is_left_early_leaves_no_thread(tmp_path, threads):
    write_parquet(tmp_path / "x.parquet", columns(), row_group_size=500)
    before = set(threading.enumerate())
    blocks = ShardSource(tmp_path / "x.parquet", block_rows=100).blocks()
    next(blocks)
    blocks.close()
    assert set(threading.enumerate()) == before


def test_row_groups_are_opened_together_up_to_a_limit():
    edges = [0, 40_000, 60_000, 65_536, 65_537, 200_000, 200_001]
    assert together(range(6), edges) == [[0, 1, 2], [3], [4], [5]]
    assert together([1, 2, 3], edges) == [[1, 2, 3]]
    assert together([], edges) == []
