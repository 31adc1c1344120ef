"""What the estimator does that scikit-learn's does not: weights, streams, tensors, families."""

import pickle

import numpy as np
import pytest
import sklearn.mixture
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from tests.sklearn.common import ARRAYS, OTHERS, THEIRS, overlapping
from torchgmm.sklearn import GaussianMixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
every_type = pytest.mark.parametrize("covariance_type", [*THEIRS, *OTHERS])
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def start(x, covariance_type, k=3):
    rough = GaussianMixture(
        k, covariance_type=covariance_type, init_params="random", random_state=0, max_iter=2
    ).fit(x)
    return {
        "weights_init": rough.weights_,
        "means_init": rough.means_,
        "precisions_init": rough.precisions_,
    }


# weights ----------------------------------------------------------------------------------------


@every_type
def test_a_weight_of_three_is_three_rows(covariance_type):
    x = overlapping(120)
    w = np.random.default_rng(0).integers(0, 4, len(x))
    own = start(x, covariance_type)
    weighted = GaussianMixture(3, covariance_type=covariance_type, **own)
    weighted.fit(x, sample_weight=w)
    repeated = GaussianMixture(3, covariance_type=covariance_type, **own).fit(x.repeat(w, axis=0))
    for name in ARRAYS:
        np.testing.assert_allclose(
            getattr(weighted, name), getattr(repeated, name), rtol=1e-8, atol=1e-9
        )
    assert weighted.n_iter_ == repeated.n_iter_


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_rows_of_weight_zero_have_no_part_in_any_start(init_params, covariance_type):
    x = overlapping(200)
    x[:50] = 1e6
    w = np.r_[np.zeros(50), np.ones(150)]
    model = GaussianMixture(
        3, covariance_type=covariance_type, init_params=init_params, random_state=0
    ).fit(x, sample_weight=w)
    assert np.abs(model.means_).max() < 100
    assert GaussianMixture(3).fit(x, sample_weight=w).score(x[50:]) > -20
    with pytest.raises(ValueError, match="n_samples = 2"):
        GaussianMixture(3).fit(x, sample_weight=np.r_[1, 1, np.zeros(198)])
    with pytest.raises(ValueError, match="negative"):
        model.fit(x, sample_weight=-w)


# streams ----------------------------------------------------------------------------------------


def test_partial_fits_reach_what_a_fit_finds():
    x = overlapping(6000)
    whole = GaussianMixture(3, random_state=0).fit(x)
    parts = GaussianMixture(3, random_state=0)
    for _ in range(3):
        for rows in np.array_split(x, 12):
            assert parts.partial_fit(rows) is parts
    assert parts.n_iter_ == len(parts.lower_bounds_) == 36
    # online EM forgets little by now, but something: a hundredth of a nat per row
    assert parts.score(x) > whole.score(x) - 0.01


def test_a_partial_fit_goes_on_from_its_state():
    x = overlapping(3000)
    straight = GaussianMixture(3, random_state=0)
    cut = GaussianMixture(3, random_state=0)
    for rows in np.array_split(x, 6):
        straight.partial_fit(rows)
        cut = pickle.loads(pickle.dumps(cut.partial_fit(rows)))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(cut, name), getattr(straight, name))


def test_a_partial_fit_after_a_fit_trusts_the_fit_by_its_rows():
    x = overlapping(4000)
    far = overlapping(40, seed=0) + 30
    few = GaussianMixture(3, random_state=0).fit(x[:100])
    many = GaussianMixture(3, random_state=0).fit(x)
    for model in (few, many):
        before = model.means_.copy()
        model.partial_fit(far)
        model.moved = np.abs(model.means_ - before).max()
    assert 0 < many.moved < few.moved
    many.fit(x)
    assert many.lower_bound_ == GaussianMixture(3, random_state=0).fit(x).lower_bound_


def test_partial_fits_know_weights_and_refuse_other_columns():
    x = overlapping(400)
    x[:100] = 1e5
    w = np.r_[np.zeros(100), np.ones(300)]
    model = GaussianMixture(2, random_state=0).partial_fit(x, sample_weight=w)
    model.partial_fit(x, sample_weight=w)
    assert np.abs(model.means_).max() < 100
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3"):
        model.partial_fit(x[:, :2])
    with pytest.raises(ValueError, match="n_samples = 1"):
        GaussianMixture(2).partial_fit(x[:1])


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_rows_read_in_batches_are_the_same_rows(batch_size):
    x = overlapping(200)
    whole = GaussianMixture(3, random_state=0).fit(x)
    parts = GaussianMixture(3, random_state=0, batch_size=batch_size).fit(x)
    np.testing.assert_allclose(parts.means_, whole.means_, rtol=1e-9)
    np.testing.assert_allclose(parts.score_samples(x), whole.score_samples(x), rtol=1e-9)
    np.testing.assert_allclose(parts.predict_proba(x), whole.predict_proba(x), atol=1e-9)
    assert np.array_equal(parts.predict(x), whole.predict(x))


