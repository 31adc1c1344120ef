"""Help, errors and exit statuses: what every command has in common."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import torchgmm as tg
from tests.cli.common import K2
from torchgmm.cli import fit as fit_room
from torchgmm.cli import main, say


def python(*words, **options):
    """Another Python, for what only a process of its own can show."""
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, **options
    )


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


@pytest.mark.parametrize("command", ["fit", "select", "score", "predict", "sample", "show", "plot"])
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


def test_a_message_of_several_lines_becomes_one(capsys):
    say("one\n   two\n\nthree")
    assert capsys.readouterr().err == "torchgmm: one two three\n"


def test_debug_shows_the_traceback(capsys):
    assert main(["show", "nowhere.safetensors", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_missing_package_names_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert main(["fit", "--help"]) == 1
    assert "pip install '.[cli]'" in capsys.readouterr().err


def test_output_that_nobody_can_take_is_no_success(mixture_file, monkeypatch):
    class Full:
        def write(self, text):
            return len(text)

        def flush(self):
            raise OSError("no space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["show", mixture_file]) == 1
