"""The drop-in promise: the same parameters, the same rows, scikit-learn's numbers."""

import numpy as np
import pytest
import sklearn.mixture

from tests.sklearn.common import THEIRS, assert_same_fit, overlapping, pair
from torchgmm.sklearn import GaussianMixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
every_type = pytest.mark.parametrize("covariance_type", THEIRS)
STARTS = ("kmeans", "k-means++", "random", "random_from_data")


@every_type
@pytest.mark.parametrize("init_params", STARTS)
def test_equal_random_state_gives_equal_fits(covariance_type, init_params):
    x = overlapping()
    theirs, ours = pair(
        covariance_type=covariance_type, init_params=init_params, random_state=3, max_iter=40
    )
    assert_same_fit(theirs.fit(x), ours.fit(x))
    # the weights of a start on chosen rows do not sum to one there: another first bound
    np.testing.assert_allclose(ours.lower_bounds_[1:], theirs.lower_bounds_[1:], rtol=1e-9)


def given(x, covariance_type, k=3):
    rough = sklearn.mixture.GaussianMixture(
        k, covariance_type=covariance_type, init_params="random", random_state=1, max_iter=3
    ).fit(x)
    return {
        "weights_init": rough.weights_,
        "means_init": rough.means_,
        "precisions_init": rough.precisions_,
    }


@every_type
@pytest.mark.parametrize("given_up", [(), ("weights_init",), ("means_init", "precisions_init")])
def test_a_given_start_gives_their_answer(covariance_type, given_up):
    x = overlapping()
    start = given(x, covariance_type)
    for name in given_up:
        del start[name]
    theirs, ours = pair(covariance_type=covariance_type, random_state=0, tol=1e-7, **start)
    assert_same_fit(theirs.fit(x), ours.fit(x))
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-9)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=0, atol=1e-9)


@every_type
def test_every_question_has_their_answer(covariance_type):
    x = overlapping()
    theirs, ours = pair(covariance_type=covariance_type, random_state=0)
    theirs.fit(x)
    ours.fit(x)
    fresh = np.random.default_rng(1).normal(size=(40, 3)) * 6
    for rows in (x, fresh, fresh[:1]):
        np.testing.assert_allclose(ours.score_samples(rows), theirs.score_samples(rows), rtol=1e-8)
        np.testing.assert_allclose(
            ours.predict_proba(rows), theirs.predict_proba(rows), rtol=1e-6, atol=1e-10
        )
        assert np.array_equal(ours.predict(rows), theirs.predict(rows))
        assert ours.score(rows) == pytest.approx(theirs.score(rows), rel=1e-9)
        assert ours.bic(rows) == pytest.approx(theirs.bic(rows), rel=1e-9)
        assert ours.aic(rows) == pytest.approx(theirs.aic(rows), rel=1e-9)
    assert ours._n_parameters() == theirs._n_parameters()


def test_integer_rows_are_the_same_numbers():
    # scikit-learn cuts the log-probabilities of integer rows to integers
    x = np.rint(overlapping()).astype(int)
    ours = GaussianMixture(3, random_state=0).fit(x)
    assert ours.means_.dtype == np.float64
    np.testing.assert_array_equal(ours.score_samples(x), ours.score_samples(x.astype(float)))


@every_type
def test_samples_are_theirs(covariance_type):
    x = overlapping()
    theirs, ours = pair(covariance_type=covariance_type, random_state=0)
    theirs.fit(x)
    for a, b in zip(theirs.sample(50), ours.fit(x).sample(50), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="Invalid value for 'n_samples': 0"):
        ours.sample(0)


def test_n_init_keeps_the_same_run():
    x = overlapping(k=5)
    theirs, ours = pair(4, n_init=4, init_params="random", random_state=0, max_iter=30)
    assert_same_fit(theirs.fit(x), ours.fit(x), rtol=1e-6)


def test_a_random_state_object_is_drawn_from_as_there():
    x = overlapping()
    one, other = np.random.RandomState(7), np.random.RandomState(7)
    theirs, ours = pair(random_state=one)[0], pair(random_state=other)[1]
    assert_same_fit(theirs.fit(x), ours.fit(x))
    assert_same_fit(theirs.fit(x), ours.fit(x))  # the second fit goes on drawing
    assert one.randint(2**31) == other.randint(2**31)


def test_a_warm_start_goes_on_and_stops_as_there():
    x = overlapping()
    theirs, ours = pair(warm_start=True, random_state=0, max_iter=4, tol=1e-5)
    for _ in range(6):
        assert_same_fit(theirs.fit(x), ours.fit(x))
    for model in (theirs, ours):
        model.set_params(max_iter=200).fit(x)
    assert_same_fit(theirs, ours)
    assert ours.converged_
    assert ours.fit(x).n_iter_ == theirs.fit(x).n_iter_ == 1  # at rest since the fit before


