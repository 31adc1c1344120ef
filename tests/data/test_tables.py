"""Tables in files: columns, dtypes, weights and text, and what does not fit together."""

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.data.common import all_rows, write_parquet
from torchgmm import InputError
from torchgmm.data import ArraySource, ShardSource, as_source, read_table

# what fits together


def test_widths_must_agree(shards, rows):
    np.save(shards / "part-4.npy", rows[:, :2])
    with pytest.raises(InputError, match=r"part-4\.npy .*2 columns, but .*part-0\.npy of 3"):
        as_source(shards)


def test_columns_of_the_same_names_may_stand_in_another_order(tmp_path):
    write_parquet(tmp_path / "1.parquet", {"a": [1.0], "b": [2.0]})
    write_parquet(tmp_path / "2.parquet", {"b": [4.0], "a": [3.0]})
    assert all_rows(as_source(tmp_path)).tolist() == [[1, 2], [3, 4]]
    write_parquet(tmp_path / "3.parquet", {"a": [5.0], "c": [6.0]})
    with pytest.raises(InputError, match=r"3\.parquet has no column 'b'; it has a, c"):
        as_source(tmp_path)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (np.float16, torch.float16),
        (np.float32, torch.float32),
        (np.uint8, torch.uint8),
        (np.int16, torch.int16),
        (np.uint32, torch.int64),
        (np.dtype(">f4"), torch.float32),
        (np.bool_, torch.bool),
    ],
)
def test_numbers_of_all_kinds(tmp_path, stored, read):
    rows = np.arange(12).reshape(4, 3).astype(stored)
    np.save(tmp_path / "x.npy", rows)
    source = as_source(tmp_path / "x.npy")
    assert source.dtype == read == next(source.blocks()).x.dtype
    assert np.array_equal(all_rows(source), rows)
    assert tg.GaussianMixture(1).fit(source).n_steps  # in the mixture's float32


def test_shards_of_several_dtypes_are_promoted(tmp_path):
    np.save(tmp_path / "1.npy", np.ones((2, 2), np.int16))
    np.save(tmp_path / "2.npy", np.full((2, 2), 0.5, np.float32))
    source = as_source(tmp_path)
    assert source.dtype == torch.float32
    assert all_rows(source).tolist() == [[1, 1], [1, 1], [0.5, 0.5], [0.5, 0.5]]


def test_bfloat16_from_safetensors(tmp_path):
    save = pytest.importorskip("safetensors.torch").save_file
    rows = torch.arange(12.0).reshape(4, 3).bfloat16()
    save({"a": rows, "w": torch.ones(4)}, tmp_path / "x.safetensors")
    source = as_source(tmp_path / "x.safetensors", name="a")
    assert source.dtype == torch.bfloat16
    assert torch.equal(next(source.blocks()).x, rows)
    assert torch.equal(read_table(tmp_path / "x.safetensors", name="a"), rows)
    with pytest.raises(InputError, match="holds several arrays: choose name from a, w"):
        as_source(tmp_path / "x.safetensors")


def test_missing_numbers_in_parquet_are_nan(tmp_path):
    write_parquet(tmp_path / "x.parquet", {"a": [1, None, 3], "b": [1.0, 2.0, None]})
    source = as_source(tmp_path / "x.parquet")
    assert np.array_equal(all_rows(source), [[1, 1], [np.nan, 2], [3, np.nan]], equal_nan=True)
    with pytest.raises(InputError, match=r"2 NaN or infinite value.*first nan in row 1, column 0"):
        tg.GaussianMixture(1).fit(source)


