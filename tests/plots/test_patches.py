"""Components of a mixture of images."""

import numpy as np
import torch

import torchgmm as tg
from tests.plots.common import mixture_of
from torchgmm import plots


def test_eigenpatches_show_the_heaviest_components_first(ax):
    directions = torch.eye(4, dtype=torch.float64)
    covariances = torch.stack(
        [torch.diag(1 + 8 * directions[k] + 3 * directions[k - 1]) for k in range(3)]
    )
    mixture = tg.GaussianMixture.from_covariances(
        [0.2, 0.5, 0.3], torch.zeros(3, 4), covariances, dtype=torch.float64
    )
    plots.eigenpatches(mixture, ax, components=2, patches=2)
    canvas = ax.images[0].get_array()
    assert canvas.shape == (2 * 3 - 1, 3 * 3)
    # to the right of the mean and a gap: the unit vectors of the largest variances, 9 then 4
    for line, k in enumerate((1, 2)):
        for column, leading in enumerate((k, k - 1)):
            tile = canvas[3 * line : 3 * line + 2, 4 + 3 * column : 6 + 3 * column]
            np.testing.assert_allclose(tile, directions[leading].reshape(2, 2), atol=1e-12)
    beside = [label.get_text() for label in ax.get_yticklabels()]
    assert beside == ["no. 1:  0.500", "no. 2:  0.300"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["mean", "1", "2"]


def test_eigenpatches_of_a_diagonal_family_are_deviations(ax):
    mixture, _ = mixture_of("diagonal", d=6)
    plots.eigenpatches(mixture, ax, shape=(2, 3))
    tile = ax.images[0].get_array()[:2, 5:8].ravel()
    heaviest = int(mixture.weights.argmax())
    deviations = mixture.covariances.detach()[heaviest].sqrt()
    np.testing.assert_allclose(tile, deviations / deviations.max(), rtol=1e-12)
    assert "deviation" in [label.get_text() for label in ax.get_xticklabels()]
