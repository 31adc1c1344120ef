"""The command line, mostly in this process: what is on disk, what is said, the exit status."""

import inspect
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import torchgmm as tg
from torchgmm.cli import fit as fit_room
from torchgmm.cli import main
from torchgmm.cli.outputs import replaced
from torchgmm.cli.pictures import Subject, choose

LEFT = ["config.yaml", "mixture.safetensors", "picture.png", "result.json"]
K2 = ["--mixture.n_components", "2"]
PLAIN = [*K2, "--mixture.dtype", "float64", "--picture", "none"]


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    return np.concatenate([generator.normal(0, 1, (60, 3)), generator.normal(6, 2, (40, 3))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows):
    """A folder with rows.npy and a fit of it, `fitted/`."""
    here = tmp_path_factory.mktemp("cli")
    np.save(here / "rows.npy", rows)
    words = ["fit", "--data", str(here / "rows.npy"), *PLAIN]
    assert main([*words, "--out", str(here / "fitted")]) == 0
    return here


@pytest.fixture
def data(folder):
    return ["--data", str(folder / "rows.npy")]


@pytest.fixture
def mixture_file(folder):
    return str(folder / "fitted" / "mixture.safetensors")


def python(*words, **options):
    """Another Python, for what only a process of its own can show."""
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, **options
    )


def same(one, other):
    """Bit for bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# help -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["--version"], []])
def test_help_waits_for_no_library(words):
    run = python(
        "-c",
        f"""
import runpy, sys
sys.argv = ["torchgmm", *{words!r}]
try:
    runpy.run_module("torchgmm", run_name="__main__")
except SystemExit as end:
    print("status", end.code)
