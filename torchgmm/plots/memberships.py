"""Which component every row belongs to, and how surely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError
from ..mixture import GaussianMixture
from .common import features, rows_of, some
from .parts import labels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["responsibilities"]

_MOST_ROWS = 2000  # columns of the picture: more than a screen has
_THICK = 600  # pixels up
_MOST_NAMES = 24  # components with a label of their own
_SHADES = ("#ffffff", "#d3e4f2", "#78b0d7", "#1f6ba5", "#08264a")


@torch.no_grad()
def responsibilities(mixture: GaussianMixture, ax: Axes, *, rows: Any, labels: Any = None) -> Axes:
    """A heat map: the probability of every component (up) for every row (across).

    Rows are put in order of their likeliest component and, within it, the surest first: a sharp
    staircase is a clustering without doubt, a smear is a row between components.

    Args:
        mixture: of any number of features.
        ax: where to draw.
        rows: `(N, D)`; of more than 2,000 a random part is drawn.
        labels: `(N,)`, a known class for every row: rows are then grouped by class first, with
            lines between.

    Example:
        >>> import torch, torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> mixture = tg.GaussianMixture(3, 2)
        >>> ax = responsibilities(mixture, Figure().add_subplot(), rows=torch.randn(50, 2))
        >>> ax.get_xlabel()
        '50 rows, by likeliest component'
    """
    from matplotlib.colors import LinearSegmentedColormap

    d = features(mixture)
    if rows is None or len(rows) == 0:
        raise InputError("responsibilities are of rows: give some")
    rows = rows if hasattr(rows, "shape") else np.asarray(rows)
    chosen = some(len(rows), _MOST_ROWS)
    table = mixture.responsibilities(rows_of(rows, d, chosen).to(mixture.device)).cpu().numpy()
    classes = labels_of(labels, rows, chosen)
    names, group = (
        (np.zeros(1), np.zeros(len(table), np.int64))
        if classes is None
        else np.unique(classes, return_inverse=True)
    )
    order = np.lexsort((-table.max(-1), table.argmax(-1), group))
    shades = LinearSegmentedColormap.from_list("responsibility", _SHADES)
    # a smoothing of columns, which may be more than pixels, would smear the lines of few components
    thick = max(1, _THICK // table.shape[1])
    drawn = ax.imshow(
        np.repeat(table[order].T, thick, axis=0),
        cmap=shades,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="antialiased",
        extent=(-0.5, len(order) - 0.5, table.shape[1] - 0.5, -0.5),
    )
    ax.figure.colorbar(drawn, ax=ax, pad=0.02).set_label("responsibility (probability)")
    _label_components(mixture, ax)
    part = "" if len(chosen) == len(rows) else f"{len(chosen):,} of "
    sorting = "by likeliest component" if classes is None else "by class, then likeliest component"
    ax.set(xlabel=f"{part}{len(rows):,} rows, {sorting}", ylabel="component")
    if classes is not None:
        _separate(ax, names, np.bincount(group))
    return ax


def _label_components(mixture: GaussianMixture, ax: Axes) -> None:
    weights = mixture.weights.tolist()
    if len(weights) <= _MOST_NAMES:
        beside = [f"no. {k}  ({weight:.2f})" for k, weight in enumerate(weights)]
        ax.set_yticks(range(len(weights)), beside)
    else:
        ax.locator_params(axis="y", integer=True)


def _separate(ax: Axes, names: np.ndarray, sizes: np.ndarray) -> None:
    """Lines between the classes, their names above."""
    ends = np.cumsum(sizes)
    for end in ends[:-1]:
        ax.axvline(float(end) - 0.5, color="#D55E00", linewidth=1.2)
    above = ax.secondary_xaxis("top")
    above.set_xticks((ends - sizes / 2 - 0.5).tolist(), [str(name) for name in names])
    above.tick_params(length=0)
