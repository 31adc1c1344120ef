"""What every picture asks of a mixture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..mixture import GaussianMixture

__all__ = ["COLOURS", "features", "sign", "variances"]

# Okabe & Ito (2008): told apart with every common kind of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#000000")


def features(mixture: GaussianMixture) -> int:
    """D, of one mixture that knows it."""
    if mixture.batch_shape:
        raise InputError(
            f"a picture shows one mixture, this is a batch of shape {tuple(mixture.batch_shape)}"
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
