"""What every picture asks: one mixture, a palette, names of features, some of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..mixture import GaussianMixture
from ..mixture.tensors import as_tensor

__all__ = [
    "COLOURS",
    "MARKERS",
    "features",
    "name_of",
    "names_of",
    "rows_of",
    "sign",
    "some",
    "variances",
]

# Okabe & Ito (2008): told apart with every common kind of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#000000")
MARKERS = "osD^vPX*"  # one for every colour: two signs are better than one, also in print


def features(mixture: GaussianMixture) -> int:
    """D, of one mixture that knows it."""
    if mixture.batch_shape:
        raise InputError(
            f"a picture shows one mixture, this is a batch of shape {tuple(mixture.batch_shape)}: "
            "draw one of them, mixture[0]"
        )
    mixture.as_parameters()  # refuses a mixture that does not know its size yet
    return int(mixture.means.shape[-1])


def variances(mixture: GaussianMixture) -> Tensor:
    """Of every feature in every component, `(K, D)`, float64."""
    components = mixture.as_distribution().component_distribution
    return components.variance.to(torch.float64)


def sign(vectors: Tensor) -> Tensor:
    """The sign of the largest entry of every vector `(..., D)`: one picture for one mixture."""
    return vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True)).sign().squeeze(-1)


def name_of(names: Sequence[str] | None, feature: int, n_features: int) -> str:
    """What a feature is called on an axis.

    Raises:
        InputError: there are not as many names as features.
    """
    if names is None:
        return f"feature {feature}"
    if len(names) != n_features:
        raise InputError(f"{len(names)} names for {n_features} features: give one for each")
    return str(names[feature])


def names_of(names: Sequence[str] | None, rows: Any) -> Sequence[str] | None:
    """The names that were given, or else those of a data frame's columns."""
    return [str(c) for c in rows.columns] if names is None and hasattr(rows, "columns") else names


def some(n_rows: int, most: int) -> np.ndarray:
    """Numbers of at most so many rows, drawn without replacement; the same at every call."""
    if n_rows <= most:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(0).choice(n_rows, most, replace=False))


def rows_of(rows: Any, n_features: int, chosen: np.ndarray | None = None) -> Tensor:
    """Rows `(N, D)`, or those with the chosen numbers, float64, on the CPU.

    Raises:
        InputError: another shape, or values that are no finite numbers.
    """
    if not hasattr(rows, "shape"):
        rows = np.asarray(rows)
    checks.check_rows(tuple(rows.shape), n_features)
    if chosen is not None and len(chosen) < len(rows):
        if isinstance(rows, Tensor):
            rows = rows[torch.from_numpy(chosen).to(rows.device)]
        else:
            rows = rows.iloc[chosen] if hasattr(rows, "iloc") else rows[chosen]
    taken = as_tensor(rows)
    checks.check_finite(taken, torch.float64)
    return taken.detach().to(device="cpu", dtype=torch.float64)
