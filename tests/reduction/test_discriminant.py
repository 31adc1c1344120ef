"""Axes that tell components apart: Fisher's by scikit-learn, Scrucca's by dense matrices."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn import datasets
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import torchgmm as tg
from tests.cases import FAMILIES, drawn


def moments_of(p):
    factor = p.family.dense_tril(p.scale, p.n_components, p.n_features)
    own, pi = (factor @ factor.mT).numpy(), p.log_weights.exp().numpy()
    mu = p.means.numpy()
    mean = pi @ mu
    within = (pi[:, None, None] * own).sum(0)
    between = (mu - mean).T @ np.diag(pi) @ (mu - mean)
    return pi, own, mean, within, between


def same_line(a, b):
    """Whether rows are multiples of each other."""
    a, b = (t / np.linalg.norm(t, axis=-1, keepdims=True) for t in (a, b))
    return np.abs(np.abs((a * b).sum(-1)) - 1).max() < 1e-9


def test_iris_is_seen_as_by_fisher():
    x, species = datasets.load_iris(return_X_y=True)
    labels = torch.as_tensor(species)
    mixture = tg.GaussianMixture(3, covariance="tied", dtype=torch.float64)
    mixture.fit(x, tg.EM(max_iter=0, reg_covar=0.0), init=labels)
    view = tg.discriminant(mixture, 2, covariances=False)
    fisher = LinearDiscriminantAnalysis(solver="eigen").fit(x, species)
    assert same_line(view.axes.numpy(), fisher.scalings_[:, :2].T)
    z = view(x).numpy()
    pooled = sum((species == s).mean() * np.cov(z[species == s].T, bias=True) for s in range(3))
    np.testing.assert_allclose(pooled, np.eye(2), atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_axes_are_the_generalised_eigenvectors(family):
    p = drawn(family, 5, 4)
    pi, own, mean, within, between = moments_of(p)
    whole = within + between
    differ = between @ np.linalg.solve(whole, between)
    for weight, covariance in zip(pi, own, strict=True):
        d = covariance - within
        differ = differ + weight * d @ np.linalg.solve(whole, d)
    for covariances, matrix in ((True, differ), (False, between)):
        expected = scipy.linalg.eigh(matrix, whole)[1].T[::-1][:3]
        view = tg.discriminant(p, 3, covariances=covariances)
        assert same_line(view.axes.numpy(), expected)
        np.testing.assert_allclose(view.mean, mean)
        spread = view.axes.numpy() @ within @ view.axes.numpy().T
        np.testing.assert_allclose(np.diag(spread), 1)
        seen = view.axes.numpy() @ whole @ view.axes.numpy().T
        np.testing.assert_allclose(seen - np.diag(np.diag(seen)), 0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mixture_in_the_picture_is_that_of_the_projected_rows(family):
    mixture = tg.GaussianMixture.from_parameters(drawn(family, 3, 5))
    view = tg.discriminant(mixture)
    seen = view.project(mixture)
    assert seen.n_features == 2
    torch.testing.assert_close(seen.weights, mixture.weights)
    torch.testing.assert_close(seen.means, view(mixture.means))
    g = torch.Generator().manual_seed(0)
    z = view(mixture.sample((40_000,), g))
    # moments of 40,000 draws whose within-component deviations are near 1
    whole = torch.cov(z.mT)
    factor = seen.scale_tril
    own = (seen.weights[:, None, None] * (factor @ factor.mT)).sum(0)
    apart = seen.means * seen.weights.sqrt().unsqueeze(-1)
    torch.testing.assert_close(own + apart.mT @ apart, whole, rtol=0.05, atol=0.05)
    torch.testing.assert_close(view.inverse(view(view.inverse(z))), view.inverse(z))


def test_components_of_one_mean_are_told_by_their_covariances():
    wide = torch.diag(torch.tensor([1.0, 25.0, 1.0]))
    high = torch.diag(torch.tensor([1.0, 1.0, 25.0]))
    mixture = tg.GaussianMixture.from_covariances(
        [0.5, 0.5], [[0.0] * 3] * 2, torch.stack([wide, high])
    )
    view = tg.discriminant(mixture)
    assert float(view.axes[:, 0].abs().max()) < 1e-9
    assert int(torch.linalg.matrix_rank(view.axes)) == 2


def test_what_does_not_differ_is_shown_by_its_variance():
    # two components apart along the first feature only; then the widest of the others follows
    mixture = tg.GaussianMixture.from_covariances(
        [0.5, 0.5], [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]], [1.0, 9.0, 4.0], "tied_diagonal"
    )
    view = tg.discriminant(mixture, 3)
    expected = torch.diag(torch.tensor([1.0, 1 / 3, 1 / 2])).double()
    torch.testing.assert_close(view.axes, expected)
    one = tg.discriminant(tg.marginal(mixture, [0, 1, 2]), 1)
    torch.testing.assert_close(one.axes, expected[:1])
    alone = tg.GaussianMixture.from_covariances([1.0], [[0.0, 0.0]], [[1.0, 4.0]], "diagonal")
    torch.testing.assert_close(
        tg.discriminant(alone).axes, torch.tensor([[0.0, 0.5], [1.0, 0.0]]).double()
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: tg.discriminant(p, 4), "n_components=4 is more than the 3 features"),
        (lambda p: tg.discriminant(p, 0), "at least 1"),
        (lambda p: tg.discriminant(drawn("full", 2, 3, batch=(2,))), "not a batch"),
        (lambda p: tg.discriminant(torch.zeros(3)), "a mixture is needed"),
    ],
)
def test_wrong_settings_are_refused(call, text):
    with pytest.raises(tg.InputError, match=text):
        call(drawn("full", 2, 3))
