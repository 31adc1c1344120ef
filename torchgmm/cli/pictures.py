"""Which picture suits rows, and how it is laid out; what is drawn is in `plots`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import plots
from ..data import Block
from ..errors import InputError, MissingExtraError
from ..mixture import GaussianMixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

__all__ = [
    "PICTURES",
    "Scene",
    "Subject",
    "choose",
    "draw",
    "draw_alone",
    "figure_of",
    "save_figure",
    "suffixes",
]

_MOST_FEATURES = 1024  # principal axes cost D^3; `auto` leaves the picture out beyond this
_MOST_MARGINALS = 12
_MOST_PAIRS = 8


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
class Scene:
    """What a picture of a mixture shows besides it.

    Attributes:
        subject: the data.
        rows: some of them, if any.
        weights: of these, if not all alike.
        labels: a class for each.
        features: which of them, if not all.
        plane: a projection onto two axes, if neither those nor the principal ones.
        components: how many of the heaviest, if not those that the picture has by itself.
    """

    subject: Subject
    rows: Tensor | None = None
    weights: Tensor | None = None
    labels: Any = None
    features: tuple[int, ...] | None = None
    plane: Any = None
    components: int | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """What pictures in a plane take."""
        given = {"rows": self.rows, "weights": self.weights, "labels": self.labels}
        return {**given, "names": self.subject.names}


@dataclass(frozen=True)
class Picture:
    """One kind of picture.

    Attributes:
        draw: onto a figure, or a part of one.
        suits: whether it can show such data.
        wants: what it asks of the data, for the message.
        takes: the fields of a `Scene` that it heeds, besides the subject.
        size: of the figure by itself, inches.
        beside: of the figure with the history of the fit at its side.
        ratio: width of the picture to that of the history.
    """

    draw: Callable[[GaussianMixture, FigureBase, Scene], None]
    suits: Callable[[Subject], bool]
    wants: str
    takes: frozenset[str]
    size: tuple[float, float] = (8, 5)
    beside: tuple[float, float] = (10, 4.8)
    ratio: float = 1.9


def _ellipses(mixture: GaussianMixture, figure: FigureBase, it: Scene) -> None:
    plots.ellipses(mixture, figure.subplots(), plane=it.features or it.plane, **it.shown)


def _density(mixture: GaussianMixture, figure: FigureBase, it: Scene) -> None:
    plots.density(mixture, figure.subplots(), plane=it.features or it.plane, **it.shown)


def _marginals(mixture: GaussianMixture, figure: FigureBase, it: Scene) -> None:
    d = it.subject.n_features
    chosen = it.features or tuple(range(min(d, _MOST_MARGINALS)))
    axes = _grid(figure, len(chosen))
    shown: dict[str, Any] = {"rows": it.rows, "weights": it.weights, "names": it.subject.names}
    for place, (feature, ax) in enumerate(zip(chosen, axes, strict=True)):
        plots.marginal(mixture, ax, feature=feature, **shown)
        ax.xaxis.label.set_fontsize("small" if len(axes) > 1 else "medium")
        if place % _columns(len(axes)):  # the label is the same in a line
            ax.set_ylabel("")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)


def _pairs(mixture: GaussianMixture, figure: FigureBase, it: Scene) -> None:
    plots.pairs(mixture, figure.subplots(), features=it.features, **it.shown)


def _spectra(mixture: GaussianMixture, figure: FigureBase, it: Scene) -> None:
    plots.spectra(mixture, figure.subplots(), components=it.components)


def _responsibilities(mixture: GaussianMixture, figure: FigureBase, it: Scene) -> None:
    plots.responsibilities(mixture, figure.subplots(), rows=it.rows, labels=it.labels)


def _patches(mixture: GaussianMixture, figure: FigureBase, it: Scene) -> None:
    shape, count = it.subject.image_shape, it.components or 8
    plots.eigenpatches(mixture, figure.subplots(), shape=shape, components=count)


def _is_image(it: Subject) -> bool:
    return it.image_shape is not None or round(it.n_features**0.5) ** 2 == it.n_features


_ROWS = frozenset({"rows", "labels", "features"})
_PLANE = _ROWS | {"plane"}
PICTURES: Mapping[str, Picture] = {
    "ellipses": Picture(_ellipses, lambda it: it.n_features >= 2, "at least two features", _PLANE),
    "patches": Picture(
        _patches,
        _is_image,
        "rows that are images: a square number of features",
        frozenset({"components", "shape"}),
        size=(6.4, 6),
        beside=(9.4, 6),
        ratio=2.0,
    ),
    "marginals": Picture(
        _marginals, lambda it: True, "any rows", frozenset({"rows", "features"}), size=(8, 5.4)
    ),
    "density": Picture(_density, lambda it: True, "any rows", _PLANE),
    "pairs": Picture(
        _pairs,
        lambda it: 2 <= it.n_features <= _MOST_PAIRS,
        f"two to {_MOST_PAIRS} features",
        _ROWS,
        size=(8, 7.4),
        beside=(12, 7),
        ratio=1.8,
    ),
    "spectra": Picture(_spectra, lambda it: True, "any rows", frozenset({"components"})),
    "responsibilities": Picture(
        _responsibilities, lambda it: True, "any rows", frozenset({"rows", "labels"})
    ),
}


def choose(name: str, subject: Subject, instead: str = "choose auto, or none") -> str:
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
            f"{instead}"
        )
    _figure_class()
    return name


def draw(
    name: str,
    file: Path,
    mixture: GaussianMixture,
    rows: Block,
    log_likelihoods: Sequence[float],
    subject: Subject,
) -> None:
    """Draw a picture, the history of the fit beside it, into a PNG file."""
    picture = PICTURES[name]
    figure = figure_of(picture.beside)
    left, right = figure.subfigures(
        1, 2, width_ratios=[picture.ratio, 1], wspace=0.02, squeeze=False
    )[0]
    picture.draw(mixture, left, Scene(subject, rows.x, rows.w))
    plots.history(log_likelihoods, right.subplots())
    save_figure(figure, file, ".png")


def draw_alone(
    name: str, mixture: GaussianMixture, scene: Scene, size: tuple[float, float] | None, dpi: float
) -> Figure:
    """A figure with nothing but a picture."""
    picture = PICTURES[name]
    figure = figure_of(size or picture.size, dpi)
    picture.draw(mixture, figure, scene)
    return figure


def figure_of(size: tuple[float, float], dpi: float = 120) -> Figure:
    """An empty figure of so many inches, with room at its edges."""
    kind = _figure_class()
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return kind(figsize=size, dpi=dpi, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))


def save_figure(figure: Figure, file: Path, suffix: str) -> None:
    """Write it in the format of a suffix; equal pictures make equal files."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "torchgmm"}):
        figure.savefig(file, format=suffix.removeprefix("."), metadata=_UNDATED[suffix])


def suffixes() -> tuple[str, ...]:
    """Of the files that pictures are written to."""
    return tuple(_UNDATED)


_UNDATED: Mapping[str, dict[str, Any]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", "a picture") from error
    return Figure


def _automatic(subject: Subject) -> str:
    if subject.image_shape is not None:
        return "patches"
    if subject.n_features == 1:
        return "marginals"
    return "ellipses" if subject.n_features <= _MOST_FEATURES else "none"


def _columns(count: int) -> int:
    return 1 if count == 1 else 2 if count <= 4 else 3


def _grid(figure: FigureBase, count: int) -> list[Axes]:
    columns = _columns(count)
    lines = -(-count // columns)
    axes = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for spare in axes[count:]:
        spare.remove()
    return axes[:count]
