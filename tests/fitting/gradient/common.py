"""What the tests of gradient ascent share."""

import pytest
import torch

from tests.cases import FAMILIES, Case
from torchgmm import GaussianMixture, Tolerance

every_family = pytest.mark.parametrize("family", FAMILIES)
APART = Case("apart", 3, 0, 10, 4, k=3, n=1000)
X = APART.rows()


def fitted(method, x=X, k=3, family="full", **options):
    mixture = GaussianMixture(k, covariance=family, dtype=torch.float64)
    options = {"generator": 0, "stop": Tolerance(1e-9)} | options
    return mixture, mixture.fit(x, method, **options)


def level(mixture, x=X):
    return float(mixture.score(x))
