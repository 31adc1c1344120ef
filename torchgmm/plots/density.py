"""Densities: components as ellipses in a plane, and one feature alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..mixture import GaussianMixture
from .common import COLOURS, features, sign, variances

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Ellipse

__all__ = ["ellipses", "marginal"]

_GRID = 160  # points along an axis of the density
_SHARES = (0.99, 0.95, 0.8, 0.6, 0.4, 0.2)  # of the mixture within the drawn levels of density
_MOST_ROWS = 4000  # dots beyond this only hide one another
_F64 = torch.float64


@torch.no_grad()
def ellipses(
    mixture: GaussianMixture, ax: Axes, *, rows: Any = None, names: Sequence[str] | None = None
) -> Axes:
    """The components as ellipses of 1 and 2 standard deviations, over the log-density.

    The levels of the density bound the densest regions that hold 20 % to 99 % of the mixture. A
    mixture of more than two features is drawn in the plane of the two leading principal axes
    of its total covariance: every component is projected, and so is the density.

    Args:
        mixture: of at least two features.
        ax: where to draw.
        rows: `(N, D)`, drawn as dots; a random part of them is enough.
        names: of the features, for the labels.

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
    flat, axes, centre = _in_a_plane(mixture)
    dots = np.zeros((0, 2)) if rows is None else _few(rows) @ axes.numpy() - centre.numpy()
    low, high = _window(flat, dots)
    _density(flat, ax, low, high)
    ax.plot(dots[:, 0], dots[:, 1], ".", color="0.25", markersize=2.5, alpha=0.5, zorder=2)
    _draw_components(flat, ax)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if features(mixture) > 2:
        ax.set(xlabel="1st principal axis", ylabel="2nd principal axis")
    else:
        ax.set(xlabel=_name(names, 0), ylabel=_name(names, 1))
    return ax


@torch.no_grad()
def marginal(
    mixture: GaussianMixture,
    ax: Axes,
    *,
    feature: int = 0,
    rows: Any = None,
    names: Sequence[str] | None = None,
) -> Axes:
    """The density of one feature, its components, and a histogram of the rows.

    Args:
        mixture: of any number of features.
        ax: where to draw.
        feature: which one.
        rows: `(N, D)`.
        names: of the features, for the label.
    """
    features(mixture)  # refuses a batch
    parts = (mixture.means.double()[:, feature, None], variances(mixture)[:, feature, None])
    means, spread = (part.cpu() for part in parts)
    single = GaussianMixture.from_covariances(
        mixture.weights.double().cpu(), means, spread, "diagonal", dtype=_F64
    )
    dots = np.zeros((0, 1)) if rows is None else _few(rows, 50_000)[:, feature : feature + 1]
    low, high = _window(single, dots)
    grid = torch.linspace(float(low[0]), float(high[0]), 600, dtype=_F64)
    joint = single.log_joint(grid[:, None]).exp()
    if len(dots):
        bins = int(np.clip(len(dots) ** 0.5, 8, 80))
        ax.hist(dots[:, 0], bins, density=True, color="0.85", label="rows")
    if mixture.n_components <= len(COLOURS):
        for k, colour in enumerate(COLOURS[: mixture.n_components]):
            label = "" if k else "components"
            ax.plot(grid, joint[:, k], "--", color=colour, linewidth=1.3, label=label, zorder=3)
    ax.plot(grid, joint.sum(-1), color="black", linewidth=1.6, label="mixture", zorder=2)
    ax.set(xlabel=_name(names, feature), ylabel="density", xlim=(low[0], high[0]))
    return ax


def _in_a_plane(mixture: GaussianMixture) -> tuple[GaussianMixture, Tensor, Tensor]:
    """The mixture in a plane, the plane's axes `(D, 2)`, and its origin `(2,)` in those axes."""
    d = mixture.means.shape[-1]
    axes = torch.eye(d, dtype=_F64, device=mixture.device)
    means = mixture.means.double()
    centre = means.new_zeros(2)
    if d > 2:
        axes = torch.linalg.eigh(_total_covariance(mixture)).eigenvectors[:, [-1, -2]]
        axes = axes * sign(axes.mT).unsqueeze(0)
        centre = (mixture.weights.double() @ means) @ axes
    half = _half(mixture, axes)
    covariances = half @ half.mT
    covariances = (covariances + covariances.mT) / 2
    flat = GaussianMixture.from_covariances(
        mixture.weights.double(), means @ axes - centre, covariances, "full", dtype=_F64
    )
    return flat.cpu(), axes.cpu(), centre.cpu()


