"""Pages of parquet files that are read without a decoder: the same rows, or left to pyarrow."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.common import all_rows, write_parquet
from torchgmm import InputError
from torchgmm.data import ShardSource, pages, parquet

pq = pytest.importorskip("pyarrow.parquet")

N = 2000
PLAIN = {"compression": "none", "use_dictionary": False, "row_group_size": 700}


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """Small row groups too, though for them it does not pay; and each of them by itself."""
    monkeypatch.setattr(pages, "_LEAST_ROWS", 1)
    monkeypatch.setattr(parquet, "together", lambda groups, edges: [[g] for g in groups])


@pytest.fixture
def read(monkeypatch):
    """Names nothing: counts the columns of row groups that were read without pyarrow."""
    counted = []
    put = pages.Stored.put
    monkeypatch.setattr(pages.Stored, "put", lambda s, x, c: (counted.append(c), put(s, x, c))[1])
    return counted


def columns(*kinds):
    rng = np.random.default_rng(0)
    return {f"x{i}": (rng.standard_normal(N) * 1e4).astype(kind) for i, kind in enumerate(kinds)}


def expected(table):
    return torch.from_numpy(np.stack([c.astype(np.float64) for c in table.values()], 1))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    "more", [{}, {"data_page_size": 400, "write_batch_size": 64}, {"write_page_checksum": True}]
)
@pytest.mark.parametrize("kinds", [["f4"] * 5, ["f8", "f8"], ["i4", "f4"], ["i8", "i8", "i4"]])
@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_as_they_are_are_read_as_they_are(
    tmp_path, read, monkeypatch, version, more, kinds, threads
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(parquet, "_SHARED_FROM", 1)
    table = {**columns(*kinds), "w": np.random.default_rng(1).random(N)}
    write_parquet(tmp_path / "x.parquet", table, data_page_version=version, **PLAIN, **more)
    source = ShardSource(tmp_path / "x.parquet", "w", block_rows=333)
    w = table.pop("w")
    for _ in range(2):  # where pages lie is remembered
        blocks = list(source.blocks())
        assert torch.equal(torch.cat([b.x for b in blocks]).double(), expected(table))
        assert torch.equal(torch.cat([b.w for b in blocks]), torch.from_numpy(w))
    assert len(read) >= 2 * 3 * (len(kinds) + 1)
    some = torch.tensor([1999, 3, 700])
    assert torch.equal(source.take(some).x.double(), expected(table)[some])


def test_required_columns_have_no_levels(tmp_path, read):
    pa = pytest.importorskip("pyarrow")
    table = columns("f4", "f4")
    schema = pa.schema([pa.field(name, pa.float32(), nullable=False) for name in table])
    for version in ("1.0", "2.0"):
        path = tmp_path / f"{version}.parquet"
        pq.write_table(pa.table(table, schema), path, data_page_version=version, **PLAIN)
    assert torch.equal(all_rows(ShardSource(tmp_path)).double(), expected(table).repeat(2, 1))
    assert read


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        (["f4", "f4"], {"compression": "snappy"}),
        (["f4", "f4"], {"use_dictionary": True}),
        (["f4", "f4"], {"column_encoding": "BYTE_STREAM_SPLIT"}),
        (["i4", "i8"], {"column_encoding": "DELTA_BINARY_PACKED"}),
        (["i1", "u2"], {}),
        (["f2", "?"], {}),
        (["u4", "u8"], {}),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_what_has_to_be_decoded_is_left_to_pyarrow(tmp_path, read, kinds, options, version):
    given = columns(*["i2" if kind == "u8" else kind for kind in kinds])
    pairs = zip(given.items(), kinds, strict=True)
    table = {name: np.abs(c).astype(kind) for (name, c), kind in pairs}
    options = {**PLAIN, **options, "data_page_version": version}
    write_parquet(tmp_path / "x.parquet", table, **options)
    got = all_rows(ShardSource(tmp_path / "x.parquet", block_rows=450)).double()
    assert torch.equal(got, expected(table))
    assert not read


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("kind", ["f4", "i8"])
def test_a_missing_number_is_nan_and_other_row_groups_are_read(tmp_path, read, version, kind):
    table = columns(kind, kind)
    want = expected(table)
    want[1000, 1] = np.nan
    table["x1"] = [None if i == 1000 else v for i, v in enumerate(table["x1"].tolist())]
    pa = pytest.importorskip("pyarrow")
    table["x1"] = pa.array(table["x1"], pa.from_numpy_dtype(np.dtype(kind)))
    write_parquet(tmp_path / "x.parquet", table, data_page_version=version, **PLAIN)
    blocks = ShardSource(tmp_path / "x.parquet", block_rows=450).blocks()
    got = torch.cat([block.x.double() for block in blocks])
    assert torch.equal(got.nan_to_num(-1), want.nan_to_num(-1))
    assert read


def test_structures_and_lists_keep_their_levels(tmp_path, read):
    pa = pytest.importorskip("pyarrow")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * N)), 2)
    write_parquet(tmp_path / "x.parquet", {"a": lists, "b": np.zeros(N)}, **PLAIN)
    got = all_rows(ShardSource(tmp_path / "x.parquet"))
    assert torch.equal(got[:, :2], torch.arange(2.0 * N, dtype=torch.float64).view(N, 2))
    assert not read


def test_a_file_that_was_written_anew_is_read_anew(tmp_path, read):
    path = tmp_path / "x.parquet"
    for factor, groups in ((1, 700), (2, 650)):
        table = {name: factor * c for name, c in columns("f4", "f4").items()}
        write_parquet(path, table, **{**PLAIN, "row_group_size": groups})
        assert torch.equal(all_rows(ShardSource(path)).double(), expected(table))
    assert read


def test_a_file_that_ends_while_it_is_read(tmp_path):
    path = tmp_path / "x.parquet"
    write_parquet(path, columns("f4", "f4"), **PLAIN)
    blocks = ShardSource(path, block_rows=100).blocks()
    next(blocks)
    os.truncate(path, 1000)
    with pytest.raises(InputError, match=r"rows \d+\.\.\d+ of .*x\.parquet cannot be read"):
        list(blocks)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_no_header_is_read_for_ever(head, optional):
    """Whatever bytes there are, there is an answer, or one of the errors that mean doubt."""
    try:
        _, _, levels, count = pages._page(head, optional)
    except (IndexError, KeyError, ValueError, pages.struct.error):
        return
    assert count > 0
    assert levels >= 0
