"""Densities: levels in a plane, components as ellipses, one feature alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InputError
from ..mixture import GaussianMixture
from .common import COLOURS, features, names_of
from .parts import (
    GREYS,
    colours_of,
    draw_components,
    draw_dots,
    draw_levels,
    draw_marginal,
    labels_of,
)
from .views import View, line_view, plane_view

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["density", "ellipses", "marginal"]

_MOST_DOTS = 4000  # dots beyond this only hide one another
# one hue, lighter to darker: read the same by every eye, and by none as the colour of a component
_BLUES = ("#eef4fa", "#d3e4f2", "#abcde6", "#78b0d7", "#4390c2", "#1f6ba5")


@torch.no_grad()
def ellipses(
    mixture: GaussianMixture,
    ax: Axes,
    *,
    rows: Any = None,
    weights: Any = None,
    labels: Any = None,
    plane: Any = None,
    names: Sequence[str] | None = None,
    groups: Any = None,
) -> Axes:
    """The components as ellipses of 1 and 2 standard deviations, over the log-density.

    The levels of the density bound the densest regions that hold 20 % to 99 % of the mixture. A
    mixture of more than two features is drawn in the plane of the two leading principal axes
    of its total covariance: every component is projected, and so is the density.

    Args:
        mixture: of at least two features.
        ax: where to draw.
        rows: `(N, D)`, drawn as dots; a random part of them is enough.
        weights: of the rows, `(N,)`; one of weight 0 is absent, others are drawn alike.
        labels: `(N,)`, a class for every row, drawn in a colour and a shape of its own. Numbers
            of components (as `mixture.predict` gives them) take the components' colours, -1 is
            grey; beside classes that have names the components are black.
        plane: two numbers of features to draw instead, a matrix `(2, D)` of directions, or a
            projection (`tg.discriminant(mixture)`, a fitted `tg.PCA(2)`).
        names: of the features, for the labels; those of a data frame's columns if not given.
        groups: a cluster for every component `(K,)`, as `tg.cluster(...).groups()` gives them:
            those of one cluster share a colour.

    Example:
        >>> import torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> mixture = tg.GaussianMixture.from_covariances([1.0], [[0.0, 0.0]], [[1.0, 4.0]], "diag")
        >>> ax = ellipses(mixture, Figure().add_subplot())
        >>> ax.get_xlabel(), len(ax.patches)
        ('feature 0', 2)
    """
    if features(mixture) < 2:
        raise InputError("ellipses need at least two features: draw marginal(mixture, ax)")
    view = plane_view(mixture, plane, names_of(names, rows))
    _draw_plane(view, ax, rows, weights, labels, GREYS)
    draw_components(view, ax, colours_of(mixture.n_components, labels, groups))
    return ax


@torch.no_grad()
def density(
    mixture: GaussianMixture,
    ax: Axes,
    *,
    rows: Any = None,
    weights: Any = None,
    labels: Any = None,
    plane: Any = None,
    names: Sequence[str] | None = None,
) -> Axes:
    """The log-density as filled contours, without the components; of one feature, a curve.

    Args:
        mixture: of any number of features; more than two are projected, as in `ellipses`.
        ax: where to draw.
        rows: `(N, D)`, drawn as dots; a random part of them is enough.
        weights: of the rows, `(N,)`; one of weight 0 is absent, others are drawn alike.
        labels: `(N,)`, a class for every row, as in `ellipses`.
        plane: two numbers of features, a matrix `(2, D)` of directions, or a projection.
        names: of the features, for the labels; those of a data frame's columns if not given.

    Example:
        >>> import torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> mixture = tg.GaussianMixture.from_covariances([1.0], [[0.0] * 3], [[1, 4, 2]], "diag")
        >>> density(mixture, Figure().add_subplot(), plane=(1, 2)).get_ylabel()
        'feature 2'
    """
    if features(mixture) == 1:
        if labels is not None or plane is not None:
            raise InputError("one feature is drawn as a curve: it has no labels and no plane")
        marginal(mixture, ax, rows=rows, weights=weights, names=names, components=False)
        ax.legend(fontsize="small")
        return ax
    view = plane_view(mixture, plane, names_of(names, rows))
    _draw_plane(view, ax, rows, weights, labels, _BLUES)
    return ax


@torch.no_grad()
def marginal(
    mixture: GaussianMixture,
    ax: Axes,
    *,
    feature: Any = 0,
    rows: Any = None,
    weights: Any = None,
    names: Sequence[str] | None = None,
    components: bool = True,
) -> Axes:
    """The density of one feature, its components, and a histogram of the rows.

    Args:
        mixture: of any number of features.
        ax: where to draw.
        feature: which one; or a direction `(D,)`, along which everything is projected.
        rows: `(N, D)`.
        weights: of the rows, `(N,)`, for the histogram.
        names: of the features, for the label; those of a data frame's columns if not given.
        components: whether to draw each; more than eight are left out.

    Example:
        >>> import torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> mixture = tg.GaussianMixture.from_covariances([1.0], [[0.0, 0.0]], [[1.0, 4.0]], "diag")
        >>> marginal(mixture, Figure().add_subplot(), feature=1).get_xlabel()
        'feature 1'
    """
    shown = COLOURS[: mixture.n_components] if components else ()
    draw_marginal(line_view(mixture, feature, names_of(names, rows)), ax, rows, weights, shown)
    return ax


def _draw_plane(
    view: View, ax: Axes, rows: Any, weights: Any, labels: Any, colours: Sequence[str]
) -> None:
    dots, chosen = view.dots(rows, _MOST_DOTS, weights)
    low, high = view.window(dots)
    draw_levels(view, ax, low, high, colours, bar=True)
    draw_dots(ax, dots, labels_of(labels, rows, chosen))
    if labels is not None:
        ax.legend(fontsize="small", markerscale=2)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    ax.set(xlabel=view.labels[0], ylabel=view.labels[1])