# families ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", OTHERS)
def test_other_families_fit_and_answer(covariance_type):
    x = overlapping()
    model = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(x)
    shape = {"tied_diagonal": (3,), "tied_spherical": ()}[covariance_type]
    assert model.covariances_.shape == model.precisions_cholesky_.shape == shape
    np.testing.assert_allclose(model.covariances_ * model.precisions_, 1, rtol=1e-12)
    np.testing.assert_allclose(model.precisions_cholesky_**2, model.precisions_, rtol=1e-12)
    spread = np.sqrt(np.broadcast_to(model.covariances_, 3))
    rows, labels = model.sample(4000)
    near = (rows - model.means_[labels]).std(0)
    np.testing.assert_allclose(near, spread, rtol=0.1)  # 4000 draws: 1 % of deviation
    mixture = model.mixture_
    assert mixture.covariance == covariance_type
    assert model.bic(x) == pytest.approx(float(mixture.bic(x)), rel=1e-9)
    for start in ("random", "k-means++", "random_from_data"):
        again = GaussianMixture(
            3, covariance_type=covariance_type, init_params=start, random_state=0
        ).fit(x)
        assert np.isfinite(again.lower_bound_)


def test_a_family_by_either_name():
    x = overlapping()
    one = GaussianMixture(2, covariance_type="diag", random_state=0).fit(x)
    other = GaussianMixture(2, covariance_type="diagonal", random_state=0).fit(x)
    np.testing.assert_array_equal(one.covariances_, other.covariances_)


# tensors and devices ----------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_come_back_as_tensors(device, dtype):
    x = torch.as_tensor(overlapping(), dtype=dtype, device=device)
    model = GaussianMixture(3, random_state=0)
    labels = model.fit_predict(x)
    for name in ARRAYS:
        value = getattr(model, name)
        assert isinstance(value, torch.Tensor)
        assert (value.dtype, value.device) == (dtype, x.device)
    rows, components = model.sample(5)
    for answer in (model.predict(x), model.score_samples(x), model.predict_proba(x), rows):
        assert isinstance(answer, torch.Tensor)
        assert answer.device == x.device
        assert not answer.requires_grad
    assert torch.equal(labels, model.predict(x))
    assert components.dtype == torch.int64
    assert isinstance(model.score(x), float)
    # the same mixture asked with the other kind of array
    answer = model.score_samples(x.cpu().numpy())
    assert isinstance(answer, np.ndarray)
    np.testing.assert_allclose(answer, model.score_samples(x).cpu(), rtol=1e-4)


def test_tensors_on_the_cpu_start_as_arrays_do():
    x = overlapping()
    ours = GaussianMixture(3, random_state=0).fit(torch.from_numpy(x))
    theirs = sklearn.mixture.GaussianMixture(3, random_state=0).fit(x)
    np.testing.assert_allclose(ours.means_.numpy(), theirs.means_, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.bfloat16, torch.bool])
def test_odd_dtypes_of_tensors(dtype):
    x = torch.as_tensor(overlapping(60)).round().to(dtype)
    model = GaussianMixture(1).fit(x)
    assert model.means_.dtype in (torch.float32, torch.float64)
    assert bool(torch.isfinite(model.score_samples(x)).all())


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_rows_that_are_none_are_refused_in_both_kinds(wrong):
    x = overlapping(50)
    model = GaussianMixture(2).fit(x)
    x[3, 1] = wrong
    for rows in (x, torch.from_numpy(x)):
        for call in (GaussianMixture(2).fit, model.predict, model.score_samples):
            with pytest.raises(ValueError, match=r"NaN|infinity|infinite"):
                call(rows)
    flat = torch.zeros(5)
    with pytest.raises(ValueError, match="reshape"):
        model.predict(flat)
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3"):
        model.predict(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        GaussianMixture(1).fit(torch.zeros(1, 2))


@pytest.mark.cuda
def test_a_device_by_name_computes_there_and_answers_here():
    x = overlapping(3000).astype(np.float32)
    model = GaussianMixture(3, device="cuda", random_state=0, batch_size=500).fit(x)
    assert isinstance(model.means_, np.ndarray)
    here = GaussianMixture(3, random_state=0, device="cpu").fit(x)
    assert model.score(x) == pytest.approx(here.score(x), abs=0.05)
    assert isinstance(model.predict_proba(x), np.ndarray)
    again = GaussianMixture(3, device="cuda", random_state=0, batch_size=500).fit(x)
    np.testing.assert_array_equal(again.means_, model.means_)
    model.partial_fit(x[:100])
    tensors = torch.as_tensor(x, device="cuda")
    assert GaussianMixture(3, device="cpu", random_state=0).fit_predict(tensors).is_cuda


def test_the_mixture_is_a_module_of_torch():
    x = overlapping()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        GaussianMixture(3).mixture_  # noqa: B018
    model = GaussianMixture(3, random_state=0).fit(x)
    rows = torch.tensor(x[:5], requires_grad=True)
    log_prob = model.mixture_.log_prob(rows)
    log_prob.sum().backward()
    assert rows.grad is not None
    np.testing.assert_allclose(log_prob.detach(), model.score_samples(x[:5]), rtol=1e-10)


# what is said -----------------------------------------------------------------------------------


def test_a_fit_that_does_not_converge_warns_as_there():
    x = overlapping()
    text = "Best performing initialization did not converge"
    with pytest.warns(ConvergenceWarning, match=text) as caught:
        GaussianMixture(3, max_iter=1, random_state=0).fit(x)
    assert [w.filename for w in caught] == [__file__]  # once, and at the line of the user


@pytest.mark.parametrize("verbose", [1, 2])
def test_verbose_prints_their_lines(verbose, capsys):
    x = overlapping()
    printed = []
    for kind in (sklearn.mixture.GaussianMixture, GaussianMixture):
        kind(3, n_init=2, verbose=verbose, verbose_interval=2, max_iter=7, random_state=0).fit(x)
        lines = capsys.readouterr().out.splitlines()
        printed.append([line.split("time")[0].strip() for line in lines])
    assert printed[0] == printed[1]
    assert printed[1][0] == "Initialization 0"
