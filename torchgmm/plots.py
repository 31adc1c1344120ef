"""Pictures of a mixture and of a fit, each drawn on axes that the caller brings (matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .mixture import GaussianMixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Ellipse

__all__ = ["COLOURS", "eigenpatches", "ellipses", "history", "marginal"]

# Okabe & Ito (2008): told apart with every common kind of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#000000")
_GRID = 160  # points along an axis of the density
_SHARES = (0.99, 0.95, 0.8, 0.6, 0.4, 0.2)  # of the mixture within the drawn levels of density
_MOST_ROWS = 4000  # dots beyond this only hide one another


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
    if _features(mixture) < 2:
        raise InputError("ellipses need at least two features: draw marginal(mixture, ax)")
    flat, axes, centre = _in_a_plane(mixture)
    dots = np.zeros((0, 2)) if rows is None else _few(rows) @ axes.numpy() - centre.numpy()
    low, high = _window(flat, dots)
    _density(flat, ax, low, high)
    ax.plot(dots[:, 0], dots[:, 1], ".", color="0.25", markersize=2.5, alpha=0.5, zorder=2)
    _draw_components(flat, ax)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if _features(mixture) > 2:
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
    means, variances = mixture.means.double()[:, feature], _variances(mixture)[:, feature]
    single = GaussianMixture.from_covariances(
        mixture.weights.double(), means[:, None], variances[:, None], "diagonal", dtype=_F64
    )
    dots = np.zeros((0, 1)) if rows is None else _few(rows, 50_000)[:, feature : feature + 1]
    low, high = _window(single, dots)
    grid = torch.linspace(float(low[0]), float(high[0]), 600, dtype=_F64)
    joint = single.log_joint(grid[:, None]).exp()
    if len(dots):
        ax.hist(dots[:, 0], bins="auto", density=True, color="0.85", label="rows")
    if mixture.n_components <= len(COLOURS):
        for k, colour in enumerate(COLOURS[: mixture.n_components]):
            ax.plot(grid, joint[:, k], "--", color=colour, linewidth=1.3, zorder=3)
    ax.plot(grid, joint.sum(-1), color="black", linewidth=1.6, label="mixture", zorder=2)
    ax.set(xlabel=_name(names, feature), ylabel="density", xlim=(low[0], high[0]))
    return ax


@torch.no_grad()
def eigenpatches(
    mixture: GaussianMixture,
    ax: Axes,
    *,
    shape: tuple[int, int] | None = None,
    components: int = 8,
    patches: int = 6,
) -> Axes:
    """Means and leading eigenvectors of the heaviest components as little images.

    One component to a row, its weight beside it: first the mean (all means on one grey scale),
    then the eigenvectors of its covariance with the largest eigenvalues (each on its own, zero in
    the middle; an eigenvector has no sign). A component with a diagonal covariance has no such
    vectors: its standard deviations are shown.

    Args:
        mixture: whose features are the pixels of an image, row by row.
        ax: where to draw.
        shape: height and width of the image; a square if not given.
        components: how many rows.
        patches: how many eigenvectors.

    Raises:
        InputError: the number of features is not that of such an image.
    """
    shape = height, width = _image_shape(_features(mixture), shape)
    weights, order = mixture.weights.sort(descending=True)
    order = order[:components]
    means = mixture.means.double()[order]
    scaled = 2 * (means - means.min()) / (means.max() - means.min()).clamp_min(1e-300) - 1
    vectors = _axes_of(mixture, order, patches)
    vectors = vectors / vectors.abs().amax(-1, keepdim=True)
    tiles = torch.cat([scaled.unsqueeze(1), vectors], 1)
    canvas = np.full((len(order) * (height + 1) - 1, tiles.shape[1] * (width + 1)), np.nan)
    for i, row in enumerate(tiles.cpu().numpy()):
        for j, tile in enumerate(row):
            across = j * (width + 1) + (j > 0)  # a wider gap after the mean
            canvas[i * (height + 1) :, across:][:height, :width] = tile.reshape(shape)
    ax.imshow(canvas, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    _label_tiles(ax, weights[: len(order)].tolist(), order.tolist(), tiles.shape[1], height, width)
    return ax


def history(log_likelihoods: Sequence[float], ax: Axes) -> Axes:
    """The mean log-likelihood that entered every step of a fit.

    Args:
        log_likelihoods: nats per row, one per step.
        ax: where to draw.

    Example:
        >>> from matplotlib.figure import Figure
        >>> history([-3.0, -2.5, -2.4], Figure().add_subplot()).get_xlabel()
        'step'
    """
    steps = np.arange(1, len(log_likelihoods) + 1)
    marker = "." if len(steps) <= 60 else ""
    ax.plot(steps, log_likelihoods, color=COLOURS[0], marker=marker, linewidth=1.4)
    ax.set(xlabel="step", ylabel="mean log-likelihood (nats per row)")
    ax.ticklabel_format(useOffset=False)
    ax.locator_params(axis="x", integer=True)
    ax.grid(color="0.9")
    return ax


# inside -----------------------------------------------------------------------------------------

_F64 = torch.float64


def _features(mixture: GaussianMixture) -> int:
    if mixture.batch_shape:
        raise InputError(
            f"a picture shows one mixture, this is a batch of shape {tuple(mixture.batch_shape)}"
        )
    mixture.as_parameters()  # refuses a mixture that does not know its size yet
    return int(mixture.means.shape[-1])


def _few(rows: Any, most: int = _MOST_ROWS) -> np.ndarray:
    table = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
    if len(table) > most:
        table = table[np.random.default_rng(0).choice(len(table), most, replace=False)]
    return np.asarray(table, dtype=np.float64)


def _half(mixture: GaussianMixture, axes: Tensor) -> Tensor:
    """`A^T L_k`, half of the covariance of every component in the axes `A (D, m)`: `(K, m, D)`."""
    if mixture.family.n_axes == 2:
        return axes.mT @ mixture.scale_tril.double()
    return axes.mT * _variances(mixture).sqrt().unsqueeze(-2)


def _variances(mixture: GaussianMixture) -> Tensor:
    """`(K, D)`."""
    components = mixture.as_distribution().component_distribution
    return components.variance.double()


def _total_covariance(mixture: GaussianMixture) -> Tensor:
    weights, means = mixture.weights.double(), mixture.means.double()
    half = _half(mixture, torch.eye(means.shape[-1], dtype=_F64, device=means.device))
    within = torch.einsum("k,kij,klj->il", weights, half, half)
    apart = means - weights @ means
    return within + (weights.unsqueeze(-1) * apart).mT @ apart


def _in_a_plane(mixture: GaussianMixture) -> tuple[GaussianMixture, Tensor, Tensor]:
    """The mixture in a plane, the plane's axes `(D, 2)`, and its origin `(2,)` in those axes."""
    d = mixture.means.shape[-1]
    axes = torch.eye(d, dtype=_F64, device=mixture.device)
    means = mixture.means.double()
    centre = means.new_zeros(2)
    if d > 2:
        axes = torch.linalg.eigh(_total_covariance(mixture)).eigenvectors[:, [-1, -2]]
        axes = axes * _sign(axes.mT).unsqueeze(0)
        centre = (mixture.weights.double() @ means) @ axes
    half = _half(mixture, axes)
    covariances = half @ half.mT
    covariances = (covariances + covariances.mT) / 2
    flat = GaussianMixture.from_covariances(
        mixture.weights.double(), means @ axes - centre, covariances, "full", dtype=_F64
    )
    return flat.cpu(), axes.cpu(), centre.cpu()


