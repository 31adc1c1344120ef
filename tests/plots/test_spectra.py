"""Spectra of the covariances."""

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.plots.common import mixture_of
from torchgmm import families, plots


@pytest.mark.parametrize("family", families())
def test_spectra_are_the_eigenvalues_of_the_covariances(family, ax):
    mixture, _ = mixture_of(family, d=6)
    assert plots.spectra(mixture, ax) is ax
    factor = mixture.scale_tril.detach()
    values = np.linalg.eigvalsh(factor @ factor.mT)[:, ::-1]
    order = mixture.weights.argsort(descending=True, stable=True)
    assert len(ax.lines) == 3
    for line, k in zip(ax.lines, order, strict=True):
        np.testing.assert_allclose(line.get_ydata(), values[k], rtol=1e-9)
        assert line.get_color() == plots.COLOURS[int(k)]  # that of the component in all pictures
        assert line.get_label() == f"no. {k}: weight {mixture.weights[k]:.2f}"
    assert ax.get_yscale() == "log"


def test_small_eigenvalues_are_not_lost_beside_large_ones(ax):
    spread = torch.tensor([1e6, 1.0, 1e-9], dtype=torch.float64)
    turn = torch.linalg.qr(torch.eye(3, dtype=torch.float64) + torch.ones(3, 3)).Q
    # Cholesky of the factor, which the mixture holds, not of the product, which forgets 1e-18
    lower = torch.linalg.qr((turn * spread).mT).R.mT
    lower = lower * lower.diagonal().sign()
    mixture = tg.GaussianMixture(1, 3, dtype=torch.float64)
    scale = mixture.family.unconstrained(lower[None])
    mixture.assign(tg.Parameters(torch.zeros(1), torch.zeros(1, 3), scale, mixture.family))
    plots.spectra(mixture, ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata()[:2], (1e12, 1.0), rtol=1e-6)
    assert 1e-19 < ax.lines[0].get_ydata()[2] < 1e-17


def test_the_heaviest_of_many_are_drawn_darkest(ax):
    mixture, _ = mixture_of("diagonal", k=12)
    plots.spectra(mixture, ax, components=10)
    shades = [line.get_alpha() for line in ax.lines]
    assert len(shades) == 10
    assert shades == sorted(shades, reverse=True)
    assert shades[0] == 1
