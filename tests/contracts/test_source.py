"""The contract of a source: whatever rows lie in, what comes out equals the array."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tests.cases import blobs, drawn
from torchgmm.data import (
    ArraySource,
    Block,
    Checked,
    DatasetSource,
    Encoded,
    LoaderSource,
    ShardSource,
    as_source,
)
from torchgmm.kernels import as_kernel

N, D = 700, 3
CUTS = (0, 10, 300, 301, 520, N)  # files of mixed sizes, one of a single row
BLOCK = 64  # several blocks per file, the last one ragged


class Data(NamedTuple):
    """The rows, their weights (some 0), and an empty folder to write them into."""

    x: torch.Tensor
    w: torch.Tensor
    folder: Path

    def shards(self, write):
        """The folder with one file per cut, by `write(path without suffix, x, w)`."""
        for i, (a, b) in enumerate(pairwise(CUTS)):
            write(self.folder / f"part-{i}", self.x[a:b].numpy(), self.w[a:b].numpy())
        return self.folder

    def table(self):
        """Rows with their weights as the last column."""
        return torch.cat([self.x, self.w[:, None]], 1)


def write_npy(path, x, w):
    np.save(path, x)
    path.parent.joinpath("weights").mkdir(exist_ok=True)
    np.save(path.parent / "weights" / path.name, w[:, None])


def write_npy_column(path, x, w):
    np.save(path, np.asfortranarray(np.column_stack([w, x])))


def write_npz(path, x, w):
    np.savez(path, rows=np.column_stack([x, w]))


def write_npz_small(path, x, w):
    np.savez_compressed(path, rows=np.column_stack([x, w]))


def write_safetensors(path, x, w):
    save = pytest.importorskip("safetensors.numpy").save_file
    save({"rows": np.column_stack([x, w]), "other": w}, f"{path}.safetensors")


def write_csv(path, x, w):
    columns = np.column_stack([x, w])
    np.savetxt(f"{path}.csv", columns, "%.17g", ",", header="a,b,c,weight", comments="")


def write_parquet(path, x, w):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {"text": ["t"] * len(x), "weight": w} | {f"c{j}": x[:, j] for j in range(D)}
    pq.write_table(pa.table(columns), f"{path}.parquet", row_group_size=90)


def write_parquet_lists(path, x, w):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)
    pq.write_table(pa.table({"rows": lists}), f"{path}.parquet", row_group_size=90)


def files(write, weights=None, **options):
    """A line of the table for shards; `weights` is a column, or a function of the data."""

    def made(data):
        folder = data.shards(write)
        w = weights(data) if callable(weights) else weights
        return ShardSource(folder, w, block_rows=BLOCK, **options)

    return made


class Items(Dataset):
    """Fetches dicts, one by one."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"row": self.data.x[i], "weight": self.data.w[i]}


