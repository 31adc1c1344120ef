"""Law 2: an integer weight is that many equal rows; weight 0 is absence, whatever the row holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import FAMILIES, blobs
from tests.laws.strategies import assert_close, problems, seeds
from torchgmm import EM, GaussianMixture
from torchgmm.kernels import as_kernel
from torchgmm.seeding import KMeans, KMeansPlusPlus, Labels, RandomResponsibilities, RandomRows

JUNK = [torch.nan, torch.inf, -torch.inf, 1e300]


def counts(n, seed):
    return torch.randint(0, 4, (n,), generator=torch.Generator().manual_seed(seed))


@given(problems(), seeds)
def test_an_integer_weight_is_so_many_rows(problem, seed):
    w = counts(len(problem.x), seed)
    w[0] = 2
    kernel = as_kernel("dense")
    weighted = kernel.accumulate(problem.x, w.double(), problem.start)
    repeated = kernel.accumulate(problem.x.repeat_interleave(w, 0), None, problem.start)
    for field in ("weight", "first", "second", "log_prob", "rows"):
        a, b = getattr(weighted, field), getattr(repeated, field)
        # other sums of the same hundred terms
        torch.testing.assert_close(
            a, b, rtol=1e-11, atol=1e-11 * float(repeated.second.abs().max())
        )


@given(problems(), seeds)
def test_a_fit_of_integer_weights_is_a_fit_of_repeated_rows(problem, seed):
    w = 1 + counts(len(problem.x), seed)
    weighted = problem.fit(weights=w, floor=1e-3)
    repeated = problem.fit(problem.x.repeat_interleave(w, 0), floor=1e-3)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, rel=1e-9, abs=1e-9)
    assert_close(weighted.parameters, repeated.parameters, 1e-8)  # roundings, over 5 steps


@given(problems(), st.floats(1e-3, 1e3))
def test_only_the_ratios_of_weights_count(problem, factor):
    w = torch.linspace(0.1, 2, len(problem.x), dtype=torch.float64)
    one, other = problem.fit(weights=w, floor=1e-3), problem.fit(weights=factor * w, floor=1e-3)
    assert_close(other.parameters, one.parameters, 1e-8)  # roundings, over 5 steps


@given(problems(), seeds, st.sampled_from(JUNK))
def test_a_row_of_weight_zero_is_absent(problem, seed, junk):
    w = torch.rand(len(problem.x), generator=torch.Generator().manual_seed(seed)).double() + 0.1
    gone = counts(len(w), seed) == 0
    gone[0] = False
    w[gone] = 0
    spoilt = problem.x.clone()
    spoilt[gone] = junk
    with_junk = problem.fit(spoilt, weights=w, floor=1e-3)
    without = problem.fit(problem.x[~gone], weights=w[~gone], floor=1e-3)
    assert torch.equal(with_junk.parameters.means, without.parameters.means)
    assert torch.equal(with_junk.parameters.scale, without.parameters.scale)


SEEDINGS = {
    "kmeans": lambda kept: KMeans(),
    "k-means++": lambda kept: KMeansPlusPlus(),
    "random rows": lambda kept: RandomRows(),
    "random": lambda kept: RandomResponsibilities(),
    "labels": lambda kept: Labels(torch.arange(60)[kept] % 3),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seeding", SEEDINGS)
def test_a_seeding_does_not_see_rows_of_weight_zero(family, seeding):
    # K = 20 of 45 rows: most components are too small for a covariance of their own and borrow
    n_components = 3 if seeding == "labels" else 20
    x, w = blobs(60, 3), torch.ones(60, dtype=torch.float64)
    kept = torch.arange(60) % 4 > 0
    spoilt = x.clone()
    spoilt[~kept], w[~kept] = torch.nan, 0
    answers = []
    for rows, weights, here in ((spoilt, w, slice(None)), (x[kept], w[kept], kept)):
        mixture = GaussianMixture(n_components, covariance=family, dtype=torch.float64)
        init = SEEDINGS[seeding](here)
        result = mixture.fit(rows, EM(max_iter=0), init=init, weights=weights, generator=0)
        answers.append(result.parameters)
    # the same rows and draws; random responsibilities are drawn chunk by chunk in the same order
    assert_close(answers[0], answers[1], 1e-12)


def test_fewer_rows_of_positive_weight_than_components_are_refused():
    from torchgmm import InputError

    x, w = blobs(10), torch.zeros(10)
    w[:2] = 1
    for init in ("kmeans", "k-means++", "random_from_data", "random"):
        with pytest.raises(InputError, match=r"2 row\(s\) of positive weight .* n_components=5"):
            GaussianMixture(5).fit(x, weights=w, init=init)


@pytest.mark.parametrize("question", ["score", "bic", "aic", "icl"])
def test_questions_honour_weights_and_absence(question):
    x = blobs(80)
    mixture = GaussianMixture(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = counts(80, 0)
    spoilt = x.clone()
    spoilt[w == 0] = torch.nan
    ask = getattr(mixture, question)
    expected = ask(x.repeat_interleave(w, 0))
    torch.testing.assert_close(ask(spoilt, weights=w), expected)
