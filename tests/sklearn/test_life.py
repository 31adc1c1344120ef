"""The estimator among scikit-learn's tools: pipelines, searches, clones, data frames, pickles."""

import pickle
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import sklearn.mixture
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from tests.conftest import ROOT
from tests.sklearn.common import ARRAYS, overlapping
from torchgmm.sklearn import GaussianMixture, from_sklearn, to_sklearn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def both(make):
    return [make(kind) for kind in (sklearn.mixture.GaussianMixture, GaussianMixture)]


def test_a_pipeline_gives_their_answers():
    x, _ = load_iris(return_X_y=True)
    theirs, ours = both(
        lambda kind: make_pipeline(StandardScaler(), PCA(2), kind(3, random_state=0)).fit(x)
    )
    assert np.array_equal(theirs.predict(x), ours.predict(x))
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-8)
    assert ours.score(x) == pytest.approx(theirs.score(x), rel=1e-9)
    assert np.array_equal(ours.fit_predict(x), theirs.predict(x))


def test_a_search_gives_their_answers():
    x = overlapping(150)
    grid = {"n_components": [1, 2, 3], "covariance_type": ["full", "diag"]}
    theirs, ours = both(lambda kind: GridSearchCV(kind(random_state=0), grid, cv=3).fit(x))
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-6
    )
    scores = cross_val_score(GaussianMixture(3, random_state=0), x, cv=3)
    assert scores.shape == (3,)


def test_clones_are_unfitted_and_alike():
    x = overlapping()
    model = GaussianMixture(3, covariance_type="diag", random_state=0, batch_size=50).fit(x)
    model.partial_fit(x)
    twin = clone(model)
    assert not hasattr(twin, "means_")
    assert twin.get_params() == model.get_params()
    assert not hasattr(twin, "_online")


def test_pickles_answer_alike():
    x = overlapping()
    model = GaussianMixture(3, random_state=0).fit(x)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(x), model.score_samples(x))
    assert pickle.loads(pickle.dumps(again.fit(x))).n_iter_ == model.n_iter_


def test_data_frames_bring_their_names():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(overlapping(), columns=["a", "b", "c"])
    model = GaussianMixture(3, random_state=0).fit(frame)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert isinstance(model.predict(frame), np.ndarray)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(frame.to_numpy())
    model.partial_fit(frame, sample_weight=pd.Series(np.ones(len(frame))))
    model.fit(frame.to_numpy())
    assert not hasattr(model, "feature_names_in_")


def test_set_output_upstream_reaches_the_names():
    pytest.importorskip("pandas")
    x, _ = load_iris(return_X_y=True, as_frame=True)
    columns = ColumnTransformer([("petals", StandardScaler(), x.columns[2:])])
    pipe = make_pipeline(columns, GaussianMixture(3, random_state=0))
    pipe.set_output(transform="pandas").fit(x)
    names = pipe[-1].feature_names_in_.tolist()
    assert names == ["petals__petal length (cm)", "petals__petal width (cm)"]


def test_weights_pass_through_a_pipeline():
    x = overlapping()
    w = np.random.default_rng(0).random(len(x))
    pipe = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0))
    pipe.fit(x, gaussianmixture__sample_weight=w)
    alone = GaussianMixture(2, random_state=0).fit(StandardScaler().fit_transform(x), None, w)
    np.testing.assert_allclose(pipe[-1].means_, alone.means_)


def test_it_is_shown_as_their_estimators_are():
    model = GaussianMixture(3, device="cpu")
    assert repr(model) == "GaussianMixture(device='cpu', n_components=3)"
    html = estimator_html_repr(make_pipeline(StandardScaler(), model))
    assert "GaussianMixture" in html
    assert "Fitted" in estimator_html_repr(model.fit(overlapping()))


# both ways --------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_there_and_back(covariance_type):
    x = overlapping()
    theirs = sklearn.mixture.GaussianMixture(
        3, covariance_type=covariance_type, random_state=0
    ).fit(x)
    mixture = from_sklearn(theirs)
    np.testing.assert_allclose(mixture.log_prob(x).detach(), theirs.score_samples(x), rtol=1e-10)
    back = to_sklearn(mixture)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(back, name), getattr(theirs, name), rtol=1e-10)
    np.testing.assert_allclose(back.predict_proba(x), theirs.predict_proba(x), atol=1e-10)
    np.testing.assert_allclose(back.sample(3)[0].shape, (3, 3))
    ours = GaussianMixture(3, covariance_type=covariance_type, random_state=0, tol=1e-5).fit(x)
    twin = to_sklearn(ours)
    assert (twin.tol, twin.n_iter_, twin.converged_) == (1e-5, ours.n_iter_, True)
    np.testing.assert_allclose(twin.score_samples(x), ours.score_samples(x), rtol=1e-10)
    np.testing.assert_allclose(
        from_sklearn(ours).log_prob(x).detach(), ours.score_samples(x), rtol=1e-10
    )
    assert np.isfinite(twin.set_params(warm_start=True).fit(x).lower_bound_)


@pytest.mark.parametrize("covariance_type", ["tied_diagonal", "tied_spherical"])
def test_families_unknown_there_become_full(covariance_type):
    x = overlapping()
    ours = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(x)
    twin = to_sklearn(ours)
    assert twin.covariance_type == "full"
    np.testing.assert_allclose(twin.score_samples(x), ours.score_samples(x), rtol=1e-10)


def test_what_cannot_be_converted_is_refused():
    import torchgmm

    with pytest.raises(ValueError, match="got a BayesianGaussianMixture"):
        from_sklearn(sklearn.mixture.BayesianGaussianMixture().fit(overlapping()))
    with pytest.raises(sklearn.exceptions.NotFittedError):
        from_sklearn(sklearn.mixture.GaussianMixture())
    with pytest.raises(ValueError, match="batch of shape"):
        to_sklearn(torchgmm.GaussianMixture(2, 2, batch_shape=(3,)))
    with pytest.raises(ValueError, match="got a PCA"):
        to_sklearn(PCA())


def test_float32_stays_float32_both_ways():
    x = overlapping().astype(np.float32)
    ours = GaussianMixture(3, random_state=0).fit(x)
    assert from_sklearn(ours).dtype == torch.float32
    assert to_sklearn(ours).means_.dtype == np.float32
    assert from_sklearn(ours, dtype=torch.float64).dtype == torch.float64


def test_without_scikit_learn_the_extra_is_named():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "try:\n    import torchgmm.sklearn\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("MissingExtraError torchgmm.sklearn needs the package"), done
    assert "pip install '.[sklearn]'" in done.stdout
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "sklearn" in extras["optional-dependencies"]