class Stream(IterableDataset):
    """Gives single rows with their weights."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield from zip(self.data.x, self.data.w, strict=True)


class HuggingFace:
    """What `datasets.Dataset` shows of itself: columns, formats, slices and lists of numbers."""

    def __init__(self, columns, kind=np.asarray):
        self.columns, self.kind = columns, kind
        self.column_names = list(columns)

    def __len__(self):
        return N

    def with_format(self, name):
        assert name == "torch"
        return HuggingFace(self.columns, torch.as_tensor)

    def __getitem__(self, index):
        return {name: self.kind(column[index]) for name, column in self.columns.items()}


def hugging_face(data):
    columns = {f"c{j}": data.x[:, j].numpy() for j in range(D)} | {"w": data.w.numpy()}
    return as_source(HuggingFace(columns), "w", columns=["c0", "c1", "c2"])


def of_block_rows(source):
    source._block_rows = BLOCK
    return source


def batches(data, rows=7):
    return [Block(data.x[i : i + rows], data.w[i : i + rows], i) for i in range(0, N, rows)]


def pixels(data):
    """The rows as images, and the encoder that finds them again."""
    return data.x.reshape(N, 1, 1, D).expand(N, 2, 1, D), torch.nn.Flatten()


def encoded(source, encoder):
    return Encoded(source, lambda images: encoder(images)[:, :D], rows=50)


def encoded_array(data):
    images, encoder = pixels(data)
    source = ArraySource(images.numpy(), data.w, block_rows=BLOCK, rows_of_any_shape=True)
    return of_block_rows(encoded(source, encoder))


def encoded_loader(data):
    images, encoder = pixels(data)
    loader = DataLoader(TensorDataset(images, data.w), batch_size=32)
    return of_block_rows(encoded(LoaderSource(loader, 1, rows_of_any_shape=True), encoder))


SOURCES: dict[str, Callable] = {
    "tensor": lambda d: ArraySource(d.x, d.w, block_rows=BLOCK),
    "fortran": lambda d: ArraySource(np.asfortranarray(d.x), d.w.numpy(), block_rows=BLOCK),
    "npy": files(write_npy, lambda d: d.folder / "weights"),
    "npy-column": files(write_npy_column, 0),
    "npz": files(write_npz, -1),
    "npz-compressed": files(write_npz_small, 3, columns=[0, 1, 2]),
    "safetensors": files(write_safetensors, 3, name="rows"),
    "csv": files(write_csv, "weight"),
    "parquet": files(write_parquet, "weight"),
    "parquet-lists": files(write_parquet_lists, lambda d: d.w),
    "tensors": lambda d: of_block_rows(DatasetSource(TensorDataset(d.x, d.w), 1)),
    "items": lambda d: of_block_rows(DatasetSource(Items(d), "weight", key="row")),
    "hugging-face": lambda d: of_block_rows(hugging_face(d)),
    "iterable-data-set": lambda d: LoaderSource(Stream(d), 1),
    "loader": lambda d: LoaderSource(DataLoader(TensorDataset(d.x, d.w), 32), 1),
    "loader-dict": lambda d: LoaderSource(DataLoader(Items(d), 32), "weight", key="row"),
    "function": lambda d: LoaderSource(lambda: iter(batches(d))),
    "blocks": lambda d: LoaderSource(batches(d)),
    "encoded-array": encoded_array,
    "encoded-loader": encoded_loader,
}


@pytest.fixture
def data(tmp_path):
    w = torch.randint(3, (N,), generator=torch.Generator().manual_seed(5)).double()
    return Data(blobs(N, D, 4), w, tmp_path)


@pytest.fixture(params=SOURCES)
def source(request, data):
    return SOURCES[request.param](data)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Blocks, pieces of text and windows so small that every source cuts and joins."""
    monkeypatch.setattr("torchgmm.data.text._PIECE", 1500)
    monkeypatch.setattr("torchgmm.data.loaders._ROWS", BLOCK)
    monkeypatch.setattr("torchgmm.data.loaders._ITEMS", 30)
    monkeypatch.setattr("torchgmm.data.shards._UNIT_BYTES", 8 * D * 10)
    monkeypatch.setattr("torchgmm.data.base._WINDOW_ROWS", 200)


def joined(blocks):
    """Rows, weights and numbers of all blocks."""
    blocks = list(blocks)
    x, n = torch.cat([b.x for b in blocks]), torch.cat([b.numbers() for b in blocks])
    return x, torch.cat([b.w for b in blocks]), n


