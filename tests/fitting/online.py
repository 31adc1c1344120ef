"""What the tests of online EM share."""

import pytest
import torch

from tests.cases import FAMILIES, Case
from torchgmm import GaussianMixture, OnlineEM, Tolerance
from torchgmm.fitting import Problem

every_family = pytest.mark.parametrize("family", FAMILIES)
APART = Case("apart", 3, 0, 10, 1, k=3, n=2000)
X = APART.rows()


def start(family="full"):
    """Means half a standard deviation off: 0.3 nats below the optimum."""
    return APART.start(family)


def problem_of(source, seed=0):
    return Problem(source, torch.Generator().manual_seed(seed))


def fitted(data, family="full", method=None, begin=None, **options):
    """A fit that the stopping rule does not end, from one and the same start."""
    mixture = GaussianMixture(3, covariance=family, dtype=torch.float64)
    method = method or OnlineEM(max_iter=2)
    options = {"generator": 0, "stop": Tolerance(0)} | options
    return mixture, mixture.fit(data, method, init=begin or start(family), **options)


def level(mixture, x=X):
    return float(mixture.score(x).detach())


def stream(x=X, rows=100):
    """A generator, which can be read once."""
    yield from x.split(rows)
