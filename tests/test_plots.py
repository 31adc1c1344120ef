"""Pictures: what is on the axes. How they look was looked at; these hold what can be counted."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import torchgmm as tg
from torchgmm import families, plots


@pytest.fixture
def ax():
    return Figure().add_subplot()


def mixture_of(family, k=3, d=4, seed=0):
    rows = torch.randn(400, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mixture = tg.GaussianMixture(k, covariance=family, dtype=torch.float64)
    mixture.fit(rows + 3 * torch.arange(400)[:, None] % k, generator=seed)
    return mixture, rows


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


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: plots.ellipses(mixture_of("full", d=1)[0], ax), "at least two features"),
        (lambda ax: plots.eigenpatches(mixture_of("full", d=5)[0], ax), "no image of 2x2 pixels"),
        (lambda ax: plots.ellipses(tg.GaussianMixture(2, 2, batch_shape=(3,)), ax), "a batch"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message, ax):
    with pytest.raises(tg.InputError, match=message):
        draw(ax)


def test_a_mixture_without_size_is_refused(ax):
    with pytest.raises(tg.TorchGMMError, match="n_features"):
        plots.ellipses(tg.GaussianMixture(2), ax)


def test_history_is_one_point_per_step(ax):
    assert plots.history([-3.0, -2.0, -1.5], ax) is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, -3], [2, -2], [3, -1.5]])
    assert "nats" in ax.get_ylabel()