def _sign(vectors: Tensor) -> Tensor:
    """The sign of the largest entry of every vector `(..., D)`: one picture for one mixture."""
    return vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True)).sign().squeeze(-1)


def _window(flat: GaussianMixture, dots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where there is something to see: the rows, and two standard deviations of each component."""
    means, spread = flat.means.detach().numpy(), _variances(flat).sqrt().numpy()
    low = np.concatenate([means - 2 * spread, dots]).min(0)
    high = np.concatenate([means + 2 * spread, dots]).max(0)
    margin = 0.06 * np.maximum(high - low, np.finfo(np.float64).tiny)
    return low - margin, high + margin


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


def _image_shape(n_features: int, shape: tuple[int, int] | None) -> tuple[int, int]:
    side = round(n_features**0.5)
    height, width = shape or (side, side)
    if height * width != n_features:
        raise InputError(
            f"{n_features} features are no image of {height}x{width} pixels: give its shape"
        )
    return height, width


def _axes_of(mixture: GaussianMixture, order: Tensor, patches: int) -> Tensor:
    """Leading eigenvectors `(k, patches, D)`; for diagonal families the deviations `(k, 1, D)`."""
    if mixture.family.n_axes == 1:
        return _variances(mixture)[order].sqrt().unsqueeze(1)
    factor = mixture.scale_tril[order].double()
    vectors: Tensor = torch.linalg.eigh(factor @ factor.mT).eigenvectors.mT.flip(-2)[:, :patches]
    return vectors * _sign(vectors).unsqueeze(-1)


def _label_tiles(
    ax: Axes, weights: list[float], numbers: list[int], n_tiles: int, height: int, width: int
) -> None:
    rows = [i * (height + 1) + (height - 1) / 2 for i in range(len(weights))]
    columns = [j * (width + 1) + (j > 0) + (width - 1) / 2 for j in range(n_tiles)]
    beside = [f"no. {k}:  {weight:.3f}" for weight, k in zip(weights, numbers, strict=True)]
    above = ["mean", *(str(j) for j in range(1, n_tiles))]
    if n_tiles == 2:
        above[1] = "deviation"
    ax.set_yticks(rows, beside)
    ax.set_xticks(columns, above)
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.text(-1.5, -1.5, "weight", ha="right", va="bottom")
    last = "standard deviations" if n_tiles == 2 else "leading eigenvectors of the covariance"
    ax.set_xlabel(f"mean, then {last}")
