"""Components of a mixture of images, as images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..mixture import GaussianMixture
from .common import features, sign, variances

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["eigenpatches"]


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

    Example:
        >>> import torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> ax = eigenpatches(tg.GaussianMixture(2, 16), Figure().add_subplot(), patches=3)
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['mean', '1', '2', '3']
    """
    shape = height, width = _image_shape(features(mixture), shape)
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
        return variances(mixture)[order].sqrt().unsqueeze(1)
    factor = mixture.scale_tril[order].double()
    vectors: Tensor = torch.linalg.eigh(factor @ factor.mT).eigenvectors.mT.flip(-2)[:, :patches]
    return vectors * sign(vectors).unsqueeze(-1)


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
