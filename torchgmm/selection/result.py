"""What a search found: a table, the best mixture, a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MissingExtraError
from ..mixture import GaussianMixture
from ..parameters import Parameters
from ..plots import criterion as draw_criterion
from .criteria import CRITERIA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Candidate", "Comparison", "Selection"]

_LABELS = {"bic": "BIC", "aic": "AIC", "icl": "ICL", "held-out": "held-out", "cv": "cv"}


@dataclass(frozen=True)
class Candidate:
    """One fit of the search.

    Attributes:
        n_components: K.
        covariance: the family.
        value: of the criterion that was asked for; NaN where the fit failed.
        log_likelihood: mean per row of the rows it was fitted to, nats.
        n_parameters: free parameters.
        bic: Bayesian information criterion on those rows; lower is better.
        aic: Akaike's.
        icl: integrated completed likelihood.
        n_steps: of the fit.
        converged: whether its stopping rule was met.
        seconds: of the fit and its judgement.
        note: why there is no fit; empty where there is one.
        parameters: what was found.
    """

    n_components: int
    covariance: str
    value: float = math.nan
    log_likelihood: float = math.nan
    n_parameters: int = 0
    bic: float = math.nan
    aic: float = math.nan
    icl: float = math.nan
    n_steps: int = 0
    converged: bool = False
    seconds: float = 0.0
    note: str = ""
    parameters: Parameters | None = None

    def row(self) -> dict[str, Any]:
        """What a table shows of it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name in _SHOWN}


_SHOWN = (
    "n_components", "covariance", "value", "log_likelihood", "n_parameters", "bic", "aic", "icl",
    "n_steps", "converged", "seconds", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """The candidates of a search, in the order of their fits.

    Attributes:
        criterion: what they were compared by.
        candidates: one per family and number of components that was tried.
    """

    criterion: str
    candidates: tuple[Candidate, ...]

    @property
    def best_candidate(self) -> Candidate:
        """The best row of the table."""
        return best_of(self.candidates, self.criterion)

    @property
    def n_components(self) -> int:
        """K of the best mixture."""
        return self.best_candidate.n_components

    @property
    def covariance(self) -> str:
        """Family of the best mixture."""
        return self.best_candidate.covariance

    @property
    def families(self) -> tuple[str, ...]:
        """Those that were tried, in that order."""
        return tuple(dict.fromkeys(c.covariance for c in self.candidates))

    @property
    def chosen(self) -> tuple[int, float]:
        """K of the best candidate, and its criterion."""
        return self.best_candidate.n_components, self.best_candidate.value

    @property
    def label(self) -> str:
        """The criterion, its unit, and which way is better."""
        lower = "lower is better" if CRITERIA[self.criterion] else "higher is better"
        unit = "" if CRITERIA[self.criterion] else "nats per row, "
        return f"{_LABELS[self.criterion]} ({unit}{lower})"

    def curve(self, covariance: str) -> tuple[list[int], list[float]]:
        """The criterion against K for one family, where fits succeeded."""
        mine = sorted(
            (c for c in self.candidates if c.covariance == covariance and not c.note),
            key=lambda c: c.n_components,
        )
        return [c.n_components for c in mine], [c.value for c in mine]

    def to_markdown(self) -> str:
        """The table; the best row is bold."""
        extra = [] if self.criterion in ("bic", "aic", "icl") else [self.criterion]
        heads = ["K", "covariance", "parameters", "log-likelihood", "BIC", "AIC", "ICL"]
        heads += [_LABELS[name] for name in extra] + ["steps", "seconds"]
        lines = ["| " + " | ".join(heads) + " |"]
        lines.append("|--:|:--|" + "--:|" * (len(heads) - 2))
        chosen = self.best_candidate
        lines += [self._line(c, bool(extra), bold=c is chosen) for c in self.candidates]
        return "\n".join(lines)

    def _line(self, c: Candidate, extra: bool, *, bold: bool) -> str:
        if c.note:
            return f"| {c.n_components} | {c.covariance} | {c.note} |"
        cells = [str(c.n_components), c.covariance, str(c.n_parameters), f"{c.log_likelihood:.4f}"]
        cells += [f"{v:.2f}" for v in (c.bic, c.aic, c.icl)]
        cells += [f"{c.value:.4f}"] if extra else []
        cells += [str(c.n_steps) if c.converged else f"{c.n_steps}+", f"{c.seconds:.2f}"]
        return "| " + " | ".join(f"**{cell}**" if bold else cell for cell in cells) + " |"

    def to_pandas(self) -> Any:
        """The table as a data frame.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise MissingExtraError("pandas", "pandas", "a data frame") from error
        return pandas.DataFrame([c.row() for c in self.candidates])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The criterion against the number of components, one line per family, the best ringed.

        Args:
            ax: where to draw; a new figure if not given.

        Returns:
            The axes.
        """
        if ax is None:
            try:
                from matplotlib.figure import Figure
            except ImportError as error:
                raise MissingExtraError("matplotlib", "plots", "a picture") from error
            ax = Figure(figsize=(6, 4), layout="constrained").add_subplot()
        return draw_criterion(self, ax)

    def __repr__(self) -> str:
        """The same at a prompt; what it holds is in the attributes."""
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        """The choice in a line."""
        c = self.best_candidate
        return (
            f"{c.n_components} {c.covariance} component(s) by {_LABELS[self.criterion]} "
            f"({c.value:.6g}), of {len(self.candidates)} candidates"
        )

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


@dataclass(frozen=True, repr=False)
class Selection(Comparison):
    """What a search found.

    Attributes:
        criterion: what the candidates were compared by.
        candidates: one per family and number of components that was tried, in the order of their
            fits.
        best: the mixture of the best one, fitted to all rows.
    """

    best: GaussianMixture


def best_of(candidates: tuple[Candidate, ...] | list[Candidate], criterion: str) -> Candidate:
    """The best candidate whose fit succeeded; of equals the one with fewest parameters."""
    sign = 1 if CRITERIA[criterion] else -1
    sound = [c for c in candidates if not math.isnan(c.value)]
    if not sound:
        notes = "; ".join(dict.fromkeys(c.note for c in candidates))
        raise InputError(f"no candidate could be fitted: {notes}")
    return min(sound, key=lambda c: (sign * c.value, c.n_parameters))
