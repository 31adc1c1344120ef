"""What cannot be drawn is refused, with what to do instead."""

import numpy as np
import pytest

import torchgmm as tg
from tests.plots.common import mixture_of
from torchgmm import plots

D4 = tg.GaussianMixture(2, 4)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: plots.ellipses(mixture_of("full", d=1)[0], ax), "at least two features"),
        (lambda ax: plots.eigenpatches(mixture_of("full", d=5)[0], ax), "no image of 2x2 pixels"),
        (lambda ax: plots.ellipses(tg.GaussianMixture(2, 2, batch_shape=(3,)), ax), "a batch"),
        (
            lambda ax: plots.ellipses(D4, ax, plane=(0, 4)),
            r"\[0, 4\] are not 2 different .* 0 to 3",
        ),
        (lambda ax: plots.ellipses(D4, ax, plane=(1, 1)), "not 2 different ones"),
        (lambda ax: plots.ellipses(D4, ax, plane=np.ones((2, 3))), r"directions of shape \(2, 4\)"),
        (lambda ax: plots.ellipses(D4, ax, plane=np.ones((2, 4))), "has rank 1"),
        (lambda ax: plots.density(D4, ax, names=["a"], plane=(0, 1)), "1 names for 4 features"),
        (lambda ax: plots.density(D4, ax, rows=np.ones((5, 3))), "rows have 3 columns"),
        (lambda ax: plots.density(D4, ax, rows=np.full((5, 4), np.nan)), "NaN"),
        (
            lambda ax: plots.density(D4, ax, rows=np.ones((5, 4)), labels=[0, 1]),
            r"labels of shape \(2,\) for 5 rows",
        ),
        (lambda ax: plots.density(D4, ax, labels=[0, 1]), "for 0 rows"),
        (lambda ax: plots.density(tg.GaussianMixture(2, 1), ax, plane=(0, 1)), "no plane"),
        (lambda ax: plots.marginal(D4, ax, feature=4), r"\[4\] are not 1 different"),
        (lambda ax: plots.marginal(D4, ax, feature=0.5), "the number of a feature"),
        (lambda ax: plots.pairs(tg.GaussianMixture(2, 20), ax), "numbers of 2 to 8 of the 20"),
        (lambda ax: plots.pairs(D4, ax, features=[0]), "pairs of 1 feature"),
        (lambda ax: plots.pairs(D4, ax, features=[0, -1]), "not different ones of 0 to 3"),
        (lambda ax: plots.responsibilities(D4, ax, rows=None), "are of rows"),
        (lambda ax: plots.spectra(tg.GaussianMixture(2, 2, batch_shape=(3,)), ax), "a batch"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message, ax):
    with pytest.raises(tg.InputError, match=message):
        draw(ax)


def test_a_mixture_without_size_is_refused(ax):
    with pytest.raises(tg.TorchGMMError, match="n_features"):
        plots.ellipses(tg.GaussianMixture(2), ax)
