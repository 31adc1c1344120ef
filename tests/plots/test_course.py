"""The course of a fit and of a search."""

import numpy as np
import pytest
import torch

import torchgmm as tg
from torchgmm import plots


def test_history_is_one_point_per_step(ax):
    assert plots.history([-3.0, -2.0, -1.5], ax) is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, -3], [2, -2], [3, -1.5]])
    assert "nats" in ax.get_ylabel()


def test_history_of_a_fit_is_that_of_its_steps(ax):
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    result = tg.GaussianMixture(2).fit(rows, generator=0)
    plots.history(result, ax)
    levels = [step.log_likelihood for step in result.history]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), levels)


def test_several_courses_have_names_colours_and_shapes_of_their_own(ax):
    plots.history({"one": [-3.0, -2.0], "other": np.array([-3.0, -1.0, -0.5])}, ax)
    assert [line.get_label() for line in ax.lines] == ["one", "other"]
    assert [len(line.get_xdata()) for line in ax.lines] == [2, 3]
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 2


@pytest.mark.parametrize(
    ("criterion", "label"),
    [("bic", "BIC (lower is better)"), ("held-out", "held-out (nats per row, higher is better)")],
)
def test_criterion_curves_are_those_of_the_search(criterion, label, ax):
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    rows[:100] += 6
    found = tg.select(rows, [1, 2, 3], ["full", "tied"], criterion, generator=0)
    assert plots.criterion(found, ax) is ax
    for line, family in zip(ax.lines, ("full", "tied"), strict=False):
        assert line.get_label() == family
        np.testing.assert_array_equal(line.get_xydata(), np.transpose(found.curve(family)))
    best = found.best_candidate
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), [[best.n_components, best.value]])
    assert ax.get_ylabel() == label
