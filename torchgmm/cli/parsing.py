"""The door to jsonargparse: parsers, how data are named, errors as one line."""

from __future__ import annotations

import argparse
import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..data import Files, Recipe, table_suffixes
from ..errors import InputError, MissingExtraError
from ..reduction import Principal
from . import UsageError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = [
    "add_config",
    "add_data",
    "as_recipe",
    "config_folder",
    "config_text",
    "described",
    "new_parser",
    "parse",
    "use_threads",
]

DATA_HELP = (
    f"the rows: a file ({', '.join(table_suffixes())}), a folder or a pattern of such files, or "
    "a recipe by its name. Further settings follow as --data.NAME: --data rows.csv "
    "--data.columns '[height, weight]', --data ImagePatches --data.image photo.jpg --data.size 8"
)


def new_parser(command: str, usage: str, description: str, examples: str) -> ArgumentParser:
    """A parser whose errors are exceptions and whose help ends with examples."""
    try:
        from jsonargparse import ArgumentParser, DefaultHelpFormatter
    except ImportError as error:
        raise MissingExtraError("jsonargparse", "cli", "the command line") from error

    class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """jsonargparse's help, with the examples left as they are written."""

    return ArgumentParser(
        prog=f"torchgmm {command}",
        usage=f"torchgmm {command} {usage}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_config(parser: ArgumentParser) -> None:
    """`CONFIG` as the first word, or `--config CONFIG`."""
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of the options below as nested keys; also the first word",
    )


def add_data(parser: ArgumentParser, *, required: bool = True) -> None:
    """`--data` as a path or a recipe."""
    if required:
        parser.add_argument("--data", type=Recipe | str, required=True, help=DATA_HELP)
    else:
        parser.add_argument("--data", type=Recipe | str | None, default=None, help=DATA_HELP)


def parse(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """Parse the words of a line.

    Raises:
        UsageError: the line, or the config that it names, cannot be understood.
    """
    try:
        return parser.parse_args(_spelt_out(words, "--config" in parser._option_string_actions))
    except argparse.ArgumentError as error:
        line = _one_line(str(error))
        if line.startswith("unrecognized arguments") and ".yaml" in line:
            line += " (a config is the first word)"
        raise UsageError(line) from error


def config_folder(options: Namespace) -> Path | None:
    """Where the (last) config file lies; None if there was none."""
    paths = [path for path in options.get("config") or () if path is not None]
    return Path(str(paths[-1].absolute)).parent if paths else None


def use_threads(threads: int | None) -> None:
    """As `--threads` says."""
    import torch

    if threads is None:
        return
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


def described(recipe: Recipe) -> dict[str, object]:
    """A recipe as a config names it."""
    room = "reduction" if isinstance(recipe, Principal) else "data"
    settings = {
        name: described(value) if isinstance(value, Recipe) else value
        for name, value in vars(recipe).items()
    }
    return {"class_path": f"torchgmm.{room}.{type(recipe).__name__}", "init_args": settings}


def config_text(parser: ArgumentParser, resolved: Namespace) -> str:
    """The config as it ran."""
    return f"# as torchgmm {__version__} ran it\n{parser.dump(resolved, skip_unset=False)}"


def as_recipe(data: Recipe | str, beside: Path | None) -> Recipe:
    """The recipe that `--data` names, its files found: from here, or else beside the config."""
    if isinstance(data, Recipe):
        return data.located(beside)
    files = Files(data).located(beside)
    if files.path == data and not _is_place(data):
        raise UsageError(
            f"data: {data} is no file, folder or pattern of files ({', '.join(table_suffixes())}) "
            f"and no recipe ({', '.join(_recipes())})"
        )
    return files


def _recipes() -> list[str]:
    return [kind.__name__ for kind in Recipe.__subclasses__()]


def _is_place(word: str) -> bool:
    """Whether a word after --data says where files are, and is not the name of a recipe."""
    if word in _recipes():
        return False
    known = Path(word).suffix.lower() in table_suffixes()
    return known or glob.has_magic(word) or Path(word).exists()


def _spelt_out(words: Sequence[str], takes_config: bool) -> list[str]:
    """`CONFIG ...` as `--config CONFIG ...`; `--data FILE` as `--data Files --data.path FILE`."""
    spelt: list[str] = []
    words = list(words)
    if takes_config and words and not words[0].startswith("-"):
        words.insert(0, "--config")
    for word in words:
        if word.startswith("--data="):
            words_of_it = ["--data", word.removeprefix("--data=")]
        else:
            words_of_it = [word]
        for one in words_of_it:
            if spelt and spelt[-1] == "--data" and _is_place(one):
                spelt += ["Files", f"--data.path={one}"]
            else:
                spelt.append(one)
    return spelt


# what a message of jsonargparse says besides what is wrong
_NOISE = re.compile(
    r"""^\s*(Does\ not\ validate\ against\ any\ of\ the\ Union\ subtypes.*
        |Subtypes:.*|Errors:|Given\ value(\ type)?:.*
        |-\ Expected\ a\ <class\ '(NoneType|str)'>.*|)$""",
    re.VERBOSE,
)
_READABLE = (
    (re.compile(r'Parser key "([^"]*)":'), r"\1:"),
    (re.compile(r"<class '([\w.]*)'>"), r"\1"),
    (re.compile(r"Problem with given class_path '([^']*)':"), r"\1:"),
    (re.compile(r"^- "), ""),
    (re.compile(r"Expected a dot import path string: (.*)"), r"there is no class \1"),
    (re.compile(r"Expected a typing\.Literal\[(.*)\]\."), r"Expected one of \1."),
    (re.compile(r"Expected a (int|float|bool)\b"), r"Expected \1"),
)


def _one_line(message: str) -> str:
    kept = [line.strip() for line in message.splitlines() if not _NOISE.match(line)]
    for pattern, replacement in _READABLE:
        kept = [pattern.sub(replacement, line) for line in kept]
    return " ".join(kept)
