"""Which picture suits a fit, and how it is laid out; what is drawn is in `plots`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .. import plots
from ..errors import InputError, MissingExtraError
from ..mixture import GaussianMixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

__all__ = ["PICTURES", "Subject", "choose", "draw"]

_MOST_FEATURES = 1024  # principal axes cost D^3; `auto` leaves the picture out beyond this
_MOST_MARGINALS = 12


@dataclass(frozen=True)
class Subject:
    """What is known of the data before the fit.

    Attributes:
        n_features: D.
        image_shape: height and width, where a row is an image.
        names: of the features, if known.
    """

    n_features: int
    image_shape: tuple[int, int] | None = None
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Picture:
    """One kind of picture.

    Attributes:
        draw: onto as many axes as `n_axes` says.
        suits: whether it can show such data.
        wants: what it asks of the data, for the message.
        size: of the figure, inches.
        ratio: width of the picture to that of the history beside it.
        n_axes: how many axes it wants, given D.
    """

    draw: Callable[[GaussianMixture, Sequence[Axes], Tensor, Subject], None]
    suits: Callable[[Subject], bool]
    wants: str
    size: tuple[float, float] = (10, 4.8)
    ratio: float = 1.9
    n_axes: Callable[[int], int] = lambda n_features: 1


def _ellipses(mixture: GaussianMixture, axes: Sequence[Axes], rows: Tensor, it: Subject) -> None:
    plots.ellipses(mixture, axes[0], rows=rows, names=it.names)


def _patches(mixture: GaussianMixture, axes: Sequence[Axes], rows: Tensor, it: Subject) -> None:
    plots.eigenpatches(mixture, axes[0], shape=it.image_shape)


def _marginals(mixture: GaussianMixture, axes: Sequence[Axes], rows: Tensor, it: Subject) -> None:
    for feature, ax in enumerate(axes):
        plots.marginal(mixture, ax, feature=feature, rows=rows, names=it.names)
    axes[0].legend(fontsize="small")


PICTURES: Mapping[str, Picture] = {
    "ellipses": Picture(_ellipses, lambda it: it.n_features >= 2, "at least two features"),
    "patches": Picture(
        _patches,
        lambda it: it.image_shape is not None or round(it.n_features**0.5) ** 2 == it.n_features,
        "rows that are images: a square number of features",
        size=(9.4, 6),
        ratio=2.0,
    ),
    "marginals": Picture(
        _marginals, lambda it: True, "any rows", n_axes=lambda d: min(d, _MOST_MARGINALS)
    ),
}


def choose(name: str, subject: Subject) -> str:
    """The name of a picture that suits the data, or `none`; `auto` chooses.

    Raises:
        InputError: the picture asked for cannot show such data.
        MissingExtraError: matplotlib is not installed.
    """
    if name == "auto":
        name = _automatic(subject)
    if name == "none":
        return name
    if not PICTURES[name].suits(subject):
        raise InputError(
            f"picture {name} needs {PICTURES[name].wants}, the rows have {subject.n_features}: "
            "choose auto, or none"
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", "a picture (or --picture none)") from error
    return name


def draw(
    name: str,
    file: Path,
    mixture: GaussianMixture,
    rows: Tensor,
    log_likelihoods: Sequence[float],
    subject: Subject,
) -> None:
    """Draw a picture, the history of the fit beside it, into a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    picture = PICTURES[name]
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=picture.size, dpi=120, layout=layout)
    left, right = figure.subfigures(
        1, 2, width_ratios=[picture.ratio, 1], wspace=0.02, squeeze=False
    )[0]
    picture.draw(mixture, _grid(left, picture.n_axes(subject.n_features)), rows, subject)
    plots.history(log_likelihoods, right.subplots())
    figure.savefig(file, format="png")


def _automatic(subject: Subject) -> str:
    if subject.image_shape is not None:
        return "patches"
    if subject.n_features == 1:
        return "marginals"
    return "ellipses" if subject.n_features <= _MOST_FEATURES else "none"


def _grid(figure: FigureBase, count: int) -> list[Axes]:
    columns = 1 if count == 1 else 2 if count <= 4 else 3
    lines = -(-count // columns)
    axes = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]
