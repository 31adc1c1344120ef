"""The course of a fit, and of a search among fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .common import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curves", "Fitted", "criterion", "history"]


class Fitted(Protocol):
    """The result of a fit: `torchgmm.FitResult`, which this room does not know."""

    @property
    def history(self) -> Sequence[Any]:
        """Steps, each with its `log_likelihood`."""


class Curves(Protocol):
    """What a search found: `torchgmm.select` gives one."""

    @property
    def families(self) -> tuple[str, ...]:
        """Those that were tried."""

    @property
    def chosen(self) -> tuple[int, float]:
        """K of the best candidate and its criterion."""

    @property
    def label(self) -> str:
        """Of the criterion: its name, its unit, and which way is better."""

    def curve(self, covariance: str) -> tuple[Sequence[int], Sequence[float]]:
        """K and the criterion of one family."""


Course = Fitted | Sequence[float]


def history(log_likelihoods: Course | Mapping[str, Course], ax: Axes) -> Axes:
    """The mean log-likelihood that entered every step of a fit.

    Args:
        log_likelihoods: a `FitResult`, or nats per row, one per step; or several of these under
            their names, for comparison.
        ax: where to draw.

    Example:
        >>> from matplotlib.figure import Figure
        >>> history([-3.0, -2.5, -2.4], Figure().add_subplot()).get_xlabel()
        'step'
    """
    several = isinstance(log_likelihoods, Mapping)
    courses = log_likelihoods if isinstance(log_likelihoods, Mapping) else {"": log_likelihoods}
    for number, (name, course) in enumerate(courses.items()):
        levels = _levels(course)
        steps = np.arange(1, len(levels) + 1)
        ax.plot(
            steps,
            levels,
            color=COLOURS[number % len(COLOURS)],
            marker="" if len(steps) > 60 else MARKERS[number % len(MARKERS)] if several else ".",
            markersize=4 if several else None,
            linewidth=1.4,
            label=name,
        )
    ax.set(xlabel="step", ylabel="mean log-likelihood (nats per row)")
    ax.ticklabel_format(useOffset=False)
    ax.locator_params(axis="x", integer=True)
    ax.grid(color="0.9")
    if several:
        ax.legend(fontsize="small")
    return ax


def criterion(found: Curves, ax: Axes) -> Axes:
    """A criterion against the number of components, one line per family, the best ringed.

    Args:
        found: what `torchgmm.select` gave (`found.plot(ax)` is the same).
        ax: where to draw.

    Example:
        >>> import torch, torchgmm as tg
        >>> from matplotlib.figure import Figure
        >>> found = tg.select(torch.randn(100, 2), n_components=[1, 2], covariance=["tied"])
        >>> criterion(found, Figure().add_subplot()).get_ylabel()
        'BIC (lower is better)'
    """
    for number, name in enumerate(found.families):
        place = number % len(COLOURS)
        style: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place]}
        ax.plot(*found.curve(name), label=name, markersize=4, linewidth=1.4, **style)
    k, value = found.chosen
    ax.plot([k], [value], "o", markersize=12, fillstyle="none", color="black", label="chosen")
    ax.set(xlabel="number of components", ylabel=found.label)
    ax.ticklabel_format(useOffset=False)
    ax.locator_params(axis="x", integer=True)
    ax.grid(color="0.9")
    ax.legend(fontsize="small")
    return ax


def _levels(course: Course) -> list[float]:
    if isinstance(course, Sequence | np.ndarray):
        return [float(level) for level in course]
    return [float(step.log_likelihood) for step in course.history]
