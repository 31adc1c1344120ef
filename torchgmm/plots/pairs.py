"""A table of pictures: every feature alone, and every two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..mixture import GaussianMixture
from .common import COLOURS, features, name_of, names_of
from .parts import (
    colours_of,
    draw_components,
    draw_dots,
    draw_levels,
    draw_marginal,
    labels_of,
)
from .views import line_view, plane_view

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["pairs"]

_MOST = 8  # features: beyond, panels are too small to read
_WIDE = 4  # panels in a line that are wide enough for most names of features
_MOST_DOTS = 1500  # in a panel, which is smaller than a picture of its own
_GREYS = ("#f3f3f3", "#e6e6e6", "#d6d6d6", "#c4c4c4", "#b0b0b0", "#9a9a9a")
_GAP = 0.06  # between panels, of the width of one


@torch.no_grad()
def pairs(
    mixture: GaussianMixture,
    ax: Axes,
    *,
    rows: Any = None,
    weights: Any = None,
    labels: Any = None,
    features: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    groups: Any = None,
) -> Axes:
    """Every feature alone on the diagonal, every two of them below it.

    On the diagonal stands what `marginal` draws, below it what `ellipses` does: the marginal
    mixture of two features is exact, nothing is projected away.

    Args:
        mixture: of at least two features.
        ax: where to draw; its place is divided into panels, each an axes inside it
            (`ax.child_axes`, line by line).
        rows: `(N, D)`, drawn as dots and histograms; a random part of them is enough.
        weights: of the rows, `(N,)`, for the histograms; one of weight 0 is absent.
        labels: `(N,)`, a class for every row, as in `ellipses`.
        features: which of them, at most eight; all if not given.
        names: of all D features, for the labels; those of a data frame's columns if not given.
        groups: a cluster for every component, as in `ellipses`.

    Raises:
        InputError: more features than can be read.

    Example:
        >>> import torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> mixture = tg.GaussianMixture(2, 3, covariance="diagonal")
        >>> ax = pairs(mixture, Figure().add_subplot())
        >>> len(ax.child_axes)  # 3 on the diagonal, 3 below
        6
    """
    chosen = _chosen(mixture, features)
    m = len(chosen)
    side = 1 / (m + (m - 1) * _GAP)
    step = side * (1 + _GAP)
    d, k = int(mixture.means.shape[-1]), mixture.n_components
    colours = colours_of(k, labels, groups)
    names = names_of(names, rows)
    for i, below in enumerate(chosen):
        for j, across in enumerate(chosen[: i + 1]):
            panel = ax.inset_axes((j * step, 1 - i * step - side, side, side))
            if i == j:
                shown = colours if k <= len(COLOURS) else ()
                draw_marginal(line_view(mixture, across), panel, rows, weights, shown)
                panel.set(yticks=[], ylabel="", ylim=(0, None))
            else:
                _pair(mixture, panel, (across, below), rows, weights, labels, colours)
            panel.set_xlabel(name_of(names, across, d) if i == m - 1 else "")
            panel.set_ylabel(name_of(names, below, d) if j == 0 and i else "")
            if m > _WIDE:
                panel.xaxis.label.set(rotation=25, ha="right", fontsize="small")
                panel.yaxis.label.set(rotation=0, ha="right", va="center", fontsize="small")
            panel.locator_params(nbins=4)
            panel.tick_params(labelbottom=i == m - 1, labelleft=j == 0 and i > 0, labelsize=8)
    ax.set_axis_off()
    _legend(ax, colours, _names(mixture, groups), labels is not None)
    return ax


def _chosen(mixture: GaussianMixture, wanted: Sequence[int] | None) -> list[int]:
    d = features(mixture)
    chosen = list(range(d)) if wanted is None else [int(f) for f in wanted]
    if any(not 0 <= f < d for f in chosen) or len(set(chosen)) < len(chosen):
        raise InputError(f"features {chosen} are not different ones of 0 to {d - 1}")
    if not 2 <= len(chosen) <= _MOST:
        raise InputError(
            f"pairs of {len(chosen)} feature(s) cannot be drawn: give features=, the numbers of 2 "
            f"to {_MOST} of the {d}"
        )
    return chosen


def _pair(
    mixture: GaussianMixture,
    panel: Axes,
    plane: tuple[int, int],
    rows: Any,
    weights: Any,
    labels: Any,
    colours: Sequence[str],
) -> None:
    view = plane_view(mixture, plane)
    dots, drawn = view.dots(rows, _MOST_DOTS, weights)
    low, high = view.window(dots)
    draw_levels(view, panel, low, high, _GREYS, bar=False)
    draw_dots(panel, dots, labels_of(labels, rows, drawn), size=2.4)
    draw_components(view, panel, colours, weights=False)
    panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def _names(mixture: GaussianMixture, groups: Any) -> list[str]:
    """What every component is called in the legend."""
    weights = mixture.weights.detach().cpu()
    if groups is None:
        return [f"no. {k}: weight {weight:.2f}" for k, weight in enumerate(weights.tolist())]
    numbers = torch.as_tensor(groups).cpu()
    together = torch.zeros(int(numbers.max()) + 1, dtype=weights.dtype)
    together.index_add_(0, numbers, weights)
    return [f"cluster {g}: weight {together[g]:.2f}" for g in numbers.tolist()]


def _legend(ax: Axes, colours: Sequence[str], names: Sequence[str], with_labels: bool) -> None:
    """In the empty corner: which colour is which component, and what the lines are."""
    from matplotlib.axes import Axes as Panel
    from matplotlib.lines import Line2D

    lines: list[Line2D] = []
    if len(set(colours)) > 1:
        told = dict(zip(names, colours, strict=True))  # once for all components of a cluster
        lines = [Line2D([], [], color=told[name], label=name) for name in told]
    lines.append(Line2D([], [], color="black", label="mixture"))
    if with_labels:
        below = next(p for p in ax.child_axes[1:] if isinstance(p, Panel))
        dots, _ = below.get_legend_handles_labels()
        lines += [line for line in dots if isinstance(line, Line2D)]
    ax.legend(handles=lines, loc="upper right", fontsize="small", frameon=False, markerscale=2.5)
