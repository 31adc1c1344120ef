"""Bad input: the right answer, or an error with what was wrong, the numbers and the remedy."""

import numpy as np
import pytest
import torch
from scipy import sparse

from tests.cases import blobs
from torchgmm import (
    EM,
    GaussianMixture,
    Gradient,
    InputError,
    OnlineEM,
    Progress,
    TorchGMMError,
    select,
)
from torchgmm.fitting import RelativeTolerance, Rescue, Tolerance

ROWS = blobs(60, 2, dtype=torch.float32)
N = len(ROWS)


def with_bad(value, *places):
    x = ROWS.clone()
    for place in places:
        x[place] = value
    return x


def weights(value=1.0, *places, size=N):
    w = torch.ones(size)
    for place in places:
        w[place] = value
    return w


# rows, and what the message must say of them
BAD_ROWS = {
    "one axis": (ROWS[0], r"table \(N, D\), got shape \(2,\): use x.reshape\(-1, 1\)"),
    "no axis": (3.0, r"table \(N, D\), got shape \(\)"),
    "three axes": (ROWS[None], r"rows must be \(N, D\), got shape \(1, 60, 2\): flatten"),
    "no rows": (ROWS[:0], r"rows are empty: shape \(0, 2\)"),
    "no columns": (ROWS[:, :0], r"rows are empty: shape \(60, 0\)"),
    "a NaN": (with_bad(torch.nan, (7, 1)), r"1 NaN or infinite.*nan in row 7, column 1: drop"),
    "infinities": (
        with_bad(-torch.inf, (3, 0), (9, 1)),
        r"2 NaN or infinite.*-inf in row 3, column 0.*weight 0",
    ),
    "complex": (ROWS.to(torch.complex64), r"torch.complex64.*real features.*stack real and imag"),
    "complex array": (ROWS.numpy() + 1j, r"complex.*stack real and imaginary"),
    "too large for float32": (1e30 * torch.sign(ROWS), r"reach 1e\+30.*float32.*limit.*float64"),
    "too large for float64": (1e200 * torch.sign(ROWS.double()), r"reach 1e\+200.*rescale"),
    "integers above 2^24": (
        (ROWS + 2**26).long(),
        r"integers up to 671088\d\d.*exact only to 16777216.*dtype=torch.float64",
    ),
    "strings": (np.array([["a", "b"], ["c", "d"]]), r"must be numbers.*<U1.*numeric columns"),
    "objects": (np.array([[1, None], [2, 3]], dtype=object), r"must be numbers.*object"),
    "dates": (np.zeros((5, 2), dtype="datetime64[D]"), r"must be numbers.*datetime64"),
    "ragged": ([[1.0, 2.0], [3.0]], r"ragged"),
    "text": ([["1", "2"], ["3", "4"]], r"must be numbers"),
    "a dictionary": ({"x": 1}, r"dict"),
    "a set": ({1.0, 2.0}, r"set"),
    "a sparse tensor": (ROWS.to_sparse(), r"sparse tensor.*sparse_coo.*x\.to_dense\(\)"),
    "a sparse array": (sparse.csr_array(ROWS.numpy()), r"sparse csr_array.*x\.toarray\(\)"),
    "masked values": (
        np.ma.masked_greater(ROWS.numpy(), 0.0),
        r"\d+ masked value\(s\): drop those rows.*compress_rows.*filled",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_fitted_are_refused(case):
    rows, message = BAD_ROWS[case]
    with pytest.raises(InputError, match=message):
        GaussianMixture(2).fit(rows)


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_scored_are_refused(case):
    rows, message = BAD_ROWS[case]
    mixture = GaussianMixture(2, 2)
    if case == "no columns":
        message = "rows are empty"
    of_each = () if case == "no rows" else (mixture.log_prob, mixture.predict)
    for question in (*of_each, mixture.score, mixture.bic, mixture.icl):
        with pytest.raises(InputError, match=message):
            question(rows)


def test_no_data_is_refused():
    with pytest.raises(InputError, match="no data"):
        GaussianMixture(2).fit(None)


def test_another_width_is_refused():
    mixture = GaussianMixture(2, 2)
    for ask in (mixture.fit, mixture.log_prob, mixture.predict, mixture.bic):
        with pytest.raises(InputError, match=r"rows have 3 columns.*n_features=2"):
            ask(torch.zeros(9, 3))


def test_a_path_is_read_by_those_who_read_in_blocks_and_named_by_the_others(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS.numpy())
    mixture = GaussianMixture(2, 2)
    assert torch.equal(mixture.score(tmp_path / "rows.npy"), mixture.score(ROWS))
    for question in (mixture.log_prob, mixture.predict, mixture.responsibilities):
        with pytest.raises(InputError, match=r"in memory.*got the path .*rows\.npy.*read_table"):
            question(tmp_path / "rows.npy")


@pytest.mark.parametrize("shape", [(4, 60, 2), (5, 5, 60, 2), (4, 3, 60, 2)])
def test_rows_of_another_batch_are_refused(shape):
    with pytest.raises(InputError, match=r"do not fit a batch of mixtures of shape \(4, 5\)"):
        GaussianMixture(2, 2, batch_shape=(4, 5)).log_prob(torch.zeros(shape))


def test_an_array_with_a_mask_and_nothing_masked_is_an_array():
    plain = np.ma.masked_array(ROWS.numpy(), mask=False)
    mixture = GaussianMixture(2, 2)
    assert torch.equal(mixture.log_prob(plain), mixture.log_prob(ROWS))


def test_a_bad_value_far_into_the_rows_is_found_where_it_is():
    x = torch.zeros(3_000_000, 3)
    x[2_999_998, 2] = torch.nan
    with pytest.raises(InputError, match="row 2999998, column 2"):
        GaussianMixture(1).fit(x, EM(max_iter=1), init="random")


def test_row_numbers_are_those_of_the_data_with_rows_of_weight_zero_too():
    x, w = with_bad(torch.nan, (4, 0), (20, 1)), weights(0, 4, 5, 6)
    with pytest.raises(InputError, match=r"1 NaN or infinite.*row 20, column 1"):
        GaussianMixture(2).fit(x, weights=w)


BAD_WEIGHTS = {
    "too few": (weights(size=59), r"one number per row, \(60,\), got shape \(59,\)"),
    "a column": (weights()[:, None], r"\(60,\), got shape \(60, 1\)"),
    "a number": (torch.tensor(1.0), r"\(60,\), got shape \(\)"),
    "negative": (weights(-2.5, 3, 8), r"2 negative.*least -2\.5 in row 3"),
    "all zero": (torch.zeros(N), r"all 60 weights are zero"),
    "a NaN": (weights(torch.nan, 5), r"1 NaN or infinite.*row 5"),
    "an infinity": (weights(torch.inf, 0, 5), r"2 NaN or infinite.*row 0"),
    "too small": (
        torch.full((N,), 1e-42),
        r"largest weight is 1.*e-42.*1e-30 to 1e\+30",
    ),
    "too large": (weights(1e38, 4), r"largest weight is 1e\+38.*divide them by their largest"),
    "complex": (weights().to(torch.complex64), r"weights must be real"),
    "strings": (["a"] * N, r"weights"),
    "ragged": ([[1.0], [1.0, 2.0]], r"weights"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_cannot_be_used_are_refused(case):
    w, message = BAD_WEIGHTS[case]
    mixture = GaussianMixture(2, 2)
    for ask in (mixture.fit, mixture.score, mixture.bic, mixture.aic, mixture.icl):
        with pytest.raises(InputError, match=message):
            ask(ROWS, weights=w)


@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_weights_of_a_stream_that_are_out_of_range_are_no_start(family):
    batches = [(ROWS, torch.full((N,), 1e-60, dtype=torch.float64))]  # zero in float32
    with pytest.raises(InputError, match=r"sums of the rows for a start.*weights.*rescale"):
        GaussianMixture(2, covariance=family).fit(batches, weights=1)


SETTINGS = {
    "more components than rows": (
        lambda: fit(K=5, x=ROWS[:3]),
        r"3 row\(s\).*n_components=5.*fewer",
    ),
    "no components": (lambda: fit(K=0), "n_components must be at least 1, got 0"),
    "half a component": (lambda: fit(K=1.5), "n_components must be an integer, got 1.5"),
    "unknown family": (lambda: fit(covariance="round"), "covariance must be one of.*got 'round'"),
    "unknown init": (lambda: fit(init="magic"), "init must be one of kmeans.*got 'magic'"),
    "no init": (lambda: fit(init=None), "labels must be integers"),
    "text labels": (lambda: fit(init=["a"] * N), "labels must be integers"),
    "too many labels": (lambda: fit(init=torch.arange(N)), r"labels must lie in 0\.\.1.*59"),
    "too few labels": (lambda: fit(init=torch.zeros(9).long()), r"\(60,\).*\(9,\)"),
    "fractional labels": (lambda: fit(init=torch.zeros(N)), "integer per row"),
    "only unknown labels": (lambda: fit(init=-torch.ones(N).long()), "largest is -1"),
    "unknown kernel": (lambda: EM(kernel="fast"), "kernel must be auto or one of.*'fast'"),
    "negative max_iter": (lambda: EM(max_iter=-1), "max_iter must be at least 0, got -1"),
    "fractional max_iter": (lambda: EM(max_iter=1e3), "max_iter must be an integer, got 1000.0"),
    "negative floor": (lambda: EM(reg_covar=-1e-3), "reg_covar must be at least 0.*-0.001"),
    "NaN floor": (lambda: EM(reg_covar=float("nan")), "reg_covar.*nan"),
    "a text as floor": (lambda: EM(reg_covar="1"), "reg_covar must be a number, got.*'1'"),
    "a text as exponent": (lambda: OnlineEM(exponent="a"), "exponent must be a number, got 'a'"),
    "a text as rate": (lambda: Gradient(lr="a"), "lr must be a number, got 'a'"),
    "the name of a method": (
        lambda: fit(method="EM"),
        r"method must be of type Method.*EM\(\), got 'EM'",
    ),
    "the class of a method": (lambda: fit(method=EM), r"the class EM: write EM\(\)"),
    "a number as rule": (
        lambda: fit(stop=1e-5),
        "stop must be of type Stop.*got 1e-05",
    ),
    "one observer": (lambda: fit(observers=Progress()), r"list of observers.*write \[\.\.\.\]"),
    "a function as observer": (
        lambda: fit(observers=[print]),
        "must be of type Observer.*print",
    ),
    "a search by a name": (lambda: select(ROWS, [1], method="EM"), r"method must be.*got 'EM'"),
    "a search to a number": (lambda: select(ROWS, [1], stop=1e-5), "stop must be.*got 1e-05"),
    "unknown policy": (lambda: Rescue(empty="drop"), "empty must be keep, reseed or raise.*'drop'"),
    "no runs": (lambda: fit(n_init=0), "n_init must be at least 1, got 0"),
    "a fractional seed": (
        lambda: fit(generator=0.5),
        "the seed .generator=. must be an integer, got 0.5",
    ),
    "a negative seed": (
        lambda: fit(generator=-1),
        "the seed .generator=. must be at least 0, got -1",
    ),
    "restarts of one start": (
        lambda: fit(init=GaussianMixture(2, 2).as_parameters(), n_init=3),
        "n_init=3 runs from one and the same start",
    ),
    "a start of another K": (
        lambda: fit(init=GaussianMixture(3, 2).as_parameters()),
        "the start has K=3, D=2, full; the fit has K=2",
    ),
    "a start of another family": (
        lambda: fit(init=GaussianMixture(2, 2, "tied").as_parameters()),
        "tied; the fit has K=2, D=2, full",
    ),
    "a batch of mixtures": (
        lambda: GaussianMixture(2, 2, batch_shape=(3,)).fit(ROWS.expand(2, *ROWS.shape)),
        r"do not fit a batch of shape \(3,\).*\(3, 'N', 'D'\)",
    ),
    "groups of one mixture": (lambda: fit(groups=[0, 1]), "this is one"),
    "current of nothing": (lambda: fit(init="current"), "n_features"),
}


def fit(K=2, x=ROWS, covariance="full", **options):
    return GaussianMixture(K, covariance=covariance).fit(x, **options)


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_mean_nothing_are_refused(case):
    call, message = SETTINGS[case]
    with pytest.raises(TorchGMMError, match=message):
        call()


WRONG_RULES = [{"tol": wrong} for wrong in (-1.0, float("nan"), "0.1", None)] + [{"patience": 0}]


@pytest.mark.parametrize("rule", [Tolerance, RelativeTolerance])
@pytest.mark.parametrize("wrong", WRONG_RULES)
def test_stopping_rules_that_mean_nothing_are_refused(rule, wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must be"):
        rule(**wrong)
