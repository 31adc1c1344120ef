"""`AnomalyDetector`: thresholds that keep their promise, conventions, explanations."""

import pickle

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.sklearn.common import OTHERS, THEIRS, overlapping
from torchgmm.sklearn import AnomalyDetector

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.25, 0.5])
def test_the_share_of_the_fitted_rows_is_that_asked_for(contamination):
    x = overlapping(400)
    detector = AnomalyDetector(3, contamination=contamination, random_state=0).fit(x)
    labels = detector.predict(x)
    assert set(labels) == {-1, 1}
    assert int((labels == -1).sum()) == round(400 * contamination)
    decision = detector.decision_function(x)
    assert np.array_equal(labels == -1, decision < 0)
    np.testing.assert_allclose(decision, detector.score_samples(x) - detector.offset_)
    assert np.array_equal(detector.fit_predict(x), labels)


def test_a_threshold_on_rows_held_out_keeps_its_promise_on_new_rows():
    rng = np.random.default_rng(0)
    x, fresh = rng.normal(size=(400, 6)), rng.normal(size=(20_000, 6))

    def alarms(held_out):
        # far too many components for so few rows: the fit knows its own rows by heart
        detector = AnomalyDetector(12, contamination=0.05, held_out=held_out, random_state=0)
        return (detector.fit(x).predict(fresh) == -1).mean()

    # a quantile of 200 held out rows has a deviation of sqrt(.05 * .95 / 200) = 0.015
    assert abs(alarms(0.5) - 0.05) < 4 * 0.015
    assert alarms(0.0) > 0.2


@pytest.mark.parametrize("covariance_type", [*THEIRS, *OTHERS])
def test_strange_rows_are_found_by_every_family(covariance_type):
    rng = np.random.default_rng(1)
    x = overlapping(500)
    strange = rng.uniform(-60, 60, size=(40, 3))
    detector = AnomalyDetector(3, covariance_type=covariance_type, random_state=0).fit(x)
    scores = detector.decision_function(np.r_[x, strange])
    assert roc_auc_score(np.r_[np.ones(500), np.zeros(40)], scores) > 0.9
    explained = detector.explain(strange)
    assert explained.shape == (40, 3)
    assert np.isfinite(explained).all()


def definition(detector, x):
    """`-log p(x_d | rest)` from the densities of the mixture with and without feature d."""
    found = detector.estimator_
    covariances = found.mixture_.scale_tril.detach().double().numpy()
    covariances = covariances @ covariances.transpose(0, 2, 1)

    def log_density(kept):
        if not kept:
            return 0.0
        parts = [
            np.log(w) + multivariate_normal(m[kept], s[np.ix_(kept, kept)]).logpdf(x[:, kept])
            for w, m, s in zip(found.weights_, found.means_, covariances, strict=True)
        ]
        return logsumexp(parts, axis=0)

    every = list(range(x.shape[1]))
    return np.column_stack(
        [log_density([e for e in every if e != d]) - log_density(every) for d in every]
    )


@pytest.mark.parametrize("covariance_type", [*THEIRS, *OTHERS])
@pytest.mark.parametrize("columns", [1, 3])
def test_explanations_are_conditional_surprises(covariance_type, columns):
    x = overlapping(150)[:, :columns]
    detector = AnomalyDetector(2, covariance_type=covariance_type, random_state=0).fit(x)
    rows = np.r_[x[:20], 3 * x[:20]]
    expected = definition(detector, rows) - np.median(definition(detector, x), axis=0)
    # the median of an even number of rows: torch takes the lower of the two in the middle
    offset = (detector.explain(rows) - expected).mean(0)
    np.testing.assert_allclose(detector.explain(rows) - offset, expected, atol=1e-7)
    assert np.abs(offset).max() < 0.1


def test_the_guilty_feature_is_named_whatever_its_unit():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4)) * [1e-3, 1, 1e3, 1]
    detector = AnomalyDetector(random_state=0, reg_covar=1e-12).fit(x)
    bad = x[:100].copy()
    guilty = rng.integers(0, 4, 100)
    bad[np.arange(100), guilty] += 8 * x.std(0)[guilty]
    assert (detector.explain(bad).argmax(1) == guilty).all()
    assert np.abs(np.median(detector.explain(x), axis=0)).max() < 0.1


def test_a_broken_correlation_shows_where_each_entry_alone_is_common():
    rng = np.random.default_rng(0)
    first = rng.normal(size=1000)
    x = np.column_stack([first, first + 0.05 * rng.normal(size=1000), rng.normal(size=1000)])
    detector = AnomalyDetector(contamination=0.01).fit(x)
    broken = [[1.0, -1.0, 0.0]]
    assert detector.predict(broken) == [-1]
    first, second, third = detector.explain(broken)[0]
    assert min(first, second) > 100 > 1 > third


def test_weights_move_the_threshold_as_repeated_rows_do():
    x = overlapping(200)
    w = np.random.default_rng(0).integers(0, 4, 200)
    weighted = AnomalyDetector(contamination=0.1).fit(x, sample_weight=w)
    repeated = AnomalyDetector(contamination=0.1).fit(np.repeat(x, w, axis=0))
    assert weighted.offset_ == pytest.approx(repeated.offset_, rel=1e-9)


def test_it_lives_among_their_tools():
    x = overlapping(300)
    detector = AnomalyDetector(2, held_out=0.2, contamination=0.05, random_state=0)
    pipe = make_pipeline(StandardScaler(), detector).fit(x)
    assert set(pipe.predict(x)) == {-1, 1}
    again = pickle.loads(pickle.dumps(pipe))
    np.testing.assert_array_equal(again.decision_function(x), pipe.decision_function(x))
    assert clone(detector).get_params() == detector.get_params()
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    assert detector.fit(frame).feature_names_in_.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_come_back_as_tensors(dtype):
    x = torch.as_tensor(overlapping(), dtype=dtype)
    detector = AnomalyDetector(2, random_state=0).fit(x)
    for answer in (detector.decision_function(x), detector.explain(x), detector.score_samples(x)):
        assert isinstance(answer, torch.Tensor)
        assert answer.dtype == dtype
    assert detector.predict(x).dtype == torch.int64
    assert isinstance(detector.predict(x.numpy()), np.ndarray)
    assert detector.explain(x.numpy()).dtype == x.numpy().dtype


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"contamination": 0.6}, "'contamination' parameter of AnomalyDetector must be"),
        ({"contamination": 0}, "'contamination' parameter of AnomalyDetector must be"),
        ({"held_out": 1.0}, "'held_out' parameter of AnomalyDetector must be"),
        ({"n_components": 5, "held_out": 0.8}, "leaves 4 for 5 component"),
    ],
)
def test_wrong_settings_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        AnomalyDetector(**wrong).fit(overlapping(20))
    with pytest.raises(ValueError, match="X has 2 features, but AnomalyDetector is expecting 3"):
        AnomalyDetector().fit(overlapping(20)).predict(np.zeros((3, 2)))


def test_distances_are_those_of_an_elliptic_envelope():
    from sklearn.covariance import EmpiricalCovariance

    x = np.random.default_rng(0).normal(size=(300, 3)) @ np.diag([1, 2, 3])
    one = AnomalyDetector(reg_covar=0.0).fit(x)
    np.testing.assert_allclose(one.mahalanobis(x), EmpiricalCovariance().fit(x).mahalanobis(x))
    two = AnomalyDetector(2, random_state=0).fit(np.concatenate([x, x + 50]))
    # each row is measured from its own group
    assert two.mahalanobis(x + 50).max() < 50