print("loaded", sorted({{"torch", "numpy", "jsonargparse"}} & set(sys.modules)))
""",
    )
    assert "loaded []" in run.stdout
    assert f"status {0 if words else 2}" in run.stdout


@pytest.mark.parametrize("command", ["fit", "score", "predict", "sample", "show"])
def test_every_command_helps_with_examples(command, capsys):
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"usage: torchgmm {command}" in said
    assert f"examples:\n  torchgmm {command} " in said
    assert main(["--help"]) == 0
    assert f"\n  {command} " in capsys.readouterr().out


def test_the_options_of_a_mixture_are_those_of_its_class():
    known = inspect.signature(tg.GaussianMixture).parameters
    group = [name for name in _option_names() if name.startswith("mixture.")]
    assert group
    assert {name.removeprefix("mixture.") for name in group} <= set(known)


def _option_names():
    return [action.dest for action in fit_room.fit_parser()._actions]


# fit --------------------------------------------------------------------------------------------


def test_a_fit_leaves_mixture_result_picture_and_config(root, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    assert main(["fit", str(root / "configs" / "faithful.yaml"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == LEFT
    said = capsys.readouterr()
    assert "the stopping rule is met" in said.out
    assert "step 2/200: log-likelihood" in said.err
    result = json.loads((out / "result.json").read_text())
    rows = np.loadtxt(root / "configs" / "data" / "faithful.csv", delimiter=",", skiprows=1)
    mixture = tg.load(out / "mixture.safetensors")
    # the greatest log-likelihood known; the floor of 1e-6 costs less than the last digit given
    assert 272 * result["log_likelihood"] == pytest.approx(-1130.264, abs=1e-3)
    assert result["log_likelihood"] == pytest.approx(float(mixture.score(rows)), rel=1e-12)
    assert result["bic"] == pytest.approx(float(mixture.bic(rows)), rel=1e-12)
    assert result["aic"] == pytest.approx(float(mixture.aic(rows)), rel=1e-12)
    assert result["status"] == "CONVERGED"
    assert len(result["history"]["log_likelihood"]) == result["n_steps"] > 2
    assert result["rows"] == 272
    assert result["versions"]["torch"] == torch.__version__
    assert sorted(result["files"]) == LEFT
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_config_left_behind_gives_the_same_mixture_from_anywhere(
    root, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(root)
    options = ["--method.max_iter=3", "--init", "random", "--seed", "5", "--picture", "none"]
    assert main(["fit", "configs/faithful.yaml", *options, "--out", str(tmp_path / "a")]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "a/config.yaml", "--out", "b"]) == 0
    first, again = (tg.load(tmp_path / name / "mixture.safetensors") for name in "ab")
    assert same(first, again)
    left = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert left["method"]["init_args"]["max_iter"] == 3
    assert left["threads"] == torch.get_num_threads()
    assert left["out"] == str(tmp_path / "a")
    assert Path(left["data"]["init_args"]["path"]).is_absolute()


def test_print_config_is_a_config(tmp_path, data, capsys):
    words = ["fit", *data, *PLAIN, "--method.max_iter", "7", "--stop", "Aitken"]
    assert main([*words, "--print_config"]) == 0
    config = tmp_path / "printed.yaml"
    config.write_text(capsys.readouterr().out)
    assert yaml.safe_load(config.read_text())["method"]["init_args"]["max_iter"] == 7
    assert main(["fit", str(config), "--out", str(tmp_path / "a")]) == 0
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    first, other = (tg.load(tmp_path / name / "mixture.safetensors") for name in "ab")
    assert same(first, other)


@pytest.mark.parametrize(
    "method",
    [
        "method: {class_path: EM, init_args: {max_iter: 2}}",
        "method: {class_path: torchgmm.EM, init_args: {max_iter: 2}}",
        "method: {max_iter: 2}",
    ],
)
def test_a_config_spells_classes_in_several_ways(tmp_path, folder, method, capsys):
    config = tmp_path / "own.yaml"
    config.write_text(f"data: {folder}/rows.npy\nmixture: {{n_components: 2}}\n{method}\n")
    assert main(["fit", str(config), "--stop.tol", "0", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["n_steps"] == 2


def test_files_are_looked_for_here_and_then_beside_the_config(tmp_path, monkeypatch, rows, capsys):
    (tmp_path / "there" / "data").mkdir(parents=True)
    np.save(tmp_path / "there" / "data" / "rows.npy", rows)
    np.save(tmp_path / "there" / "data" / "w.npy", np.r_[np.ones(60), np.zeros(40)])
    config = tmp_path / "there" / "own.yaml"
    config.write_text(
        "data: {class_path: Files, init_args: {path: data/rows.npy, weights: data/w.npy}}\n"
        "mixture: {n_components: 1}\nout: out\npicture: none\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "there/own.yaml"]) == 0
    assert json.loads(Path("out/result.json").read_text())["weight"] == 60
    Path("data").mkdir()
    np.save("data/rows.npy", rows[:50])  # nearer; the 100 weights no longer fit
    assert main(["fit", "there/own.yaml"]) == 1
    assert "(50" in capsys.readouterr().err


def test_a_budget_that_ends_is_one_readable_line_and_no_failure(tmp_path, data, capsys):
    words = ["fit", *data, *PLAIN, "--method.max_iter=2", "--stop.tol=0"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warning.startswith("torchgmm: warning: BUDGET_SPENT: the step budget")


def test_without_out_nothing_is_written_and_said_so(tmp_path, data, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *data, *K2]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "nothing: give --out FOLDER" in capsys.readouterr().out


def test_a_fit_goes_on_from_a_mixture_file(tmp_path, data, mixture_file, capsys):
    words = ["fit", *data, *PLAIN, "--init", mixture_file, "--method.max_iter", "0"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert same(tg.load(mixture_file), tg.load(tmp_path / "mixture.safetensors"))


def test_restarts_are_counted_and_the_picture_of_an_earlier_fit_goes(tmp_path, data, capsys):
    (tmp_path / "picture.png").write_text("old")
    words = ["fit", *data, *PLAIN, "--n_init", "3", "--init", "RandomRows", "--out", str(tmp_path)]
    assert main(words) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["runs"]) == 3
    assert max(result["runs"]) == result["history"]["log_likelihood"][-1]
    assert not (tmp_path / "picture.png").exists()
    assert "picture.png" not in result["files"]


# errors -----------------------------------------------------------------------------------------

ERRORS = [  # words after `fit --data rows.npy`, exit status, what the line says
    ([], 2, "mixture.n_components"),
    (["--mixture.n_component", "2"], 2, "unrecognized arguments: --mixture.n_component 2"),
    (["--mixture.n_components", "two"], 2, "mixture.n_components: Expected int"),
    ([*K2, "--method.max_itr", "4"], 2, "Option 'max_itr' is not accepted"),
    ([*K2, "--method.max_iter", "x"], 2, "max_iter: Expected int. Got value: x"),
    ([*K2, "--method", "Newton"], 2, "there is no class Newton"),
    ([*K2, "--mixture.dtype", "float16"], 2, "'float16' (choose from"),
    ([*K2, "--picture", "cubism"], 2, "'cubism' (choose from"),
    ([*K2, "own.yaml"], 2, "a config is the first word"),
    ([*K2, "--data", "nowhere"], 2, "nowhere is no file, folder or pattern of files"),
    ([*K2, "--data", "ImagePatches"], 2, "required: image"),
    ([*K2, "--data", "nowhere.npy"], 1, "nowhere.npy does not exist"),
    ([*K2, "--data.columns", "[7]"], 1, "3 columns"),
    ([*K2, "--mixture.covariance", "round"], 1, "covariance must be one of"),
    ([*K2, "--init", "somehow"], 1, "init must be one of"),
    ([*K2, "--init", "current"], 1, "give --init a mixture file"),
    ([*K2, "--method.max_iter", "-1"], 1, "max_iter must be at least 0"),
    ([*K2, "--threads", "0"], 1, "threads must be at least 1"),
    ([*K2, "--mixture.device", "nowhere"], 1, "nowhere"),
    (["--mixture.n_components", "0"], 1, "n_components must be at least 1"),
    (["--mixture.n_components", "101"], 1, "100 row(s) cannot be fitted"),
    ([*K2, "--out", "/dev/null/x"], 1, "nothing can be written to the folder /dev/null/x"),
    ([*K2, "--out", "fresh", "--picture", "patches"], 1, "a square number of features"),
]


@pytest.mark.parametrize(("words", "status", "says"), ERRORS, ids=lambda value: str(value)[:40])
def test_an_error_is_one_line(words, status, says, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *data, *words]) == status
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("torchgmm: error: ")
    assert says in line
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["bake"], 2, "no command 'bake': choose from fit, score"),
        (["--colour"], 2, "unrecognized arguments: --colour"),
        (["fit", "nowhere.yaml"], 2, "File does not exist"),
        (["show", "nowhere.safetensors"], 1, "does not exist"),
        (["show", __file__], 1, "no safetensors file"),
        (["score", "MIXTURE"], 2, "required: data"),
        (["score", "MIXTURE", "--data", "wide.csv"], 1, "4 columns, the mixture has n_features=3"),
        (["score", "MIXTURE", "--data", "hole.csv"], 1, "in row 1, column 2"),
        (["predict", "MIXTURE", "--data", "ROWS", "--out", "x.txt"], 2, ".npy or .csv"),
        (["predict", "MIXTURE", "--data", "ROWS", "--out", "x.npy", "--probabilities", "x.npy"], 2,
         "the same file"),
        (["sample", "MIXTURE", "0", "--out", "x.npy"], 2, "at least 1"),
        (["sample", "MIXTURE", "3", "--out", "/dev/null/x.npy"], 1, "nothing can be written"),
    ],
)  # fmt: skip
def test_other_commands_say_what_is_wrong(
    words, status, says, folder, mixture_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("wide.csv").write_text("1,2,3,4\n")
    Path("hole.csv").write_text("a,b,c\n1,2,3\n4,5,\n")
    names = {"MIXTURE": mixture_file, "ROWS": str(folder / "rows.npy")}
    assert main([names.get(word, word) for word in words]) == status
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("torchgmm: error: ")
    assert says in line
    assert not Path("x.npy").exists()


def test_debug_shows_the_traceback(capsys):
    assert main(["show", "nowhere.safetensors", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_missing_package_names_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert main(["fit", "--help"]) == 1
    assert "pip install '.[cli]'" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["blocked/below", "taken"])
def test_a_folder_that_cannot_be_written_is_noticed_before_the_fit(
    place, tmp_path, data, monkeypatch, capsys
):
    (tmp_path / "blocked").write_text("a file")
    (tmp_path / "taken" / "result.json").mkdir(parents=True)
    monkeypatch.setattr(fit_room, "run_fit", lambda *_, **__: pytest.fail("it was begun"))
    assert main(["fit", *data, *PLAIN, "--out", str(tmp_path / place)]) == 1
    assert "torchgmm: error:" in capsys.readouterr().err


def test_what_could_not_be_written_is_no_success(tmp_path, data, monkeypatch, capsys):
    words = ["fit", *data, *K2, "--out", str(tmp_path)]
    assert main(words) == 0

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(fit_room, "draw", fail)
    assert main(words) == 1
    assert "RuntimeError: no ink (--debug shows where)" in capsys.readouterr().err
    # the fit itself is not lost, and nothing claims to be complete
    assert (tmp_path / "mixture.safetensors").exists()
    assert not (tmp_path / "result.json").exists()


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


def test_output_that_nobody_can_take_is_no_success(mixture_file, monkeypatch):
    class Full:
        def write(self, text):
            return len(text)

        def flush(self):
            raise OSError("no space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["show", mixture_file]) == 1


# Ctrl-C -----------------------------------------------------------------------------------------


class Interrupting(tg.Progress):
    at = 3

    def on_start(self, *_):
        if self.at == 0:
            raise KeyboardInterrupt

    def on_step(self, event):
        if event.number == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("picture", ["none", "auto"])
def test_ctrl_c_keeps_what_was_computed(picture, tmp_path, data, monkeypatch, capsys):
    words = ["fit", *data, *K2, "--stop.tol", "0", "--picture", picture]
    assert main([*words, "--method.max_iter", "3", "--out", str(tmp_path / "three")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(fit_room, "Progress", Interrupting)
    assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    assert "torchgmm: interrupted after 3 steps; written " in capsys.readouterr().err
    cut, three = (tg.load(tmp_path / name / "mixture.safetensors") for name in ("cut", "three"))
    assert same(cut, three)
    result = json.loads((tmp_path / "cut" / "result.json").read_text())
    assert (result["status"], result["n_steps"], result["bic"]) == ("INTERRUPTED", 3, None)


def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(Interrupting, "at", 0)
    monkeypatch.setattr(fit_room, "Progress", Interrupting)
    assert main(["fit", *data, *K2, "--out", str(tmp_path)]) == 130
    assert "before the first step" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_after_the_fit_keeps_its_status(tmp_path, data, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_room, "score_of", interrupt)
    assert main(["fit", *data, *K2, "--out", str(tmp_path)]) == 130
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["bic"]) == ("CONVERGED", None)


def test_a_signal_is_a_ctrl_c(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(20_000, 12)))
    process = subprocess.Popen(
        [sys.executable, "-m", "torchgmm", "fit", "--data", "rows.npy", "--init", "random",
         "--mixture.n_components", "30", "--method.max_iter", "100000", "--stop.tol", "0",
         "--out", "out"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("step 3/"):
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "torchgmm: interrupted after" in said
    assert tg.load(tmp_path / "out" / "mixture.safetensors").n_components == 30


# score, predict, sample, show -------------------------------------------------------------------


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
    expected = mixture.responsibilities(rows).detach().numpy()
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


# pictures, configs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subject", "chosen"),
    [
        ("auto", Subject(1), "marginals"),
        ("auto", Subject(2), "ellipses"),
        ("auto", Subject(64), "ellipses"),
        ("auto", Subject(64, (8, 8)), "patches"),
        ("auto", Subject(4096), "none"),
        ("patches", Subject(49), "patches"),
        ("marginals", Subject(5), "marginals"),
        ("none", Subject(5), "none"),
    ],
)
def test_a_picture_is_chosen_by_the_data(name, subject, chosen):
    assert choose(name, subject) == chosen


@pytest.mark.parametrize(("name", "subject"), [("ellipses", Subject(1)), ("patches", Subject(50))])
def test_a_picture_that_does_not_suit_is_refused(name, subject):
    with pytest.raises(tg.InputError, match=f"picture {name} needs"):
        choose(name, subject)


@pytest.mark.parametrize("picture", ["ellipses", "patches", "marginals"])
def test_every_picture_is_drawn(picture, tmp_path, capsys):
    words = ["fit", "--data", "Bundled", "--data.name", "iris", *K2, "--method.max_iter", "3"]
    assert main([*words, "--picture", picture, "--out", str(tmp_path)]) == 0
    # more than axes and labels: an empty figure of this size has less than 10 kB
    assert (tmp_path / "picture.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", ["patches", "faithful", "digits"])
def test_every_config_is_understood(name, root, capsys):
    assert main(["fit", str(root / "configs" / f"{name}.yaml"), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["out"] == f"runs/{name}"


def test_digits_have_dead_pixels_and_a_floor(root, tmp_path, capsys):
    assert main(["fit", str(root / "configs" / "digits.yaml"), "--out", str(tmp_path)]) == 0
    mixture = tg.load(tmp_path / "mixture.safetensors")
    dead = mixture.covariances.detach()[:, 0, 0]  # the first pixel is 0 in every image
    assert torch.allclose(dead, torch.full_like(dead, 0.1), rtol=1e-9)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "CONVERGED"


@pytest.mark.slow
def test_patches_converge_to_what_was_measured(root, tmp_path, capsys):
    assert main(["fit", str(root / "configs" / "patches.yaml"), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "CONVERGED"
    # measured 168.41 after 40 steps; other starts end within 0.5 of it
    assert result["log_likelihood"] > 167.5
    assert sorted(path.name for path in tmp_path.iterdir()) == LEFT
