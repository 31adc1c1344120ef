"""The classifier against scikit-learn's relatives and the definition; its life row by row."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import OAS
from sklearn.datasets import load_wine
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import torchgmm as tg
from torchgmm.sklearn import GaussianMixtureClassifier

X, Y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)
NAMES = np.array(["a", "b", "c"])[Y]


def corners(n=200, seed=0):
    """Two classes, each in two opposite corners: no single Gaussian tells them."""
    rng = np.random.default_rng(seed)
    at = rng.integers(2, size=(n, 2))
    return rng.normal(size=(n, 2)) + 6 * at, at.sum(1) % 2


def test_one_diagonal_component_is_naive_bayes():
    theirs = GaussianNB(var_smoothing=0).fit(X, Y)
    ours = GaussianMixtureClassifier(covariance_type="diag", reg_covar=0).fit(X, Y)
    np.testing.assert_allclose(ours.means_[:, 0], theirs.theta_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.covariances_[:, 0], theirs.var_, rtol=1e-9)
    np.testing.assert_allclose(ours.class_prior_, theirs.class_prior_)
    np.testing.assert_allclose(
        ours.predict_joint_log_proba(X), theirs.predict_joint_log_proba(X), rtol=1e-9
    )
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)


def test_one_full_component_is_quadratic_discriminant_analysis():
    ours = GaussianMixtureClassifier(reg_covar=0).fit(X, NAMES)
    joint = np.stack(
        [
            np.log((c == Y).mean())
            + multivariate_normal(X[c == Y].mean(0), np.cov(X[c == Y].T, bias=True)).logpdf(X)
            for c in range(3)
        ],
        1,
    )
    np.testing.assert_allclose(ours.predict_joint_log_proba(X), joint, rtol=1e-8)
    assert (ours.predict(X) == np.array(["a", "b", "c"])[joint.argmax(1)]).all()
    total = np.logaddexp.reduce(joint, 1)
    np.testing.assert_allclose(ours.score_samples(X), total, rtol=1e-8)
    np.testing.assert_allclose(np.exp(ours.predict_log_proba(X)).sum(1), 1)


def test_a_class_may_be_in_several_places():
    x, y = corners()
    one, two = (
        GaussianMixtureClassifier(k, covariance_type="diag", random_state=0).fit(x, y)
        for k in (1, 2)
    )
    assert one.score(x, y) < 0.7 < 0.95 < two.score(x, y)
    assert two.mixture_.batch_shape == (2,)
    assert two.means_.shape == (2, 2, 2)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical", "tied_diagonal"])
def test_every_class_is_the_mixture_of_its_rows(kind):
    x, y = corners(400)
    ours = GaussianMixtureClassifier(2, covariance_type=kind, random_state=0).fit(x, y)
    for c in range(2):
        alone = tg.GaussianMixture(2, covariance=kind, dtype=torch.float64)
        alone.fit(x[y == c], generator=0)
        a, b = np.sort(ours.means_[c], 0), np.sort(alone.means.detach().numpy(), 0)
        np.testing.assert_allclose(a, b, atol=0.02)  # other draws, stopped at 1e-3 nats


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_rows_in_pieces_are_rows_at_once(kind):
    whole = GaussianMixtureClassifier(covariance_type=kind).fit(X, NAMES)
    pieces = GaussianMixtureClassifier(covariance_type=kind)
    for part in np.array_split(np.random.default_rng(0).permutation(len(X)), 7):
        pieces.partial_fit(X[part], NAMES[part], classes=["a", "b", "c"])
    for name in ("means_", "covariances_", "class_prior_", "class_count_"):
        np.testing.assert_allclose(getattr(pieces, name), getattr(whole, name), atol=2e-6)
    assert (pieces.predict(X) == whole.predict(X)).all()
    assert pieces.n_iter_ == 7


def test_what_was_fitted_learns_on():
    x, y = corners(600)
    model = GaussianMixtureClassifier(2, random_state=0).fit(x[:300], y[:300])
    before = model.score(x, y)
    model.partial_fit(x[300:], y[300:])
    assert model.score(x, y) > before - 0.02
    assert model.class_count_.sum() == 600


def test_a_class_has_no_mixture_before_it_has_rows():
    x, y = corners(60)
    model = GaussianMixtureClassifier(2, random_state=0)
    model.partial_fit(x[y == 0], y[y == 0], classes=[0, 1])
    assert (model.predict(x) == 0).all()
    np.testing.assert_allclose(model.predict_proba(x)[:, 1], 0)
    model.partial_fit(x[y == 1], y[y == 1])
    assert model.score(x, y) > 0.9


def test_shrinkage_is_that_of_scikit_learn():
    few, y = X[::6], Y[::6]  # about ten rows of a class in 13 dimensions
    ours = GaussianMixtureClassifier(shrinkage="auto", reg_covar=1e-12).fit(few, y)
    for c in range(3):
        expected = OAS().fit(few[y == c]).covariance_
        np.testing.assert_allclose(ours.covariances_[c, 0], expected, rtol=1e-6, atol=1e-9)
    half = GaussianMixtureClassifier(shrinkage=0.5).fit(X, Y)
    plain = GaussianMixtureClassifier().fit(X, Y)
    s = plain.covariances_[0, 0]
    wanted = 0.5 * s + 0.5 * np.trace(s) / len(s) * np.eye(len(s))
    np.testing.assert_allclose(half.covariances_[0, 0], wanted, rtol=1e-9, atol=1e-12)


def test_shrinkage_helps_where_rows_are_few():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1000, 60)), np.arange(1000) % 2
    x += 0.5 * y[:, None]  # 1.9 standard deviations on each side of the border: 97 % at best
    plain = GaussianMixtureClassifier().fit(x[:60], y[:60]).score(x[60:], y[60:])
    model = GaussianMixtureClassifier(shrinkage="auto").fit(x[:60], y[:60])
    assert model.score(x[60:], y[60:]) > plain + 0.1  # 30 rows of a class in 60 dimensions


def test_a_class_with_few_rows_has_few_components():
    x, y = corners(100)
    x, y = np.concatenate([x, [[50.0, 50.0]]]), np.append(y, 2)
    model = GaussianMixtureClassifier(3, random_state=0).fit(x, y)
    assert (model.weights_[2] > 0).sum() == 1
    assert model.predict([[50, 50]]) == [2]
    assert [m.n_components for m in model.mixture_.unstack()] == [3, 3, 1]


def test_priors_and_weights_count():
    x, y = np.array([[-1.0], [1.0], [3.0], [5.0]]), np.array([0, 0, 1, 1])
    at = [[2.0]]
    assert GaussianMixtureClassifier().fit(x, y).predict_proba(at) == pytest.approx(0.5)
    model = GaussianMixtureClassifier(priors=[0.9, 0.1]).fit(x, y)
    assert model.predict_proba(at)[0] == pytest.approx([0.9, 0.1])
    weighted = GaussianMixtureClassifier().fit(x, y, sample_weight=[9, 9, 1, 1])
    assert weighted.predict_proba(at)[0] == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_give_tensors(dtype):
    x, y = torch.from_numpy(X).to(dtype), torch.from_numpy(Y)
    model = GaussianMixtureClassifier().fit(x, y)
    assert model.means_.dtype == dtype
    answer, chances = model.predict(x), model.predict_proba(x)
    assert isinstance(answer, torch.Tensor)
    assert float((answer == y).double().mean()) > 0.98
    assert chances.dtype == dtype
    assert chances.shape == (len(X), 3)
    labels = GaussianMixtureClassifier().fit(X, Y).predict(X)
    assert (answer.numpy() == labels).mean() > 0.99


def test_it_is_an_estimator_like_others():
    model = make_pipeline(StandardScaler(), GaussianMixtureClassifier(shrinkage="auto"))
    assert cross_val_score(model, *load_wine(return_X_y=True)).mean() > 0.95
    fitted = model.fit(X, NAMES)
    assert (pickle.loads(pickle.dumps(fitted)).predict(X) == fitted.predict(X)).all()


BAD = {
    "no labels": (lambda m: m.fit(X, None), "requires y"),
    "numbers for classes": (lambda m: m.fit(X, X[:, 0]), "Unknown label type"),
    "labels of other rows": (lambda m: m.fit(X, Y[:-1]), "inconsistent numbers of samples"),
    "no classes": (lambda m: m.partial_fit(X, Y), "classes must be passed"),
    "an unknown class": (lambda m: m.partial_fit(X, Y, classes=[0, 1]), "none of the classes"),
    "a class of weight zero": (lambda m: m.fit(X, Y, sample_weight=(Y > 0) * 1.0), "classes"),
    "priors of others": (lambda m: m.set_params(priors=[1.0]).fit(X, Y), "priors must be 3"),
    "priors that do not sum": (lambda m: m.set_params(priors=[1, 1, 1]).fit(X, Y), "sum to 1"),
    "too much shrinkage": (lambda m: m.set_params(shrinkage=2.0).fit(X, Y), "shrinkage"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call(GaussianMixtureClassifier())
