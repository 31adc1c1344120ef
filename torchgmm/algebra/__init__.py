"""Mixtures from mixtures, and distances between them, in closed form wherever there is one.

Every function takes a `GaussianMixture` or `Parameters`. One that gives a mixture gives what it was
given: a new module, with numbers of its own, or `Parameters`, through which gradients flow.
Computed in float64, answered in the dtype of the mixture.
"""

from __future__ import annotations

from .divergence import kl_divergence
from .maps import affine
from .merging import merge
from .parts import Regression, condition, marginal, regress
from .products import Product, cauchy_schwarz_divergence, l2_distance, log_overlap, product

__all__ = [
    "Product",
    "Regression",
    "affine",
    "cauchy_schwarz_divergence",
    "condition",
    "kl_divergence",
    "l2_distance",
    "log_overlap",
    "marginal",
    "merge",
    "product",
    "regress",
]