def test_lists_in_parquet_are_features_beside_numbers(tmp_path):
    columns = {"id": ["x", "y"], "e": [[1.0, 2.0], [3.0, 4.0]], "n": [5, 6]}
    write_parquet(tmp_path / "x.parquet", columns)
    assert all_rows(as_source(tmp_path / "x.parquet")).tolist() == [[1, 2, 5], [3, 4, 6]]
    assert all_rows(as_source(tmp_path / "x.parquet", columns=["n", "e"])).tolist() == [
        [5, 1, 2],
        [6, 3, 4],
    ]
    assert as_source(tmp_path / "x.parquet", "n", columns=["e"]).n_features == 2
    write_parquet(tmp_path / "y.parquet", {"e": [[1.0, 2.0], [3.0]]})
    with pytest.raises(InputError, match=r"rows 0\.\.1 of .*y\.parquet .*different lengths"):
        all_rows(as_source(tmp_path / "y.parquet"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": ["z"]}, r"x\.parquet has no column 'z'; it has id, a"),
        ({"columns": ["id"]}, "column 'id' holds string, not numbers"),
        ({"columns": [7]}, "has 2 columns; there is no column 7"),
        ({"weights": "z"}, "weights are neither a column nor files: z does not exist"),
        ({"weights": 0}, "column 'id' holds string, not numbers"),
        ({"weights": "a"}, "no column of numbers beside the weights"),
    ],
)
def test_columns_that_are_not_there(tmp_path, options, said):
    write_parquet(tmp_path / "x.parquet", {"id": ["x", "y"], "a": [1.0, 2.0]})
    with pytest.raises(InputError, match=said):
        as_source(tmp_path / "x.parquet", **options)


def test_columns_without_names_have_numbers(shards, rows):
    assert np.array_equal(all_rows(as_source(shards, columns=[2, -3])), rows[:, [2, 0]])
    with pytest.raises(InputError, match="columns have no names; give numbers"):
        as_source(shards, columns=["a"])


def test_weights_from_files_cut_otherwise(shards, rows):
    w = np.arange(100.0)
    (shards / "w").mkdir()
    np.save(shards / "w" / "1.npy", w[:60])
    np.savetxt(shards / "w" / "2.csv", w[60:])
    files = [shards / "w" / "1.npy", shards / "w" / "2.csv"]
    source = ShardSource(shards, files, block_rows=10)
    assert torch.cat([b.w for b in source.blocks()]).tolist() == w.tolist()
    sample = source.sample(20, torch.Generator().manual_seed(0))
    assert sample.w.tolist() == sample.numbers().tolist()
    with pytest.raises(InputError, match=r"hold a table \(60, 1\), the rows need \(100, 1\)"):
        as_source(shards, files[:1])


def test_weights_are_checked_as_they_are_read(tmp_path, rows):
    np.save(tmp_path / "x.npy", np.column_stack([rows, np.where(np.arange(100) == 57, -1, 1)]))
    source = ShardSource(tmp_path, 3, block_rows=10)
    with pytest.raises(InputError, match=r"rows 50\.\.59 of .*x\.npy.* 1 negative value.*row 7"):
        all_rows(source)


def test_one_dimension_is_no_table(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5.0))
    with pytest.raises(InputError, match=r"x\.npy.*must be a table \(N, D\), got shape \(5,\)"):
        as_source(tmp_path / "x.npy")


def test_python_objects_are_never_read(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"x\.npy holds Python objects, which are never read"):
        as_source(tmp_path / "x.npy")


# text


def test_text_with_blank_lines_comments_quotes_and_empty_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("torchgmm.data.text._PIECE", 8)
    text = '\ufeff# made by hand\r\n"a", b\r\n1,2\r\n\r\n# half\r\n"3",\r\n 5 , 6'
    (tmp_path / "x.csv").write_bytes(text.encode())
    source = ShardSource(tmp_path / "x.csv", block_rows=2)
    assert source.n_rows == 3
    assert np.array_equal(all_rows(source), [[1, 2], [3, np.nan], [5, 6]], equal_nan=True)
    assert all_rows(ShardSource(tmp_path / "x.csv", columns=["a"])).tolist() == [[1], [3], [5]]


def test_text_without_a_header_after_a_mark(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf1,2\n3,4\n")
    assert all_rows(as_source(tmp_path / "x.csv")).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("line", ["word,2", "1", "1,2,3"])
def test_text_that_is_no_table_names_the_rows(tmp_path, line):
    (tmp_path / "x.csv").write_text(f"a,b\n1,2\n{line}\n5,6\n")
    with pytest.raises(InputError, match=r"rows 0\.\.2 of .*x\.csv cannot be read"):
        as_source(tmp_path / "x.csv")


def test_small_text_is_kept_in_memory_and_large_is_not(tmp_path, rows, monkeypatch):
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",")
    assert isinstance(as_source(tmp_path / "x.csv"), ArraySource)
    monkeypatch.setattr("torchgmm.data.shards._SMALL", 1000)
    assert isinstance(as_source(tmp_path / "x.csv"), ShardSource)
