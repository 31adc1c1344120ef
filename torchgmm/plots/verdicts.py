"""What was found out about a mixture: is it right, is one component more needed, which are one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from .common import COLOURS, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Calibrated", "Joined", "Tested", "calibration", "entropy", "likelihood_ratio"]

_KOLMOGOROV = 1.358  # his distribution is below with probability 0.95
_COLOURED = 5  # more curves than these cross too often to be followed


class Calibrated(Protocol):
    """What `torchgmm.calibrate` gives."""

    @property
    def n_rows(self) -> float:
        """The rows."""

    @property
    def p_value(self) -> Tensor:
        """Of every feature, `(D,)`."""

    @property
    def histogram(self) -> Tensor:
        """Shares of the rows in equal parts of [0, 1], `(D, parts)`."""


class Tested(Protocol):
    """What `torchgmm.bootstrap_test` gives."""

    @property
    def statistic(self) -> float:
        """Of the rows."""

    @property
    def replicates(self) -> Tensor:
        """Of rows drawn from the smaller mixture."""

    @property
    def p_value(self) -> float:
        """Of the smaller mixture."""

    @property
    def null(self) -> Any:
        """The smaller mixture."""


class Joined(Protocol):
    """What `torchgmm.cluster` gives."""

    @property
    def entropy(self) -> Sequence[float]:
        """Of the memberships in 1, 2, ... clusters."""

    @property
    def n_clusters(self) -> int:
        """The number that is proposed."""


def calibration(found: Calibrated, ax: Axes, *, names: Sequence[str] | None = None) -> Axes:
    """How far the uniforms of the rows are from uniform, feature by feature: 0 if all is right.

    A curve is the share of the rows whose uniform is below a value, less that value; the farthest
    it goes is the distance of the test, of which the grey band holds 95 % under a right mixture.
    First below and then above 0: the mixture is too wide, the other way round too narrow; on one
    side only: it lies to the other. The five features with the least p-values have colours, the
    others are grey.

    Args:
        found: what `torchgmm.calibrate` gave.
        ax: where to draw.
        names: of the features, for the legend.

    Example:
        >>> import torch, torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> mixture = tg.GaussianMixture.from_covariances([1.0], [[0.0]], [[1.0]], "diagonal")
        >>> found = tg.calibrate(mixture, torch.randn(500, 1))
        >>> len(calibration(found, Figure().add_subplot()).lines)  # the one feature, and 0
        2
    """
    shares, tails = found.histogram.cpu().numpy(), found.p_value.cpu().numpy()
    d, parts = shares.shape
    edges = np.linspace(0, 1, parts + 1)
    beyond = np.pad(shares.cumsum(1), ((0, 0), (1, 0))) - edges
    root = float(found.n_rows) ** 0.5
    band = _KOLMOGOROV / (root + 0.12 + 0.11 / root)
    ax.axhspan(-band, band, color="0.92", label="95 % under a right mixture", zorder=0)
    ax.axhline(0, color="0.5", linewidth=0.8, zorder=1)
    order = np.argsort(tails, kind="stable")
    for place, feature in reversed(list(enumerate(order.tolist()))):
        coloured = place < _COLOURED
        ax.plot(
            edges,
            beyond[feature],
            color=COLOURS[place] if coloured else "0.75",
            linewidth=1.6 if coloured else 1,
            zorder=3 if coloured else 2,
        )
    told = [f"{name_of(names, f, d)}: p = {tails[f]:.2g}" for f in order[:_COLOURED].tolist()]
    curves = ax.lines[: -len(told) - 1 : -1]
    band_drawn = ax.patches[0]
    ax.legend([*curves, band_drawn], [*told, str(band_drawn.get_label())], fontsize="small")
    ax.set(
        xlabel="u: probability of a smaller value",
        ylabel="share of the rows below u, less u",
        xlim=(0, 1),
    )
    return ax


def likelihood_ratio(found: Tested, ax: Axes) -> Axes:
    """The likelihood ratio of K + 1 components beside those of rows drawn from K.

    Args:
        found: what `torchgmm.bootstrap_test` gave.
        ax: where to draw.

    Example:
        >>> import torch, torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> found = tg.bootstrap_test(torch.randn(100, 1), 1, n_replicates=9, generator=0)
        >>> likelihood_ratio(found, Figure().add_subplot()).get_ylabel()
        'replicates'
    """
    drawn = found.replicates.cpu().numpy()
    drawn = drawn[~np.isnan(drawn)]
    k = int(found.null.n_components)
    bins = max(8, int(len(drawn) ** 0.5) * 2)
    heights, _, _ = ax.hist(drawn, bins=bins, color="0.75", label=f"drawn from K={k}")
    label = f"the rows: {found.statistic:.4g}, p = {found.p_value:.2g}"
    ax.axvline(found.statistic, color=COLOURS[1], linewidth=2, label=label)
    ax.set(
        xlabel=f"twice the gain in log-likelihood of K={k + 1} over K={k}, nats",
        ylabel="replicates",
        ylim=(0, 1.35 * float(np.max(heights))),  # room for the legend
    )
    rightwards = found.statistic > sum(ax.get_xlim()) / 2
    ax.legend(fontsize="small", loc="upper left" if rightwards else "upper right")
    return ax


def entropy(found: Joined, ax: Axes) -> Axes:
    """The entropy of the memberships against the number of clusters, the elbow ringed.

    Args:
        found: what `torchgmm.cluster` gave.
        ax: where to draw.

    Example:
        >>> import torch, torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> mixture = tg.GaussianMixture(3, 2)
        >>> found = tg.cluster(mixture, torch.randn(100, 2))
        >>> entropy(found, Figure().add_subplot()).get_xlabel()
        'number of clusters'
    """
    counts, chosen = np.arange(1, len(found.entropy) + 1), found.n_clusters
    ax.plot(counts, found.entropy, "o-", color=COLOURS[0], markersize=4, linewidth=1.4)
    ring: dict[str, Any] = {
        "markersize": 12,
        "fillstyle": "none",
        "color": "black",
        "label": "proposed",
    }
    ax.plot([chosen], [found.entropy[chosen - 1]], "o", **ring)
    ax.set(xlabel="number of clusters", ylabel="entropy of the memberships, per row")
    ax.locator_params(axis="x", integer=True)
    ax.grid(color="0.9")
    ax.legend(fontsize="small")
    return ax
