"""What several pictures are made of: levels of density, dots, ellipses, curves, their colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .common import COLOURS, MARKERS
from .views import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Ellipse

__all__ = [
    "GREYS",
    "colours_of",
    "draw_components",
    "draw_dots",
    "draw_levels",
    "draw_marginal",
    "labels_of",
]

_GRID = 160  # points along an axis of the density
_SHARES = (0.99, 0.95, 0.8, 0.6, 0.4, 0.2)  # of the mixture within the drawn levels of density
_CLOSER = 64  # components with points of a curve of their own
_MOST_BARS = 50_000  # rows in a histogram
GREYS = tuple(str(round(0.96 - 0.075 * i, 3)) for i in range(len(_SHARES)))


def draw_levels(
    view: View, ax: Axes, low: np.ndarray, high: np.ndarray, colours: Sequence[str], *, bar: bool
) -> None:
    """The log-density as filled contours in a window."""
    flat = view.mixture
    across, up = (np.linspace(low[i], high[i], _GRID) for i in range(2))
    grid = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
    height = flat.log_prob(grid).reshape(_GRID, _GRID).numpy()
    own = flat.log_prob(flat.sample((4096,), torch.Generator().manual_seed(0))).numpy()
    levels = np.quantile(own, [1 - share for share in _SHARES])
    steps = [*levels, max(float(own.max()), float(height.max())) + 1e-9]
    drawn = ax.contourf(across, up, height, levels=steps, colors=list(colours), zorder=0)
    if not bar:
        return
    scale = ax.figure.colorbar(drawn, ax=ax, ticks=levels, spacing="uniform", pad=0.02)
    pairs = zip(levels, _SHARES, strict=True)
    scale.ax.set_yticklabels([f"{level:.1f}  ({share:.0%})" for level, share in pairs])
    scale.set_label("log-density, nats (share of the mixture inside)")


def draw_marginal(view: View, ax: Axes, rows: Any, weights: Any, colours: Sequence[str]) -> None:
    """A histogram, the mixture, and the components if there is a colour for each."""
    dots, chosen = view.dots(rows, _MOST_BARS, weights)
    low, high = view.window(dots)
    grid = _line(view, float(low[0]), float(high[0]))
    joint = view.mixture.log_joint(grid[:, None]).exp()
    if len(dots):
        bins = int(np.clip(len(dots) ** 0.5, 8, 80))
        w = None if weights is None else as_array(weights)[chosen]
        ax.hist(dots[:, 0], bins, density=True, weights=w, color="0.85", label="rows")
    if len(colours) == joint.shape[-1]:
        for k, colour in enumerate(colours):
            label = "" if k else "components"
            ax.plot(grid, joint[:, k], "--", color=colour, linewidth=1.3, label=label, zorder=3)
    ax.plot(grid, joint.sum(-1), color="black", linewidth=1.6, label="mixture", zorder=2)
    ax.set(xlabel=view.labels[0], ylabel="density", xlim=(low[0], high[0]))


def _line(view: View, low: float, high: float) -> Tensor:
    """Points from low to high, closer where the heaviest components are, however narrow."""
    heaviest = view.mixture.weights.detach().argsort(descending=True)[:_CLOSER]
    spread = view.covariances[heaviest, :, 0].sqrt()
    near = view.mixture.means.detach()[heaviest] + spread * torch.linspace(-4, 4, 41)
    even = torch.linspace(low, high, 600, dtype=torch.float64)
    return torch.cat([even, near.flatten().clamp(low, high)]).sort().values


def colours_of(n_components: int, labels: Any, groups: Any = None) -> list[str]:
    """One for every component; of one kind where they are many, or where classes have theirs."""
    if groups is not None:
        numbers = as_array(groups)
        if numbers.shape != (n_components,) or not np.issubdtype(numbers.dtype, np.integer):
            raise InputError(
                f"groups must be {n_components} integers, a cluster for every component, got shape "
                f"{numbers.shape}, {numbers.dtype}"
            )
        return [COLOURS[group % len(COLOURS)] for group in numbers.tolist()]
    if labels is None:
        few = n_components <= len(COLOURS)
        return list(COLOURS[:n_components]) if few else [COLOURS[0]] * n_components
    numbered = not isinstance(_classes(as_array(labels))[0][0], str)
    if numbered and n_components <= len(COLOURS):
        return list(COLOURS[:n_components])
    return ["black"] * n_components


def draw_dots(ax: Axes, dots: np.ndarray, labels: np.ndarray | None, size: float = 3.0) -> None:
    """The rows: grey, or a colour and a shape for every label that is a class."""
    if labels is None:
        ax.plot(dots[:, 0], dots[:, 1], ".", color="0.25", markersize=size, alpha=0.5, zorder=2)
        return
    for place, (name, chosen) in enumerate(_classes(labels)):
        number = place if isinstance(name, str) else name
        around = number // len(COLOURS)  # the colours used up, other pairs of colour and shape
        none = number < 0  # the number of a row that is of no class
        ax.plot(
            dots[chosen, 0],
            dots[chosen, 1],
            "." if none else MARKERS[(number + 3 * around) % len(MARKERS)],
            color="0.45" if none else COLOURS[number % len(COLOURS)],
            markersize=size,
            markeredgewidth=0,
            alpha=0.75,
            zorder=2,
            label=str(name),
        )


def draw_components(view: View, ax: Axes, colours: Sequence[str], *, weights: bool = True) -> None:
    """Ellipses; where they are few, two for each and its weight if asked for."""
    shares, covariances = view.mixture.weights.tolist(), view.covariances
    few = len(shares) <= len(COLOURS)
    for k, weight in enumerate(shares):
        shade = 1.0 if few else 0.2 + 0.8 * weight / max(shares)
        for scale, line in ((1, "-"), (2, "--")) if few else ((2, "-"),):
            shape = _ellipse(view.means[k], covariances[k], scale)
            shape.set(edgecolor=colours[k], linestyle=line, linewidth=1.5, alpha=shade, zorder=3)
            ax.add_patch(shape)
        if few and weights:
            _label(ax, f"{weight:.2f}", view.means[k], colours[k])


def labels_of(labels: Any, rows: Any, chosen: np.ndarray) -> np.ndarray | None:
    """The labels of the chosen rows."""
    if labels is None:
        return None
    given = as_array(labels)
    if rows is None or given.shape != (len(rows),):
        n_rows = 0 if rows is None else len(rows)
        raise InputError(f"labels of shape {given.shape} for {n_rows} rows: give one for each")
    return np.asarray(given[chosen])


def as_array(labels: Any) -> np.ndarray:
    """Labels or weights, whatever holds them."""
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)


def _classes(labels: np.ndarray) -> list[tuple[int | str, np.ndarray]]:
    """Every label, a number or else a name, and where it stands."""
    names, place = np.unique(labels, return_inverse=True)
    numbers = np.issubdtype(names.dtype, np.integer)
    return [(int(n) if numbers else str(n), place == i) for i, n in enumerate(names)]


def _ellipse(mean: np.ndarray, covariance: Tensor, scale: float) -> Ellipse:
    from matplotlib.patches import Ellipse

    values, vectors = torch.linalg.eigh(covariance)
    width, height = (2 * scale * values.clamp_min(0).sqrt()).tolist()
    angle = float(torch.rad2deg(torch.atan2(vectors[1, 0], vectors[0, 0])))
    return Ellipse((float(mean[0]), float(mean[1])), width, height, angle=angle, fill=False)


def _label(ax: Axes, text: str, at: np.ndarray, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour, "alpha": 0.85}
    ax.annotate(
        text,
        (float(at[0]), float(at[1])),
        color=colour,
        fontsize=9,
        ha="center",
        va="center",
        bbox=box,
        zorder=4,
    )
