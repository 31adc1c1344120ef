"""The course of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .common import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["history"]


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
