"""The examples of scikit-learn's guide to mixtures, with one import changed."""

import numpy as np
import pytest
import sklearn.mixture
from scipy import linalg
from sklearn import datasets
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.utils.extmath import row_norms

from torchgmm.sklearn import GaussianMixture

KINDS = (sklearn.mixture.GaussianMixture, GaussianMixture)


def both(example):
    return [example(kind) for kind in KINDS]


def ellipse(mean, covariance):
    """What the examples draw: width, height and angle."""
    values, vectors = linalg.eigh(covariance)
    first = vectors[0] / linalg.norm(vectors[0])
    angle = np.degrees(np.arctan(first[1] / first[0]))
    return np.array([*mean, *2 * np.sqrt(2 * values), angle])


def test_plot_gmm():
    np.random.seed(0)  # noqa: NPY002 - as the example draws
    c = np.array([[0.0, -0.1], [1.7, 0.4]])
    x = np.r_[
        np.dot(np.random.randn(500, 2), c),  # noqa: NPY002
        0.7 * np.random.randn(500, 2) + np.array([-6, 3]),  # noqa: NPY002
    ]

    def example(kind):
        gmm = kind(n_components=5, covariance_type="full", random_state=0).fit(x)
        drawn = [ellipse(m, s) for m, s in zip(gmm.means_, gmm.covariances_, strict=True)]
        return gmm.predict(x), np.array(drawn)

    (labels, drawn), (own_labels, own_drawn) = both(example)
    assert np.array_equal(own_labels, labels)
    np.testing.assert_allclose(own_drawn, drawn, rtol=1e-6)


def test_plot_gmm_covariances():
    iris = datasets.load_iris()
    folds = StratifiedKFold(n_splits=4)
    train, test = next(iter(folds.split(iris.data, iris.target)))
    x, y = iris.data[train], iris.target[train]

    def example(kind):
        accuracies = {}
        for covariance_type in ("spherical", "diag", "tied", "full"):
            gmm = kind(n_components=3, covariance_type=covariance_type, max_iter=20, random_state=0)
            gmm.means_init = np.array([x[y == i].mean(axis=0) for i in range(3)])
            gmm.fit(x)
            accuracies[covariance_type] = (
                np.mean(gmm.predict(x) == y) * 100,
                np.mean(gmm.predict(iris.data[test]) == iris.target[test]) * 100,
            )
        return accuracies

    theirs, ours = both(example)
    assert ours == theirs
    assert ours["full"][1] > 90  # the page shows that the rows held out are known


def test_plot_gmm_selection():
    rng = np.random.RandomState(0)
    c = np.array([[0.0, -0.1], [1.7, 0.4]])
    x = np.concatenate([rng.randn(500, 2) @ c, 0.7 * rng.randn(500, 2) + np.array([-4, 1])])
    grid = {"n_components": range(1, 7), "covariance_type": ["spherical", "tied", "diag", "full"]}

    def example(kind):
        search = GridSearchCV(
            kind(random_state=0), param_grid=grid, scoring=lambda model, rows: -model.bic(rows)
        )
        return search.fit(x)

    theirs, ours = both(example)
    assert ours.best_params_ == theirs.best_params_
    assert ours.best_params_ == {"n_components": 2, "covariance_type": "full"}  # the page's choice
    bic, own_bic = (s.cv_results_["mean_test_score"] for s in (theirs, ours))
    np.testing.assert_allclose(own_bic, bic, rtol=1e-6)
    assert np.array_equal(ours.predict(x), theirs.predict(x))


@pytest.mark.parametrize("method", ["kmeans", "random_from_data", "k-means++", "random"])
def test_plot_gmm_init(method):
    x, _ = datasets.make_blobs(n_samples=4000, centers=4, cluster_std=0.60, random_state=0)
    x = x[:, ::-1]

    def example(kind):
        def made(max_iter):
            state = np.random.RandomState(1234)
            return kind(4, init_params=method, tol=1e-9, max_iter=max_iter, random_state=state).fit(
                x
            )

        means, gmm = made(0).means_, made(2000)
        return means, gmm.n_iter_, gmm.predict(x), gmm.means_

    theirs, ours = both(example)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9)
    # 1e-9 nats is at the rounding of sums over 4000 rows: the last steps may be one more or less
    assert abs(ours[1] - theirs[1]) <= 2
    assert accuracy_score(theirs[2], ours[2]) == 1
    np.testing.assert_allclose(ours[3], theirs[3], rtol=1e-5)


def test_plot_gmm_pdf():
    np.random.seed(0)  # noqa: NPY002
    shifted = np.random.randn(300, 2) + np.array([20, 20])  # noqa: NPY002
    stretched = np.dot(np.random.randn(300, 2), np.array([[0.0, -0.7], [3.5, 0.7]]))  # noqa: NPY002
    x = np.vstack([shifted, stretched])
    across, up = np.meshgrid(np.linspace(-20.0, 30.0), np.linspace(-20.0, 40.0))
    grid = np.array([across.ravel(), up.ravel()]).T

    def example(kind):
        return (
            -kind(n_components=2, covariance_type="full", random_state=0).fit(x).score_samples(grid)
        )

    theirs, ours = both(example)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


def test_plot_gmm_sin():
    np.random.seed(0)  # noqa: NPY002
    step = 4.0 * np.pi / 100
    t = np.arange(100) * step - 6.0
    x = np.column_stack([
        t + np.random.normal(0, 0.1, 100),  # noqa: NPY002
        3.0 * (np.sin(t) + np.random.normal(0, 0.2, 100)),  # noqa: NPY002
    ])  # fmt: skip

    def example(kind):
        gmm = kind(n_components=10, covariance_type="full", max_iter=100, random_state=0).fit(x)
        return gmm, gmm.sample(2000)

    (theirs, drawn), (ours, own_drawn) = both(example)
    assert np.array_equal(ours.predict(x), theirs.predict(x))
    assert np.array_equal(own_drawn[1], drawn[1])
    np.testing.assert_allclose(own_drawn[0], drawn[0], rtol=1e-5, atol=1e-6)
    assert row_norms(own_drawn[0]).max() < 20  # the curve stays on its sheet
