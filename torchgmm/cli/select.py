"""`torchgmm select`: which number of components and which covariance family suit the rows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..collective import current, together
from ..covariance import families
from ..data import as_source
from ..fitting import Method, Stop
from ..selection import Candidate, Selection
from ..selection import select as run_select
from ..selection.criteria import CRITERIA
from ..store import save
from . import UsageError, say
from .jobs import own_device, own_folder
from .outputs import replaced
from .parsing import (
    add_config,
    add_data,
    as_recipe,
    config_folder,
    config_text,
    described,
    new_parser,
    parse,
    use_threads,
)
from .pictures import figure_of, save_figure
from .record import print_table

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["select", "select_parser"]

_MIXTURE, _TABLE, _RESULT, _PICTURE, _CONFIG = (
    "mixture.safetensors",
    "table.md",
    "selection.json",
    "picture.png",
    "config.yaml",
)

_DESCRIPTION = """Fit mixtures of many sizes and families, and choose one by a criterion.

Options may also stand in a YAML config, as for `torchgmm fit`."""

_EXAMPLES = """  torchgmm select --data rows.npy --out runs/chosen
  torchgmm select --data rows.csv --n_components 1..12 --covariance '[full, tied]'
  torchgmm select --data rows.npy --criterion cv --folds 10 --n_components 2,4,8,16

--out holds mixture.safetensors (the best), table.md, selection.json, picture.png and config.yaml.
A line for every fit goes to standard error, the choice to standard output."""


def select_parser() -> ArgumentParser:
    """The options of `torchgmm select`."""
    parser = new_parser("select", "[CONFIG] [options]", _DESCRIPTION, _EXAMPLES)
    add_config(parser)
    add_data(parser)
    add = parser.add_argument
    add(
        "--n_components",
        type=list[int] | int | str,
        default="1..20",
        help="the numbers to try: FIRST..LAST, or a list such as 2,4,8",
    )
    add(
        "--covariance",
        type=list[str] | str,
        default=["full", "tied", "diagonal", "spherical"],
        help=f"the families to try, of {', '.join(families())}",
    )
    add("--criterion", choices=list(CRITERIA), default="bic", help="what decides")
    add("--method", type=Method | None, default=None, help="how a step is made; EM if not given")
    add("--stop", type=Stop | None, default=None, help="the stopping rule; Tolerance 1e-4")
    add("--n_init", type=int, default=1, help="k-means starts of every fit")
    add(
        "--patience",
        type=int | None,
        default=4,
        help="numbers without improvement before a family is left; null tries all",
    )
    add("--folds", type=int, default=5, help="parts of the rows for held-out and cv")
    add("--seed", type=int, default=0, help="of everything random: equal seeds, equal choices")
    add("--threads", type=int | None, default=None, help="CPU threads; torch's choice if not given")
    add("--device", type=str, default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--out", type=str | None, default=None, help="folder for what the search leaves")
    return parser


@together
def select(words: list[str]) -> int:
    """Run `torchgmm select` with these words and give its exit status."""
    began = time.perf_counter()
    parser = select_parser()
    options = parse(parser, words)
    use_threads(options.threads)
    names = [_MIXTURE, _TABLE, _RESULT, _PICTURE, _CONFIG]
    folder = own_folder(options.out, names)
    built = parser.instantiate(options)
    recipe = as_recipe(built.data, config_folder(options))
    counts = _counts(built.n_components)
    found = run_select(
        as_source(recipe),
        counts,
        _words(built.covariance),
        built.criterion,
        method=built.method,
        n_init=built.n_init,
        stop=built.stop,
        patience=built.patience,
        folds=built.folds,
        generator=built.seed,
        device=own_device(built.device),
        on_candidate=lambda c: _tell(c, built.criterion),
    )
    if not current().leads:
        return 0
    written = "nothing: give --out FOLDER"
    if folder is not None:
        resolved = options.clone()
        resolved["data"] = described(recipe)
        resolved["n_components"] = counts
        resolved["threads"] = torch.get_num_threads()
        resolved["out"] = str(folder)
        files = _write(found, folder, config_text(parser, resolved), time.perf_counter() - began)
        written = f"{folder}: {', '.join(files)}"
    print_table("torchgmm select", [*_lines(found), ("written", written)])
    return 0


def _tell(c: Candidate, criterion: str) -> None:
    what = c.note or f"{criterion} {c.value:.6g}, {c.n_steps} steps"
    say(f"{c.n_components} {c.covariance}: {what} ({c.seconds:.1f} s)")


def _lines(found: Selection) -> list[tuple[str, str]]:
    c = found.best_candidate
    better = "lower is better" if CRITERIA[found.criterion] else "nats per row, higher is better"
    return [
        ("choice", f"{c.n_components} {c.covariance} component(s)"),
        (found.criterion, f"{c.value:,.6g} ({better})"),
        ("parameters", f"{c.n_parameters:,}"),
        ("log-likelihood", f"{c.log_likelihood:.6f} nats per row"),
        ("candidates", f"{len(found.candidates)}"),
    ]


def _write(found: Selection, folder: Path, config: str, seconds: float) -> list[str]:
    """The files, selection.json last: where it stands, the others are of the same search."""
    (folder / _RESULT).unlink(missing_ok=True)
    save(found.best, folder / _MIXTURE)
    with replaced(folder / _TABLE) as partial:
        partial.write_text(found.to_markdown() + "\n", encoding="utf-8")
    with replaced(folder / _CONFIG) as partial:
        partial.write_text(config, encoding="utf-8")
    with replaced(folder / _PICTURE) as partial:
        _draw(found, partial)
    files = [_MIXTURE, _TABLE, _CONFIG, _PICTURE, _RESULT]
    told = {
        "criterion": found.criterion,
        "n_components": found.n_components,
        "covariance": found.covariance,
        "seconds": seconds,
        "candidates": [_finite(c.row()) for c in found.candidates],
        "files": files,
    }
    with replaced(folder / _RESULT) as partial:
        partial.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return files


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {k: None if isinstance(v, float) and v != v else v for k, v in row.items()}


def _draw(found: Selection, file: Path) -> None:
    figure = figure_of((8, 4.8))
    found.plot(figure.add_subplot())
    save_figure(figure, file, ".png")


def _counts(given: Sequence[int] | int | str) -> list[int]:
    """Numbers from `1..20`, `2,4,8`, a number or a list."""
    if isinstance(given, int):
        return [given]
    if not isinstance(given, str):
        return list(given)
    try:
        if ".." in given:
            first, last = (int(end) for end in given.split(".."))
            return list(range(first, last + 1))
        return [int(word) for word in given.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--n_components {given}: give FIRST..LAST or numbers with commas"
        ) from error


def _words(given: Sequence[str] | str) -> list[str]:
    return given.split(",") if isinstance(given, str) else list(given)
