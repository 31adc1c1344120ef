"""Files: what is found, what is refused, and in which order rows come."""

from pathlib import Path

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.data.common import all_rows, write_parquet
from torchgmm import InputError
from torchgmm.data import Bundled, Files, ShardSource, as_source

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


# names of the features


def test_a_source_knows_the_names_that_its_files_have(tmp_path, rows):
    pandas = pytest.importorskip("pandas")
    rows = np.abs(rows)  # one of them is a column of weights
    frame = pandas.DataFrame(rows, columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    write_parquet(tmp_path / "rows.parquet", {name: frame[name].to_numpy() for name in "abc"})
    write_parquet(tmp_path / "lists.parquet", {"vector": list(rows), "d": rows[:, 0]})
    np.save(tmp_path / "rows.npy", rows)
    np.savetxt(tmp_path / "bare.csv", rows, delimiter=",")
    assert as_source(frame).names == ("a", "b", "c")
    assert as_source(tmp_path / "rows.csv").names == ("a", "b", "c")
    assert as_source(tmp_path / "rows.csv", columns=["c", "a"]).names == ("c", "a")
    assert as_source(tmp_path / "rows.csv", weights="b").names == ("a", "c")
    assert ShardSource(tmp_path / "rows.parquet").names == ("a", "b", "c")
    for other in ("rows.npy", "bare.csv", "lists.parquet"):  # a list is many features
        assert as_source(tmp_path / other).names == ()
    assert Bundled("iris").source().names[0] == "sepal length (cm)"
