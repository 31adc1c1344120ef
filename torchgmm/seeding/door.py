"""A seeding from whatever says how a fit starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..parameters import Parameters
from .base import Seeding
from .given import Labels, Start
from .methods import KMeans, KMeansPlusPlus, RandomResponsibilities, RandomRows

__all__ = ["as_seeding"]

_SEEDINGS: Mapping[str, Seeding] = {
    "kmeans": KMeans(),
    "k-means++": KMeansPlusPlus(),
    "random_from_data": RandomRows(),
    "random": RandomResponsibilities(),
}


def as_seeding(init: str | Seeding | Parameters | Any) -> Seeding:
    """A seeding from its (scikit-learn) name, from parameters, or from labels `(N,)`."""
    if isinstance(init, Seeding):
        return init
    if isinstance(init, Parameters):
        return Start(init)
    if isinstance(init, str):
        if init not in _SEEDINGS:
            raise InputError(
                f"init must be one of {', '.join(_SEEDINGS)}, current, labels (N,), a mixture "
                f"or Parameters, got {init!r}"
            )
        return _SEEDINGS[init]
    return Labels(init)
