"""Memory of blocks: it comes back when nobody looks at it, and not before."""

import copy
import gc
import threading

import numpy as np
import pytest
import torch

from tests.data.common import write_parquet
from torchgmm.buffers import Buffers
from torchgmm.data import ShardSource

F32 = np.dtype(np.float32)


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_the_last_view_is_gone():
    buffers = Buffers()
    first = buffers.empty((100, 3), F32)
    where = address(first)
    view = torch.from_numpy(first.T)[1:, 5:]
    view.fill_(7)
    del first
    gc.collect()
    other = buffers.empty((100, 3), F32)
    assert address(other) != where  # a slice of a tensor still looks at it
    assert bool((view == 7).all())
    del view
    gc.collect()
    assert address(buffers.empty((90, 3), F32)) == where


def test_a_slice_of_the_array_keeps_it_too():
    buffers = Buffers()
    part = buffers.empty((10, 3), F32)[2:4]
    gc.collect()
    assert address(buffers.empty((10, 3), F32)) != address(part) - 2 * 3 * 4


def test_sizes_that_do_not_fit_are_not_used():
    buffers = Buffers()
    for rows in (1000, 10, 2000):
        array = buffers.empty((rows, 3), F32)
        array[:] = 1  # all of it is there
        assert array.shape == (rows, 3)
        assert array.flags.writeable
        del array
    assert buffers.empty((0, 3), F32).shape == (0, 3)
    assert isinstance(copy.deepcopy(buffers), Buffers)


def test_threads_do_not_get_the_same_memory():
    buffers, wrong = Buffers(), []

    def work(number):
        for _ in range(300):
            array = buffers.empty((50, 2), F32)
            array.fill(number)
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", ["npy", "fortran", "parquet"])
def test_blocks_that_are_kept_are_not_written_over(kind, tmp_path):
    x = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    if kind == "parquet":
        columns = {f"x{j}": x[:, j] for j in range(3)}
        write_parquet(tmp_path / "x.parquet", columns, row_group_size=300)
    else:
        np.save(tmp_path / "x.npy", np.asfortranarray(x) if kind == "fortran" else x)
    source = ShardSource(tmp_path, block_rows=170)
    kept = [block.x for block in source.blocks()] + [block.x for block in source.blocks()]
    assert torch.equal(torch.cat(kept), torch.from_numpy(np.concatenate([x, x])))
    batches = list(source.batches(64, seed=0, epoch=0))
    assert sorted(torch.cat([b.x for b in batches])[:, 0].tolist()) == sorted(x[:, 0].tolist())


@pytest.mark.parametrize("start", [0, 299, 300, 1234])
def test_parquet_blocks_begin_and_end_where_they_are_asked_to(start, tmp_path):
    x = np.arange(6000, dtype=np.float64).reshape(2000, 3)
    columns = {f"x{j}": x[:, j] for j in range(3)}
    write_parquet(tmp_path / "x.parquet", columns, row_group_size=300)
    source = ShardSource(tmp_path, block_rows=77)
    for stop in (start + 1, start + 77, start + 301, 2000):
        got = source.rows(start, min(stop, 2000))
        assert torch.equal(got, torch.from_numpy(x[start:stop]))