@pytest.mark.parametrize("init_params", STARTS)
def test_no_iterations_leave_the_start(init_params):
    x = overlapping()
    theirs, ours = pair(max_iter=0, init_params=init_params, random_state=0)
    theirs.fit(x)
    ours.fit(x)
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-9)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-9, atol=1e-12)
    assert ours.weights_.sum() == pytest.approx(1)
    assert (ours.n_iter_, ours.converged_, ours.lower_bound_) == (0, False, -np.inf)
    assert ours.lower_bounds_ == []


def test_float32_stays_float32():
    x = overlapping().astype(np.float32)
    theirs, ours = pair(random_state=0)
    # their sums are in float32, ours in float64
    assert_same_fit(theirs.fit(x), ours.fit(x), rtol=1e-3, atol=1e-3)
    assert ours.score_samples(x).dtype == np.float32


def test_a_component_that_dies_is_left_where_it_is():
    x = np.repeat([[0.0, 0.0], [9.0, 9.0]], 20, axis=0)
    theirs, ours = pair(random_state=0)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning, match="distinct clusters"):
        ours.fit(x)
    theirs.fit(x)
    assert np.isfinite(ours.means_).all()
    np.testing.assert_allclose(np.sort(ours.weights_), np.sort(theirs.weights_), atol=1e-9)
    assert ours.score(x) == pytest.approx(theirs.score(x), rel=1e-9)


def test_attributes_set_by_hand_are_what_is_asked():
    # the usual way to bring back a mixture whose numbers were stored
    x = overlapping()
    theirs = sklearn.mixture.GaussianMixture(3, random_state=0).fit(x)
    ours = GaussianMixture(3)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(ours, name, getattr(theirs, name))
    np.testing.assert_allclose(ours.score_samples(x), theirs.score_samples(x), rtol=1e-10)
    ours.means_ = ours.means_ + 1
    np.testing.assert_allclose(ours.score_samples(x + 1), theirs.score_samples(x), rtol=1e-10)
    # and they are what learning goes on from
    assert abs(ours.partial_fit(x + 1).score(x + 1) - theirs.score(x)) < 0.5
    ours.means_ = ours.means_[:2]
    with pytest.raises(ValueError, match="weights_ must be"):
        ours.predict(x)


def test_parameters_and_defaults_are_theirs():
    theirs, ours = pair()
    own = ours.get_params()
    assert {name: own[name] for name in theirs.get_params()} == theirs.get_params()
    assert set(own) - set(theirs.get_params()) == {"device", "batch_size"}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"n_components": 0}, "'n_components' parameter of GaussianMixture must be an int"),
        ({"covariance_type": "round"}, "'covariance_type' parameter of GaussianMixture must be"),
        ({"tol": -1.0}, "'tol' parameter of GaussianMixture must be a float"),
        ({"init_params": "labels"}, "'init_params' parameter of GaussianMixture must be"),
        ({"weights_init": [0.5, 0.5]}, "'weights' should have the shape of \\(3,\\), but got"),
        ({"weights_init": [0.5, 0.6, 0.1]}, "'weights' should be normalized, but got sum"),
        ({"weights_init": [1.5, -0.3, -0.2]}, "'weights' should be in the range \\[0, 1\\]"),
        ({"means_init": np.zeros((3, 2))}, "'means' should have the shape of \\(3, 3\\)"),
        ({"precisions_init": np.ones((3, 3))}, "'full precision' should have the shape of"),
        (
            {"precisions_init": -np.stack([np.eye(3)] * 3)},
            "'full precision' should be symmetric, positive-definite",
        ),
        (
            {"precisions_init": -np.ones((3, 3)), "covariance_type": "diag"},
            "'diag precision' should be positive",
        ),
    ],
)
def test_wrong_parameters_get_their_words(wrong, text):
    x = overlapping(60)
    k = wrong.pop("n_components", 3)
    for model in pair(k, **wrong):
        with pytest.raises(ValueError, match=text):
            model.fit(x)


def test_too_few_rows_get_their_words():
    for model in pair(5):
        with pytest.raises(ValueError, match="Expected n_samples >= n_components but got"):
            model.fit(np.eye(4))
    for model in pair(1):
        with pytest.raises(ValueError, match="minimum of 2 is required"):
            model.fit(np.ones((1, 2)))


def test_no_spread_and_no_floor_get_their_words():
    x = np.column_stack([np.arange(20.0), np.zeros(20)])
    for model in pair(1, reg_covar=0):
        with pytest.raises(ValueError, match="some components have ill-defined empirical"):
            model.fit(x)
