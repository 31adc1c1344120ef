"""`torchgmm plot`: a picture of a mixture, of the course of a fit, or of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plots
from ..errors import InputError
from ..selection import Candidate, Comparison
from ..store import load
from . import UsageError
from .ask import MIXTURE, in_folder, single
from .outputs import check_file, replaced
from .parsing import add_data, new_parser, parse
from .pictures import PICTURES, draw_alone, figure_of, save_figure, suffixes
from .record import print_table
from .scenes import COMPONENTS, numbers, refuse, scene_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from matplotlib.figure import Figure

__all__ = ["plot", "plot_parser"]

# pictures of files that are no mixtures: the file that a command leaves, and what stands in it
_COURSES = {"history": ("result.json", "history"), "criterion": ("selection.json", "candidates")}
_LARGEST = 100  # inches

_DESCRIPTION = f"""Draw a picture.

Of a mixture file (or the folder of a fit, which holds one):
  ellipses          components as ellipses over the density, in the plane of two features or of
                    the two leading principal axes; with --data the rows as dots
  density           the log-density alone; of one feature, a curve
  marginals         every feature by itself, the components, a histogram of --data
  pairs             every feature by itself and every two of them, up to eight
  spectra           eigenvalues of the components' covariances
  patches           means and leading eigenvectors as images
  responsibilities  the probability of every component for every row of --data
Of {_COURSES["history"][0]}, which `torchgmm fit` leaves:
  history           log-likelihood against steps
Of {_COURSES["criterion"][0]}, which `torchgmm select` leaves:
  criterion         the criterion against the number of components"""

_EXAMPLES = """  torchgmm plot runs/faithful/mixture.safetensors --out ellipses.png
  torchgmm plot runs/faithful ellipses --data configs/data/faithful.csv --labels components \\
      --out clusters.svg
  torchgmm plot runs/rows ellipses --plane discriminant --out apart.png
  torchgmm plot runs/rows pairs --data rows.csv --features height,weight,age --out pairs.pdf
  torchgmm plot runs/rows responsibilities --data rows.npy --labels known.npy --out sure.png
  torchgmm plot runs/patches patches --components 12 --size 6,9 --out patches.png
  torchgmm plot runs/rows history --out history.png
  torchgmm plot runs/chosen criterion --out bic.png"""


def plot_parser() -> ArgumentParser:
    """The options of `torchgmm plot`."""
    parser = new_parser(
        "plot", "FILE [PICTURE] --out FILE [--data DATA] [options]", _DESCRIPTION, _EXAMPLES
    )
    add = parser.add_argument
    add("file", type=str, help="a mixture, a result.json or selection.json, or a folder with them")
    add(
        "picture",
        nargs="?",
        choices=["auto", *PICTURES, *_COURSES],
        default="auto",
        help="auto: of a mixture patches for images, marginals for one feature, else ellipses",
    )
    add("--out", type=str, required=True, help=f"the picture: {', '.join(suffixes())}")
    add_data(parser, required=False)
    add("--rows", type=int, default=5000, help="of --data, drawn at random, at most so many")
    add(
        "--labels",
        type=str | None,
        default=None,
        help="colour or group the rows: a file with a number for each row of --data, or "
        f"`{COMPONENTS}` for the likeliest component of each",
    )
    add(
        "--features",
        type=list[int | str] | int | str | None,
        default=None,
        help="which features, by number or name: two for ellipses and density, any for others",
    )
    add(
        "--plane",
        choices=["principal", "discriminant"],
        default=None,
        help="of more than two features: the axes of largest variance, which is the default, or "
        "those along which components differ most",
    )
    add("--names", type=list[str] | str | None, default=None, help="what the features are called")
    add("--components", type=int | None, default=None, help="only so many, the heaviest")
    add(
        "--shape",
        type=list[int] | str | None,
        default=None,
        help="of images: HEIGHT,WIDTH in pixels",
    )
    add("--title", type=str | None, default=None, help="above the picture")
    add("--size", type=list[float] | str | None, default=None, help="WIDTH,HEIGHT in inches")
    add("--dpi", type=int, default=120, help="pixels per inch")
    return parser


def plot(words: list[str]) -> int:
    """Run `torchgmm plot` with these words and give its exit status."""
    parser = plot_parser()
    options = parse(parser, words)
    out = check_file(options.out, "pictures are", suffixes())
    size = numbers("size", options.size, float)
    if size is not None and max(size) > _LARGEST:
        raise UsageError(f"--size {options.size}: at most {_LARGEST} inches")
    for name in ("rows", "components", "dpi"):
        if options[name] is not None and options[name] < 1:
            raise UsageError(f"--{name} must be at least 1, got {options[name]}")
    file, picture = _found(options.file, options.picture)
    lines: list[tuple[str, str]] = []
    if picture in _COURSES:
        refuse(options, picture, frozenset())
        drawn = _course(file, picture, size or (8, 5), options.dpi)
    else:
        mixture = single(load(file))
        picture, scene, lines = scene_of(mixture, parser, options, picture)
        drawn = draw_alone(picture, mixture, scene, size, options.dpi)
    if options.title is not None:
        drawn.suptitle(options.title)
    with replaced(out) as partial:
        save_figure(drawn, partial, out.suffix.lower())
    print_table("torchgmm plot", [("picture", picture), *lines, ("written", str(out))])
    return 0


# what is asked for -----------------------------------------------------------------------------


def _found(given: str, picture: str) -> tuple[Path, str]:
    """The file to draw, and the picture; `auto` stays where the file is a mixture."""
    file = in_folder(given, _COURSES.get(picture, (MIXTURE, ""))[0])
    if not file.is_file():
        raise InputError(f"{given} does not exist")
    kind = _kind(file)
    if picture == "auto":
        return file, kind or picture
    if (kind or "") != (picture if picture in _COURSES else ""):
        wanted, _ = _COURSES.get(picture, ("a mixture file", ""))
        raise UsageError(f"{picture} is drawn from {wanted}; {given} is none")
    return file, picture


def _kind(file: Path) -> str | None:
    """The picture of a JSON file that a command left; None where it is no JSON file."""
    if file.suffix.lower() != ".json":
        return None
    content = _read_json(file)
    for picture, (_, key) in _COURSES.items():
        if isinstance(content, dict) and key in content:
            return picture
    known = " or ".join(name for name, _ in _COURSES.values())
    raise InputError(f"{file} is no {known} of a fit or a search")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no JSON: {error}") from error


def _course(file: Path, picture: str, size: tuple[float, float], dpi: float) -> Figure:
    figure = figure_of(size, dpi)
    content = _read_json(file)
    try:
        if picture == "history":
            levels = content["history"]["log_likelihood"]
            plots.history(
                [np.nan if level is None else level for level in levels], figure.subplots()
            )
        else:
            plots.criterion(_comparison(content), figure.subplots())
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} is not what a fit or a search leaves: {error}") from error
    return figure


def _comparison(content: dict[str, Any]) -> Comparison:
    rows: list[dict[str, Any]] = [
        {name: np.nan if value is None else value for name, value in row.items()}
        for row in content["candidates"]
    ]
    return Comparison(content["criterion"], tuple(Candidate(**row) for row in rows))
