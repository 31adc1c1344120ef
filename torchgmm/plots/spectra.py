"""How the components spread: the spectrum of every covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..mixture import GaussianMixture
from .common import COLOURS, MARKERS, features, variances

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["spectra"]

_MOST_MARKS = 40  # features


@torch.no_grad()
def spectra(mixture: GaussianMixture, ax: Axes, *, components: int | None = None) -> Axes:
    """The eigenvalues of every component's covariance, largest first, on a logarithmic scale.

    A spectrum that falls steeply is that of a component which is flat in most directions; one that
    ends in a level line has met the floor (`reg_covar`) or is noise.

    Args:
        mixture: of any number of features. The spectrum of a diagonal covariance is that of its
            variances.
        ax: where to draw.
        components: how many of the heaviest; all if not given. Up to eight are told apart by
            colour and marker, more are drawn darker the heavier they are.

    Example:
        >>> import torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> mixture = tg.GaussianMixture.from_covariances([1.0], [[0.0, 0.0]], [[1.0, 4.0]], "diag")
        >>> spectra(mixture, Figure().add_subplot()).lines[0].get_ydata().tolist()
        [4.0, 1.0]
    """
    d = features(mixture)
    values = _spectra(mixture).cpu().numpy()
    weights = mixture.weights.detach().cpu().double().numpy()
    order = np.argsort(-weights, kind="stable")[:components]
    few = len(order) <= len(COLOURS)
    mark = d <= _MOST_MARKS
    for place, k in enumerate(order):
        own = int(k) if len(weights) <= len(COLOURS) else place  # as in every other picture
        shade = 1.0 if few else 0.15 + 0.85 * weights[k] / weights.max()
        ax.plot(
            np.arange(1, d + 1),
            values[k],
            color=COLOURS[own if few else 0],
            marker=(MARKERS[own] if few else ".") if mark else "",
            alpha=shade,
            linewidth=1.4,
            markersize=4,
            label=f"no. {k}: weight {weights[k]:.2f}" if few else "",
        )
    ax.set(
        yscale="log",
        xlabel="principal axis of the component",
        ylabel="variance (squared units of the features)",
    )
    ax.locator_params(axis="x", integer=True)
    ax.grid(color="0.9")
    if few:
        ax.legend(fontsize="small")
    else:
        ax.set_title(f"{len(order)} components, heavier ones darker", fontsize="medium")
    return ax


def _spectra(mixture: GaussianMixture) -> Tensor:
    """`(K, D)`, falling, float64."""
    if mixture.family.n_axes == 1:
        return variances(mixture).sort(-1, descending=True).values
    # squares of the factor's singular values: small ones are not lost beside large ones
    values: Tensor = torch.linalg.svdvals(mixture.scale_tril.double()).square()
    return values
