"""Densities: what is on the axes. How they look was looked at; these hold what can be counted."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import torchgmm as tg
from tests.plots.common import mixture_of
from torchgmm import families, plots


def in_axes(ax, patch):
    """Centre and the covariance whose ellipse of one standard deviation a patch is."""
    angle = np.deg2rad(patch.angle)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = np.diag([patch.width / 2, patch.height / 2]) ** 2
    return np.array(patch.center), turn @ half @ turn.T


def test_ellipses_are_the_covariances_of_two_features(ax):
    mixture, rows = mixture_of("full", d=2)
    assert plots.ellipses(mixture, ax, rows=rows, names=["length", "width"]) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "width")
    for k in range(3):
        for scale in (1, 2):
            centre, covariance = in_axes(ax, ax.patches[2 * k + scale - 1])
            np.testing.assert_allclose(centre, mixture.means.detach()[k], atol=1e-12)
            expected = scale**2 * mixture.covariances.detach()[k]
            np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-12)
    assert [text.get_text() for text in ax.texts] == [f"{w:.2f}" for w in mixture.weights]
    (dots,) = ax.lines
    np.testing.assert_array_equal(dots.get_xydata(), rows)
    assert "nats" in ax.figure.axes[1].get_ylabel()


@pytest.mark.parametrize("family", families())
def test_more_features_are_projected_on_the_leading_principal_axes(family, ax):
    mixture, _ = mixture_of(family, d=5)
    drawn = mixture.sample((20_000,), torch.Generator().manual_seed(1))
    plots.ellipses(mixture, ax, rows=drawn)
    assert ax.get_xlabel() == "1st principal axis"
    dots = ax.lines[0].get_xydata()
    assert len(dots) == 4000  # more are not told apart
    # the ellipses and the dots are in the same plane: the dots have the mixture's covariance there
    weights = mixture.weights.detach().numpy()
    parts = [in_axes(ax, patch) for patch in ax.patches[::2]]
    centres = np.stack([centre for centre, _ in parts])
    mean = weights @ centres
    apart = centres - mean
    total = (weights * apart.T) @ apart
    total += sum(w * covariance for w, (_, covariance) in zip(weights, parts, strict=True))
    np.testing.assert_allclose(mean, 0, atol=1e-9)  # the origin is the mean of the mixture
    np.testing.assert_allclose(total[0, 1], 0, atol=1e-9)  # principal axes are uncorrelated
    values = np.linalg.eigvalsh(np.cov(drawn.numpy().T))
    # 4 standard errors of a variance from 20,000 rows, sqrt(2 / n), and of one from 4000
    np.testing.assert_allclose(np.diag(total), values[[-1, -2]], rtol=4 * 0.01)
    np.testing.assert_allclose(np.diag(np.cov(dots.T)), np.diag(total), rtol=4 * 0.0224)


def test_many_components_are_drawn_fainter_the_lighter_they_are(ax):
    mixture, _ = mixture_of("diagonal", k=12, d=2)
    plots.ellipses(mixture, ax)
    assert len(ax.patches) == 12
    shades = [patch.get_alpha() for patch in ax.patches]
    assert np.argsort(shades).tolist() == np.argsort(mixture.weights.detach().numpy()).tolist()


@pytest.mark.parametrize("feature", [0, 2])
def test_a_marginal_is_the_density_of_one_feature(feature, ax):
    mixture, rows = mixture_of("full")
    plots.marginal(mixture, ax, feature=feature, rows=rows)
    line = ax.lines[-1]
    area = float(torch.trapezoid(*map(torch.as_tensor, (line.get_ydata(), line.get_xdata()))))
    assert 0.9 < area <= 1  # the window ends at two deviations or the last row
    assert ax.get_xlabel() == f"feature {feature}"
    at = torch.from_numpy(line.get_xdata()[::100]).reshape(-1, 1)
    alone = tg.GaussianMixture.from_covariances(
        mixture.weights.detach(),
        mixture.means.detach()[:, feature : feature + 1],
        mixture.covariances.detach()[:, feature, feature, None],
        "diagonal",
        dtype=torch.float64,
    )
    expected = alone.log_prob(at).exp().detach()
    np.testing.assert_allclose(line.get_ydata()[::100], expected, rtol=1e-9)
    bars = sum(patch.get_height() * patch.get_width() for patch in ax.patches)
    assert bars == pytest.approx(1)


def test_a_plane_of_two_features_is_their_marginal(ax):
    mixture, rows = mixture_of("full", d=5)
    plots.ellipses(mixture, ax, rows=rows, plane=(3, 1), names=list("abcde"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("d", "b")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), rows[:, [3, 1]])
    for k in range(3):
        centre, covariance = in_axes(ax, ax.patches[2 * k])
        np.testing.assert_allclose(centre, mixture.means.detach()[k, [3, 1]], atol=1e-12)
        expected = mixture.covariances.detach()[k][[3, 1]][:, [3, 1]]
        np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", families())
def test_a_plane_of_directions_maps_rows_and_components_alike(family, ax):
    mixture, rows = mixture_of(family)
    matrix = torch.tensor([[1.0, -1.0, 0.5, 0.0], [0.0, 2.0, 1.0, 1.0]], dtype=torch.float64)
    plots.ellipses(mixture, ax, rows=rows, plane=matrix)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), rows @ matrix.mT, atol=1e-12)
    factor = mixture.scale_tril.detach()
    for k in range(3):
        centre, covariance = in_axes(ax, ax.patches[2 * k])
        np.testing.assert_allclose(centre, matrix @ mixture.means.detach()[k], atol=1e-12)
        half = matrix @ factor[k]
        np.testing.assert_allclose(covariance, half @ half.mT, rtol=1e-9, atol=1e-12)


def test_levels_of_density_hold_the_shares_they_say(ax):
    mixture, _ = mixture_of("full", d=2)
    plots.density(mixture, ax)
    bar = ax.figure.axes[1]
    levels = bar.get_yticks()
    shares = [float(text.get_text().split("(")[1].rstrip("%)")) for text in bar.get_yticklabels()]
    assert shares == [99, 95, 80, 60, 40, 20]
    rows = mixture.sample((20_000,), torch.Generator().manual_seed(5))
    above = [float((mixture.log_prob(rows) >= level).double().mean()) for level in levels]
    # the levels are quantiles of 4096 draws: 5 standard errors of a share of a half
    np.testing.assert_allclose(above, np.array(shares) / 100, atol=5 * 0.5 / 4096**0.5)
    assert not ax.patches  # no component


def test_density_of_one_feature_is_a_curve(ax):
    mixture, rows = mixture_of("full", d=1)
    plots.density(mixture, ax, rows=rows)
    (line,) = ax.lines
    at = torch.from_numpy(line.get_xdata()[::50]).reshape(-1, 1)
    np.testing.assert_allclose(line.get_ydata()[::50], mixture.log_prob(at).detach().exp())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["rows", "mixture"]


def test_a_marginal_along_a_direction_is_that_of_the_projected_rows(ax):
    mixture, rows = mixture_of("diagonal")
    direction = np.array([1.0, 2.0, 0.0, -1.0])
    plots.marginal(mixture, ax, feature=direction, rows=rows)
    line = ax.lines[-1]
    projected = tg.affine(mixture, direction[None])
    at = torch.from_numpy(line.get_xdata()[::50]).reshape(-1, 1)
    expected = projected.log_prob(at).detach().exp()
    np.testing.assert_allclose(line.get_ydata()[::50], expected, rtol=1e-9)
    assert ax.get_xlabel() == "direction"


# labels -----------------------------------------------------------------------------------------


def test_numbers_of_components_take_the_colours_of_the_components(ax):
    mixture, rows = mixture_of("full", d=2)
    labels = mixture.predict(rows)
    plots.ellipses(mixture, ax, rows=rows, labels=labels)
    assert [line.get_label() for line in ax.lines] == ["0", "1", "2"]
    assert len({line.get_marker() for line in ax.lines}) == 3
    for k, line in enumerate(ax.lines):
        assert line.get_color() == plots.COLOURS[k]
        assert len(line.get_xdata()) == int((labels == k).sum())
    edges = [to_hex(patch.get_edgecolor()).upper() for patch in ax.patches[::2]]
    assert edges == list(plots.COLOURS[:3])


def test_rows_of_no_class_are_grey(ax):
    mixture, rows = mixture_of("full", d=2)
    labels = mixture.predict(rows)
    labels[::2] = -1
    plots.ellipses(mixture, ax, rows=rows, labels=labels)
    assert [line.get_label() for line in ax.lines] == ["-1", "0", "1", "2"]
    assert [line.get_color() for line in ax.lines] == ["0.45", *plots.COLOURS[:3]]
    assert [to_hex(p.get_edgecolor()).upper() for p in ax.patches[::2]] == list(plots.COLOURS[:3])


def test_beside_classes_with_names_the_components_are_black(ax):
    mixture, rows = mixture_of("full", d=2)
    plots.ellipses(mixture, ax, rows=rows, labels=np.array(["a", "b"] * 200))
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert {to_hex(patch.get_edgecolor()) for patch in ax.patches} == {"#000000"}


def test_more_classes_than_colours_are_told_apart_by_shape(ax):
    mixture, rows = mixture_of("full", d=2)
    plots.density(mixture, ax, rows=rows, labels=torch.arange(400) % 20)
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 20


def test_labels_stay_with_their_rows_when_a_part_is_drawn(ax):
    mixture, _ = mixture_of("full", d=2)
    rows, labels = mixture.sample_with_labels((9000,), torch.Generator().manual_seed(0))
    plots.density(mixture, ax, rows=rows, labels=labels)
    assert sum(len(line.get_xdata()) for line in ax.lines) == 4000
    for k, line in enumerate(ax.lines):
        of_class = {tuple(row) for row in rows[labels == k].tolist()}
        assert {tuple(row) for row in line.get_xydata().tolist()} <= of_class


def test_the_columns_of_a_data_frame_are_the_names(ax):
    pandas = pytest.importorskip("pandas")
    mixture, rows = mixture_of("full", d=2)
    frame = pandas.DataFrame(rows.numpy(), columns=["length", "width"])
    plots.ellipses(mixture, ax, rows=frame, labels=pandas.Series(["a", "b"] * 200))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "width")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), rows[::2])


def test_a_narrow_component_is_not_lost_between_the_points_of_the_curve(ax):
    mixture = tg.GaussianMixture.from_covariances(
        [0.5, 0.5], [[0.0], [1.234]], [[100.0**2], [1e-4**2]], "diagonal", dtype=torch.float64
    )
    plots.marginal(mixture, ax)
    line = ax.lines[-1]
    assert (np.diff(line.get_xdata()) >= 0).all()
    assert line.get_ydata().max() == pytest.approx(0.5 / (1e-4 * (2 * np.pi) ** 0.5), rel=1e-6)


# weights ----------------------------------------------------------------------------------------


def test_a_histogram_counts_weights(ax):
    mixture, rows = mixture_of("full", d=1)
    weights = torch.arange(400) % 3
    plots.marginal(mixture, ax, rows=rows, weights=weights)
    bars = [(patch.get_x(), patch.get_width(), patch.get_height()) for patch in ax.patches]
    edges = [x for x, _, _ in bars] + [bars[-1][0] + bars[-1][1]]
    repeated = rows[:, 0].repeat_interleave(weights).numpy()
    expected, _ = np.histogram(repeated, edges, density=True)
    np.testing.assert_allclose([height for _, _, height in bars], expected, rtol=1e-9)


@pytest.mark.parametrize("draw", [plots.ellipses, plots.density, plots.pairs])
def test_a_row_of_weight_zero_is_absent_whatever_it_holds(draw, ax):
    mixture, rows = mixture_of("full", d=2)
    rows, weights = rows.clone(), torch.ones(400)
    rows[::4], weights[::4] = torch.nan, 0
    labels = torch.arange(400) % 4
    draw(mixture, ax, rows=rows, weights=weights, labels=labels)
    panel = ax.child_axes[1] if draw is plots.pairs else ax
    dots = [line for line in panel.lines if line.get_label() in "0123"]
    assert [line.get_label() for line in dots] == ["1", "2", "3"]
    for line in dots:
        np.testing.assert_array_equal(line.get_xydata(), rows[int(line.get_label()) :: 4])


def test_weights_that_are_none_are_refused(ax):
    mixture, rows = mixture_of("full", d=2)
    with pytest.raises(tg.InputError, match="weights"):
        plots.density(mixture, ax, rows=rows, weights=-torch.ones(400))
