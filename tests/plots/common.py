"""What the tests of pictures share."""

import torch

import torchgmm as tg


def mixture_of(family, k=3, d=4, seed=0):
    """A mixture fitted to 400 rows, and the rows."""
    rows = torch.randn(400, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows + 3 * torch.arange(400)[:, None] % k
    mixture = tg.GaussianMixture(k, covariance=family, dtype=torch.float64)
    mixture.fit(rows, generator=seed)
    return mixture, rows