def assert_same(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        for one, other in zip(joined([a]), joined([b]), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def assert_rows_of(data, blocks):
    """Rows and weights are those of the array at the numbers that the blocks say."""
    x, w, numbers = joined(blocks)
    torch.testing.assert_close(x, data.x[numbers], rtol=0, atol=0)
    torch.testing.assert_close(w, data.w[numbers], rtol=0, atol=0)
    return numbers


def test_shape_and_dtype_are_known_beforehand(source):
    assert (source.n_features, source.dtype, source.replayable) == (D, torch.float64, True)
    assert source.n_rows in (N, None)


def test_blocks_are_the_rows_in_their_order_and_again(source, data):
    first, second = list(source.blocks()), list(source.blocks())
    assert len(first) > 3
    assert torch.equal(assert_rows_of(data, first), torch.arange(N))
    assert_same(first, second)


def test_the_first_block_is_not_lost(source, data):
    assert torch.equal(source.first().x, data.x[: len(source.first().x)])
    assert torch.equal(assert_rows_of(data, source.blocks()), torch.arange(N))


@pytest.mark.parametrize("skip", [1, 4, 1000])
def test_skipping_is_leaving_out_the_first_blocks(source, skip):
    assert_same(list(source.blocks(skip=skip)), list(source.blocks())[skip:])


def test_shuffled_is_all_rows(source, data):
    numbers = assert_rows_of(data, source.shuffled(seed=1, epoch=0))
    assert torch.equal(numbers.sort().values, torch.arange(N))


@pytest.mark.parametrize("rows", [1, 16, 100, 5000])
def test_batches_are_a_permutation_in_exact_sizes(source, data, rows):
    made = list(source.batches(rows, seed=1, epoch=0))
    numbers = assert_rows_of(data, made)
    assert torch.equal(numbers.sort().values, torch.arange(N))
    assert [len(b.x) for b in made[:-1]] == [rows] * (len(made) - 1)
    assert 0 < len(made[-1].x) <= rows


def test_batches_depend_on_seed_and_epoch_only(source):
    first = list(source.batches(50, seed=1, epoch=0))
    assert_same(first, list(source.batches(50, seed=1, epoch=0)))
    assert_same(first[5:], list(source.batches(50, seed=1, epoch=0, skip=5)))
    for seed, epoch in ((1, 1), (2, 0)):
        other = list(source.batches(50, seed=seed, epoch=epoch))
        assert not torch.equal(first[0].numbers(), other[0].numbers())


@pytest.mark.parametrize("world", [1, 2, 3, 20])  # 20: more than files, row groups or blocks
def test_shares_of_processes_are_all_rows_each_once(source, data, world):
    shares = [list(source.share(rank, world)) for rank in range(world)]
    numbers = assert_rows_of(data, [b for share in shares for b in share if len(b.x)])
    assert torch.equal(numbers.sort().values, torch.arange(N))
    sizes = [sum(len(b.x) for b in share) for share in shares]
    # by so much where whole files are spared, and a row for every block where all are read
    assert max(sizes) - min(sizes) <= 0.1 * N / world + len(list(source.blocks()))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("rows", [2, 100])
def test_shares_of_batches_are_the_batches(source, data, world, rows):
    batches = list(source.batches(rows, seed=1, epoch=0))
    shares = [
        list(source.share_of_batches(rows, rank, world, seed=1, epoch=0)) for rank in range(world)
    ]
    found = []
    for batch, *parts in zip(batches, *shares, strict=True):
        assert {part.whole for part in parts} == {int((batch.w > 0).sum())}
        assert max(len(part.x) for part in parts) <= len(batch.x) // world + 1
        some = [part for part in parts if len(part.x)]
        assert torch.equal(torch.cat([part.numbers() for part in some]), batch.numbers())
        found += some
    assert_rows_of(data, found)
    part = list(source.share_of_batches(rows, 1, world, seed=1, epoch=0, skip=3))
    assert [len(b.x) for b in part] == [len(b.x) for b in shares[1][3:]]


def test_batches_mix_distant_rows(source):
    """Rows sorted on disk: a batch sees most of the data's length."""
    numbers = [b.numbers() for b in source.batches(50, seed=1, epoch=0)]
    spread = [int(n.max() - n.min()) for n in numbers]
    # a window has 800 rows at least here (16 batches), so every batch may reach everywhere;
    # 50 uniform draws span less than half with probability 1e-13
    assert min(spread) > N / 2


@pytest.mark.parametrize("size", [1, 100, 10 * N])
def test_a_sample_has_different_rows_of_positive_weight(source, data, size):
    drawn_rows = source.sample(size, torch.Generator().manual_seed(3))
    numbers = assert_rows_of(data, [drawn_rows])
    assert len(numbers) == len(set(numbers.tolist()))
    assert bool((drawn_rows.w > 0).all())
    assert len(numbers) == min(size, int((data.w > 0).sum()))


def test_a_sample_comes_from_everywhere_and_from_its_generator(source):
    draws = [source.sample(60, torch.Generator().manual_seed(3)).numbers() for _ in range(2)]
    assert torch.equal(*draws)
    # 60 uniform draws leave a given quarter empty with probability 3e-8
    assert len((draws[0] // (N // 4)).unique()) == 4
    other = source.sample(60, torch.Generator().manual_seed(4)).numbers()
    assert not torch.equal(draws[0], other)


def moments_of(source, parameters):
    """One E-step of exact EM, as a fit reads the source."""
    kernel, total = as_kernel("dense"), None
    for block in Checked(source, torch.float64, torch.device("cpu")).blocks():
        part = kernel.accumulate(block.x, block.w, parameters)
        total = part if total is None else total + part
    return total


@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_exact_em_sees_the_moments_of_the_array(source, data, family):
    parameters = drawn(family, 4, D)
    wanted = vars(moments_of(ArraySource(data.x, data.w), parameters))
    for name, found in vars(moments_of(source, parameters)).items():
        # sums of 700 rows, cut elsewhere: a few roundings of the largest
        tight = {"rtol": 1e-12, "atol": 1e-12 * float(wanted[name].abs().max())}
        torch.testing.assert_close(found, wanted[name], **tight)
