"""Pictures of tests and of clusters: the numbers that they show."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import torchgmm as tg
from tests.plots.common import mixture_of
from torchgmm import plots


def test_calibration_goes_as_far_as_the_distance_of_the_test(ax):
    mixture, _ = mixture_of("full", d=7)
    rows = mixture.sample((3000,), torch.Generator().manual_seed(0))
    rows[:, 3] += 0.5
    found = tg.calibrate(mixture, rows)
    names = list("abcdefg")
    assert plots.calibration(found, ax, names=names) is ax
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    order = found.p_value.argsort(stable=True).tolist()
    expected = [f"{names[f]}: p = {found.p_value[f]:.2g}" for f in order[:5]]
    assert told == [*expected, "95 % under a right mixture"]
    curves = ax.lines[1:][::-1]  # the worst is drawn last
    assert [line.get_color() for line in curves[:5]] == list(plots.COLOURS[:5])
    assert {line.get_color() for line in curves[5:]} == {"0.75"}
    for line, feature in zip(curves, order, strict=True):
        farthest = np.abs(line.get_ydata()).max()
        # the curve has 20 points, the test at least 1024: a part of 1/20 lies between two
        assert farthest <= float(found.distance[feature]) + 1e-12
        assert farthest > float(found.distance[feature]) - 0.05
        assert line.get_ydata()[[0, -1]] == pytest.approx([0, 0], abs=1e-12)


def test_the_band_of_calibration_holds_what_it_says(ax):
    mixture, _ = mixture_of("full", d=1, k=2)
    plots.calibration(tg.calibrate(mixture, mixture.sample((400,))), ax)
    band = ax.patches[0].get_bbox()
    inside = 0
    for seed in range(200):
        rows = mixture.sample((400,), torch.Generator().manual_seed(seed))
        inside += float(tg.calibrate(mixture, rows).distance) <= band.y1
    # 95 % of 200, and 4 standard deviations of a binomial count
    assert abs(inside - 190) <= 4 * (200 * 0.95 * 0.05) ** 0.5


def test_likelihood_ratio_shows_replicates_and_rows(ax):
    rows = torch.randn(120, 1, generator=torch.Generator().manual_seed(0))
    found = tg.bootstrap_test(rows, 1, n_replicates=15, generator=0)
    assert plots.likelihood_ratio(found, ax) is ax
    assert sum(patch.get_height() for patch in ax.patches) == 15
    (line,) = ax.lines
    assert line.get_xdata()[0] == found.statistic
    assert "K=2 over K=1" in ax.get_xlabel()
    assert f"p = {found.p_value:.2g}" in ax.get_legend().get_texts()[1].get_text()


@pytest.fixture(scope="module")
def joined():
    """Four components, two of which are one cluster."""
    mixture = tg.GaussianMixture.from_covariances(
        [0.2, 0.3, 0.2, 0.3],
        [[0.0, 0.0], [20.0, 0.0], [1.5, 0.0], [0.0, 20.0]],
        [1.0] * 4,
        "spherical",
        dtype=torch.float64,
    )
    rows = mixture.sample((2000,), torch.Generator().manual_seed(0))
    return mixture, rows, tg.cluster(mixture, rows)


def test_entropy_is_that_of_every_number_of_clusters(joined, ax):
    _, _, found = joined
    assert plots.entropy(found, ax) is ax
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), found.entropy)
    assert ax.lines[1].get_xdata() == [3]


def test_components_of_a_cluster_share_its_colour(joined, ax):
    mixture, rows, found = joined
    groups, labels = found.groups(), found.predict(rows)
    plots.ellipses(mixture, ax, rows=rows, labels=labels, groups=groups)
    edges = [to_hex(patch.get_edgecolor()).upper() for patch in ax.patches[::2]]
    assert edges == [plots.COLOURS[g] for g in groups.tolist()]
    assert [line.get_color() for line in ax.lines] == list(plots.COLOURS[:3])


def test_pairs_name_the_clusters(joined, ax):
    mixture, _, found = joined
    plots.pairs(mixture, ax, groups=found.groups())
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == [
        "cluster 0: weight 0.40", "cluster 1: weight 0.30", "cluster 2: weight 0.30", "mixture",
    ]  # fmt: skip


@pytest.mark.parametrize("groups", [[0, 1], [0.0, 1.0, 1.0, 0.0]])
def test_groups_that_are_none_are_refused(groups, joined, ax):
    with pytest.raises(tg.InputError, match="groups must be 4 integers"):
        plots.ellipses(joined[0], ax, groups=groups)


def test_a_projection_is_a_plane(ax):
    mixture, rows = mixture_of("full", d=5)
    view = tg.discriminant(mixture)
    plots.ellipses(mixture, ax, rows=rows, plane=view)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), view(rows), atol=1e-9)
    centres = np.stack([patch.center for patch in ax.patches[::2]])
    np.testing.assert_allclose(centres, view.project(mixture).means.detach(), atol=1e-9)
    front = tg.PCA(2).fit(rows)
    plots.density(mixture, ax, rows=rows, plane=front)
    np.testing.assert_allclose(ax.lines[-1].get_xydata(), front(rows), atol=1e-9)
    with pytest.raises(tg.InputError, match=r"axes of shape \(2, 5\), got \(3, 5\)"):
        plots.density(mixture, ax, plane=tg.discriminant(mixture, 3))
