"""`torchgmm score | predict | sample | show`: the answers of the library, on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

import torchgmm as tg
from torchgmm.cli import main
from torchgmm.cli.outputs import replaced


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fill():
        with replaced(file) as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match=r"a\.txt cannot be written: disk full"):
        fill()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def save_npz(file, rows):
    np.savez(file, rows=rows)


def save_csv(file, rows):
    np.savetxt(file, rows, delimiter=",", header="a,b,c", comments="", fmt="%.17g")


def save_parquet(file, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(zip("abc", rows.T, strict=True))), file)


def save_safetensors(file, rows):
    from safetensors.numpy import save_file

    save_file({"rows": np.ascontiguousarray(rows)}, file)


WRITERS = {
    ".npy": np.save,
    ".npz": save_npz,
    ".csv": save_csv,
    ".parquet": save_parquet,
    ".safetensors": save_safetensors,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_score(suffix, tmp_path, rows, mixture_file, capsys):
    file = tmp_path / f"rows{suffix}"
    WRITERS[suffix](file, rows)
    out = tmp_path / "log_prob.npy"
    assert main(["score", mixture_file, "--data", str(file), "--out", str(out)]) == 0
    mixture = tg.load(mixture_file)
    assert f"{float(mixture.score(rows)):.6f} nats per row" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(out), mixture.log_prob(rows).detach().numpy())


@pytest.mark.parametrize("word", ["shards", "shards/*.npy"])
def test_a_folder_or_a_pattern_is_one_table(
    word, tmp_path, rows, mixture_file, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    np.save("shards/a.npy", rows[:30])
    np.save("shards/b.npy", rows[30:])
    assert main(["score", mixture_file, "--data", word]) == 0
    assert f"{float(tg.load(mixture_file).score(rows)):.6f} nats" in capsys.readouterr().out


def test_the_folder_of_a_fit_is_its_mixture(tmp_path, data, rows, mixture_file, capsys):
    folder, answers = tmp_path / "run", tmp_path / "answers"
    folder.mkdir()
    (folder / "mixture.safetensors").write_bytes(Path(mixture_file).read_bytes())
    answers.mkdir()
    found = []
    for given in (mixture_file, str(folder)):
        assert main(["score", given, *data, "--out", str(answers / "log_prob.npy")]) == 0
        assert main(["predict", given, *data, "--out", str(answers / "labels.npy")]) == 0
        assert main(["sample", given, "5", "--out", str(answers / "rows.npy")]) == 0
        found.append([np.load(answers / f"{name}.npy") for name in ("log_prob", "labels", "rows")])
        assert main(["show", given]) == 0
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    capsys.readouterr()
    assert main(["show", str(answers)]) == 1
    assert "answers holds no mixture.safetensors" in capsys.readouterr().err


def test_columns_weights_and_absent_rows(tmp_path, rows, mixture_file, capsys):
    weights = np.where(np.arange(100) % 5 == 0, 0.0, 2.0)
    broken = rows.copy()
    broken[0] = np.nan  # of weight 0: absent
    np.save(tmp_path / "rows.npy", np.c_[np.zeros(100), broken])
    np.save(tmp_path / "w.npy", weights)
    data = ["--data", str(tmp_path / "rows.npy"), "--data.columns", "[1,2,3]"]
    data += ["--data.weights", str(tmp_path / "w.npy")]
    out, labels = tmp_path / "log_prob.csv", tmp_path / "labels.csv"
    assert main(["score", mixture_file, *data, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    mixture = tg.load(mixture_file)
    assert f"{float(mixture.score(rows, weights)):.6f} nats" in said
    assert f"{float(mixture.bic(rows, weights)):,.2f}" in said
    expected = np.where(weights > 0, mixture.log_prob(rows).detach(), np.nan)
    np.testing.assert_array_equal(np.loadtxt(out), expected)
    assert main(["predict", mixture_file, *data, "--out", str(labels)]) == 0
    np.testing.assert_array_equal(
        np.loadtxt(labels), np.where(weights > 0, mixture.predict(rows), -1)
    )


def test_predict_writes_labels_and_probabilities(tmp_path, data, rows, mixture_file, capsys):
    out, more = tmp_path / "new" / "labels.npy", tmp_path / "r.csv"
    words = ["predict", mixture_file, *data, "--out", str(out), "--probabilities", str(more)]
    assert main(words) == 0
    mixture = tg.load(mixture_file)
    labels = np.load(out)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, mixture.predict(rows))
    with torch.no_grad():  # as the command computes them, to the last bit
        expected = mixture.responsibilities(rows).numpy()
    np.testing.assert_array_equal(np.loadtxt(more, delimiter=","), expected)
    counts = np.bincount(labels)
    assert f"no. {counts.argmax()}: {counts.max()}" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_sample_draws_what_the_library_draws(suffix, tmp_path, mixture_file, capsys):
    out = tmp_path / f"rows{suffix}"
    assert main(["sample", mixture_file, "50", "--out", str(out), "--seed", "3"]) == 0
    expected = tg.load(mixture_file).sample((50,), torch.Generator().manual_seed(3)).numpy()
    found = np.load(out) if suffix == ".npy" else np.loadtxt(out, delimiter=",")
    np.testing.assert_array_equal(found, expected)


def test_show_says_what_a_file_holds(tmp_path, mixture_file, capsys):
    assert main(["show", mixture_file]) == 0
    words = capsys.readouterr().out.split()
    mixture = tg.load(mixture_file)
    weight, k = mixture.weights.detach().max(-1)
    for word in ("full", "float64", f"{weight:.4f}", f"{mixture.means[k, 0]:.4g}"):
        assert word in words
    assert "format version 1" in " ".join(words)


def test_show_says_that_it_is_a_batch_and_others_refuse_it(tmp_path, data, capsys):
    file = str(tmp_path / "batch.safetensors")
    tg.save(tg.GaussianMixture(2, 3, batch_shape=(4,)), file)
    assert main(["show", file]) == 0
    assert "batch of shape (4,)" in capsys.readouterr().out
    assert main(["score", file, *data]) == 1
    assert "a batch of mixtures" in capsys.readouterr().err
