"""Files: what is found, what is refused, and what is said when one breaks."""

import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import torchgmm as tg
from torchgmm import InputError
from torchgmm.data import ArraySource, Files, ShardSource, as_source, read_table
from torchgmm.errors import MissingExtraError


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((100, 3))


@pytest.fixture
def shards(tmp_path, rows):
    """part-0.npy to part-3.npy, of 25 rows each."""
    for i in range(4):
        np.save(tmp_path / f"part-{i}.npy", rows[25 * i : 25 * (i + 1)])
    return tmp_path


def all_rows(source):
    return torch.cat([block.x for block in source.blocks()]).numpy()


def write_parquet(path, columns, **options):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path, **options)


# which files


@pytest.mark.parametrize(
    "spelling",
    [
        lambda d: d,
        lambda d: str(d),
        lambda d: f"{d}/part-*.npy",
        lambda d: f"{d}/**/*.npy",
        lambda d: [d / f"part-{i}.npy" for i in range(4)],
        lambda d: (f"{d}/part-[01].npy", str(d / "part-2.npy"), d / "part-3.npy"),
    ],
    ids=["folder", "folder-text", "pattern", "deep-pattern", "list", "mixed-list"],
)
def test_files_in_the_order_of_their_names(shards, rows, spelling):
    assert np.array_equal(all_rows(as_source(spelling(shards))), rows)


def test_hidden_and_other_files_of_a_folder_are_left_out(shards, rows):
    for name in ("_SUCCESS", "notes.txt", ".part-9.npy", "_part.npy"):
        (shards / name).write_bytes(b"")
    (shards / "inside").mkdir()
    assert np.array_equal(all_rows(as_source(shards)), rows)


def test_a_name_with_brackets_is_a_name_if_it_is_there(tmp_path, rows):
    np.save(tmp_path / "run[1].npy", rows)
    assert as_source(f"{tmp_path}/run[1].npy").n_rows == 100


def test_home_is_expanded(tmp_path, rows, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", rows)
    assert as_source("~/x.npy").n_rows == 100


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("nothing-*.npy", r"no file matches nothing-\*\.npy \(looked in "),
        ("missing.npy", "missing.npy does not exist in "),
        (["part-0.npy", "part-9.npy"], "part-9.npy does not exist"),
        ("empty", r"the folder .*empty holds no file with a suffix of \.npy"),
        ("notes.txt", r"notes.txt: cannot read \.txt; known are \.npy"),
    ],
)
def test_what_is_not_there_is_said(shards, monkeypatch, spelling, said):
    monkeypatch.chdir(shards)
    Path("empty").mkdir()
    Path("notes.txt").touch()
    with pytest.raises(InputError, match=said):
        as_source(spelling)


def test_a_folder_of_several_formats_is_ambiguous(shards):
    np.savetxt(shards / "more.csv", np.zeros((2, 3)), delimiter=",")
    with pytest.raises(InputError, match=r"several formats \(\.csv, \.npy\): say which are meant"):
        as_source(shards)


def test_formats_may_be_mixed_in_a_list(shards, rows):
    np.savetxt(shards / "more.csv", rows[:5], delimiter=",", fmt="%.17g")
    source = as_source([shards / "part-0.npy", shards / "more.csv"])
    assert np.array_equal(all_rows(source), np.concatenate([rows[:25], rows[:5]]))


def test_empty_shards_are_passed_over(shards, rows):
    np.save(shards / "part-1a.npy", np.empty((0, 3)))
    (shards / "part-2a.csv").write_text("a,b,c\n")
    source = as_source([*sorted(shards.glob("part*.npy")), shards / "part-2a.csv"])
    assert np.array_equal(all_rows(source), rows)
    with pytest.raises(InputError, match=r"part-1a\.npy: no rows"):
        as_source(shards / "part-1a.npy")


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


# what breaks


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


# order


def test_the_order_of_rows_on_disk_does_not_matter_to_exact_em(tmp_path, rows):
    rows[50:] += 6
    fits = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(100) if seed else np.arange(100)
        for i in range(4):
            np.save(tmp_path / f"{i}.npy", rows[order[25 * i : 25 * (i + 1)]])
        mixture = tg.GaussianMixture(2, 3, dtype=torch.float64)
        start = tg.Parameters.from_covariances(
            torch.full((2,), 0.5),
            torch.tensor([[0.0] * 3, [6.0] * 3]),
            torch.ones(2, 3),
            "diagonal",
        )
        mixture = tg.GaussianMixture(2, 3, covariance="diagonal", dtype=torch.float64)
        tg.fit(mixture, ShardSource(tmp_path, block_rows=10), tg.EM(max_iter=5), init=start)
        fits.append(mixture.means.detach())
    # sums of 100 rows in another order, five times over
    torch.testing.assert_close(*fits, rtol=1e-12, atol=1e-12)


def test_row_groups_of_sorted_files_are_read_side_by_side(tmp_path):
    for i in range(4):
        column = {"a": np.repeat(np.arange(5.0) + 5 * i, 1000)}
        write_parquet(tmp_path / f"{i}.parquet", column, row_group_size=1000)
    source = ShardSource(tmp_path)
    first = next(source.batches(200, seed=0, epoch=0))
    # 200 of 20 equal clusters: fewer than 15 of them has a probability below 1e-15
    assert len(first.x.unique()) >= 15


def test_files_is_the_recipe_of_all_this(shards, rows, monkeypatch):
    source = Files(str(shards / "part-*.npy"), columns=[0, 1], weights=2).source
    with pytest.raises(InputError, match="negative"):
        list(source().blocks())
    assert Files([str(shards)], columns=[1]).source().n_features == 1
    monkeypatch.chdir(shards.parent)
    found = Files(f"{shards.name}/*.npy").located()
    assert found.path == str(shards / "*.npy")
    assert Files([shards.name, "gone"]).located(Path()).path == [str(shards), "gone"]
