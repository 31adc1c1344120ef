"""The heat map of responsibilities."""

import numpy as np
import pytest
import torch

from tests.plots.common import mixture_of
from torchgmm import families, plots


def columns(ax, k):
    """The responsibilities as drawn, `(K, columns)`."""
    drawn = np.asarray(ax.images[0].get_array())
    thick = len(drawn) // k
    assert (drawn.reshape(k, thick, -1) == drawn.reshape(k, thick, -1)[:, :1]).all()
    return drawn[::thick]


@pytest.mark.parametrize("family", families())
def test_every_column_is_a_row_and_the_surest_stand_first(family, ax):
    mixture, rows = mixture_of(family)
    assert plots.responsibilities(mixture, ax, rows=rows) is ax
    shown = columns(ax, 3)
    expected = mixture.responsibilities(rows).detach().numpy()
    best = shown.argmax(0)
    assert (np.diff(best) >= 0).all()
    for k in range(3):
        assert (np.diff(shown[k, best == k]) <= 0).all()
    in_order = sorted(map(tuple, expected.tolist()))
    np.testing.assert_allclose(sorted(map(tuple, shown.T.tolist())), in_order, rtol=1e-12)
    assert ax.get_xlabel() == "400 rows, by likeliest component"
    left, right, bottom, top = ax.images[0].get_extent()
    assert (left, right, bottom, top) == (-0.5, 399.5, 2.5, -0.5)


def test_classes_are_kept_together(ax):
    mixture, rows = mixture_of("full")
    labels = np.where(np.arange(400) % 4 == 0, "few", "many")
    plots.responsibilities(mixture, ax, rows=rows, labels=labels)
    shown = columns(ax, 3)
    expected = mixture.responsibilities(rows[labels == "few"]).detach().numpy()
    in_order = sorted(map(tuple, expected.tolist()))
    np.testing.assert_allclose(sorted(map(tuple, shown[:, :100].T.tolist())), in_order, rtol=1e-12)
    (line,) = ax.lines
    assert line.get_xdata()[0] == 99.5
    assert ax.get_xlabel() == "400 rows, by class, then likeliest component"


def test_a_part_of_many_rows_is_drawn_and_said(ax):
    mixture, _ = mixture_of("full", d=2)
    rows = mixture.sample((5000,), torch.Generator().manual_seed(0))
    plots.responsibilities(mixture, ax, rows=rows)
    assert columns(ax, 3).shape == (3, 2000)
    assert ax.get_xlabel().startswith("2,000 of 5,000 rows")
