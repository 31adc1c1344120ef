"""The table of marginals."""

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.plots.common import mixture_of
from torchgmm import families, plots


def panels(ax):
    """The panels by line and column."""
    places = [(i, j) for i in range(8) for j in range(i + 1)]
    return dict(zip(places, ax.child_axes, strict=False))


@pytest.mark.parametrize("family", families())
def test_every_panel_shows_the_features_it_names(family, ax):
    mixture, rows = mixture_of(family, d=5)
    names = list("abcde")
    assert plots.pairs(mixture, ax, rows=rows, features=[4, 0, 2], names=names) is ax
    assert len(ax.child_axes) == 6
    shown = panels(ax)
    for i, below in enumerate((4, 0, 2)):
        for j, across in enumerate((4, 0, 2)[:i]):
            dots = shown[i, j].lines[0].get_xydata()
            np.testing.assert_array_equal(dots, rows[:, [across, below]])
            centres = np.stack([patch.center for patch in shown[i, j].patches[::2]])
            np.testing.assert_allclose(centres, mixture.means.detach()[:, [across, below]])
    alone = tg.marginal(mixture, [2])
    line = shown[2, 2].lines[-1]
    at = torch.from_numpy(line.get_xdata()[::100]).reshape(-1, 1)
    np.testing.assert_allclose(line.get_ydata()[::100], alone.log_prob(at).detach().exp())
    assert [shown[2, j].get_xlabel() for j in range(3)] == ["e", "a", "c"]
    assert [shown[i, 0].get_ylabel() for i in range(3)] == ["", "a", "c"]


def test_panels_stand_in_a_triangle_inside_the_axes(ax):
    mixture, _ = mixture_of("full", d=4)
    plots.pairs(mixture, ax)
    ax.figure.canvas.draw()
    outer = ax.get_position()
    shown = {place: panel.get_position() for place, panel in panels(ax).items()}
    assert len(shown) == 10
    for (i, j), box in shown.items():
        assert outer.x0 - 1e-6 <= box.x0 < box.x1 <= outer.x1 + 1e-6
        assert outer.y0 - 1e-6 <= box.y0 < box.y1 <= outer.y1 + 1e-6
        if (i, j + 1) in shown:
            assert box.x1 < shown[i, j + 1].x0
        if (i + 1, j) in shown:
            assert box.y0 > shown[i + 1, j].y1


def test_the_legend_names_components_and_classes(ax):
    mixture, rows = mixture_of("full", d=2)
    plots.pairs(mixture, ax, rows=rows, labels=mixture.predict(rows))
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    weights = mixture.weights.tolist()
    assert words[:3] == [f"no. {k}: weight {weight:.2f}" for k, weight in enumerate(weights)]
    assert words[3:] == ["mixture", "0", "1", "2"]


def test_many_components_are_drawn_without_names(ax):
    mixture, _ = mixture_of("spherical", k=12, d=3)
    plots.pairs(mixture, ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mixture"]
    assert len(panels(ax)[1, 1].lines) == 1
    assert len(panels(ax)[1, 0].patches) == 12