def _total_covariance(mixture: GaussianMixture) -> Tensor:
    weights, means = mixture.weights.double(), mixture.means.double()
    half = _half(mixture, torch.eye(means.shape[-1], dtype=_F64, device=means.device))
    within = torch.einsum("k,kij,klj->il", weights, half, half)
    apart = means - weights @ means
    return within + (weights.unsqueeze(-1) * apart).mT @ apart


def _half(mixture: GaussianMixture, axes: Tensor) -> Tensor:
    """`A^T L_k`, half of the covariance of every component in the axes `A (D, m)`: `(K, m, D)`."""
    if mixture.family.n_axes == 2:
        return axes.mT @ mixture.scale_tril.double()
    return axes.mT * variances(mixture).sqrt().unsqueeze(-2)


def _window(flat: GaussianMixture, dots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where there is something to see: the rows, and two standard deviations of each component."""
    means, spread = flat.means.detach().numpy(), variances(flat).sqrt().numpy()
    low = np.concatenate([means - 2 * spread, dots]).min(0)
    high = np.concatenate([means + 2 * spread, dots]).max(0)
    margin = 0.06 * np.maximum(high - low, np.finfo(np.float64).tiny)
    return low - margin, high + margin


def _few(rows: Any, most: int = _MOST_ROWS) -> np.ndarray:
    if len(rows) > most:
        rows = rows[np.random.default_rng(0).choice(len(rows), most, replace=False)]
    return rows.double().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows, np.float64)


def _density(flat: GaussianMixture, ax: Axes, low: np.ndarray, high: np.ndarray) -> None:
    across, up = (np.linspace(low[i], high[i], _GRID) for i in range(2))
    grid = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
    height = flat.log_prob(grid).reshape(_GRID, _GRID).numpy()
    own = flat.log_prob(flat.sample((4096,), torch.Generator().manual_seed(0))).numpy()
    levels = np.quantile(own, [1 - share for share in _SHARES])
    steps = [*levels, max(float(own.max()), float(height.max())) + 1e-9]
    greys = [str(0.96 - 0.075 * i) for i in range(len(levels))]
    drawn = ax.contourf(across, up, height, levels=steps, colors=greys, zorder=0)
    bar = ax.figure.colorbar(drawn, ax=ax, ticks=levels, spacing="uniform", pad=0.02)
    pairs = zip(levels, _SHARES, strict=True)
    bar.ax.set_yticklabels([f"{level:.1f}  ({share:.0%})" for level, share in pairs])
    bar.set_label("log-density in nats (share of the mixture inside)")


def _draw_components(flat: GaussianMixture, ax: Axes) -> None:
    weights, means = flat.weights.tolist(), flat.means.detach().numpy()
    few = len(weights) <= len(COLOURS)
    for k, weight in enumerate(weights):
        colour = COLOURS[k] if few else COLOURS[0]
        shade = 1.0 if few else 0.2 + 0.8 * weight / max(weights)
        for scale, line in ((1, "-"), (2, "--")) if few else ((2, "-"),):
            shape = _ellipse(means[k], flat.covariances[k], scale)
            shape.set(edgecolor=colour, linestyle=line, linewidth=1.5, alpha=shade, zorder=3)
            ax.add_patch(shape)
        if few:
            _label(ax, f"{weight:.2f}", means[k], colour)


def _ellipse(mean: np.ndarray, covariance: Tensor, scale: float) -> Ellipse:
    from matplotlib.patches import Ellipse

    values, vectors = torch.linalg.eigh(covariance)
    width, height = (2 * scale * values.sqrt()).tolist()
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


def _name(names: Sequence[str] | None, feature: int) -> str:
    return names[feature] if names else f"feature {feature}"
