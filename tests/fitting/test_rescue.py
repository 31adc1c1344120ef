"""Components that lose their rows or their spread: the stated policy, and its count."""

import pytest
import torch

from tests.cases import FAMILIES, blobs
from torchgmm import EM, GaussianMixture, Parameters, Rescue, Tolerance
from torchgmm.covariance import as_family
from torchgmm.errors import EmptyComponentError

every_family = pytest.mark.parametrize("family", FAMILIES)
UNTIED = [name for name in FAMILIES if not as_family(name).tied]
X = torch.cat([blobs(90, 2, k=1, seed=s) + 8 * torch.tensor([s % 2, s // 2]) for s in range(3)])


def with_one_far_away(family, k=3):
    """A start whose last component is so far from all rows that it gets none."""
    family = as_family(family)
    means = torch.cat([X[:: len(X) // (k - 1)][: k - 1], torch.full((1, 2), 1e6).double()])
    return Parameters(
        torch.zeros(k, dtype=torch.float64),
        means,
        torch.zeros(family.scale_shape(k, 2), dtype=torch.float64),
        family,
    )


def fitted(family, steps=50, **policy):
    mixture = GaussianMixture(3, covariance=family, dtype=torch.float64)
    start = with_one_far_away(family)
    result = mixture.fit(X, EM(max_iter=steps, rescue=Rescue(**policy)), init=start)
    return mixture, result


@every_family
def test_an_emptied_component_is_reseeded_and_counted(family):
    mixture, result = fitted(family)
    assert result.rescued == 1
    assert result.history[0].rescued == 1
    assert result.state.rescues == 1
    assert float(mixture.weights[2].detach()) > 0.02  # it found rows of its own
    assert "1 component(s) rescued" in str(result)


@every_family
def test_a_reseeded_component_starts_at_a_badly_explained_row(family):
    mixture, result = fitted(family, steps=1)
    place = result.parameters.means[2]
    assert bool((place == X).all(1).any())
    keep = GaussianMixture(3, covariance=family, dtype=torch.float64)
    keep.fit(X, EM(max_iter=1, rescue=Rescue(empty="keep")), init=with_one_far_away(family))
    log_prob = keep.log_prob(X).detach()
    at_place = log_prob[(place == X).all(1)]
    assert float(at_place) == pytest.approx(float(log_prob.min()))
    # the weight of an average component
    assert float(mixture.weights[2].detach()) == pytest.approx((1 / 3) / (1 + 1 / 3), rel=1e-6)


@every_family
def test_kept_it_stays_where_it_was_with_no_weight(family):
    mixture, result = fitted(family, empty="keep")
    assert result.rescued == 0
    assert mixture.means[2].tolist() == [1e6, 1e6]
    assert float(mixture.weights[2].detach()) < 1e-12
    assert result.parameters.is_finite()
    assert bool(torch.isfinite(mixture.log_prob(X)).all())
    if not mixture.family.tied:
        own, start = (
            p.family.covariances(p.scale)[2] for p in (result.parameters, with_one_far_away(family))
        )
        # along axes that the others have moved, the round one that it was
        exact = {"rtol": 0, "atol": 1e-12 if mixture.family.coupled else 0}
        torch.testing.assert_close(own, start, **exact)


@every_family
def test_raised_it_names_the_component(family):
    message = r"component\(s\) \[2\] lost all their rows: give fewer components"
    with pytest.raises(EmptyComponentError, match=message):
        fitted(family, empty="raise")


def on_copies(family):
    """A start with one component on twenty copies of a single row, far from the others."""
    x = torch.cat([X[:120], torch.full((20, 2), 100.0).double()])
    family = as_family(family)
    means = torch.stack([X[0], X[100], torch.full((2,), 100.0).double()])
    scale = torch.zeros(family.scale_shape(3, 2), dtype=torch.float64)
    return x, Parameters(torch.zeros(3, dtype=torch.float64), means, scale, family)


@pytest.mark.parametrize("family", UNTIED)
def test_a_collapsed_component_is_kept_at_the_floor_and_counted(family):
    x, start = on_copies(family)
    mixture = GaussianMixture(3, covariance=family, dtype=torch.float64)
    result = mixture.fit(x, EM(max_iter=20, reg_covar=1e-4), init=start)
    assert result.collapsed == 1
    assert result.rescued == 0
    variance = (mixture.scale_tril[2] @ mixture.scale_tril[2].mT).detach()
    torch.testing.assert_close(variance, 1e-4 * torch.eye(2).double())
    assert "1 component(s) at the floor" in str(result)


@pytest.mark.parametrize("family", UNTIED)
def test_a_collapsed_component_can_be_reseeded_or_refused(family):
    x, start = on_copies(family)
    again = GaussianMixture(3, covariance=family, dtype=torch.float64)
    method = EM(max_iter=20, reg_covar=1e-4, rescue=Rescue(collapsed="reseed"))
    result = again.fit(x, method, init=start, stop=Tolerance(0))
    assert result.rescued >= 1
    assert result.rescued <= 2 * 3  # the limit: 2 per component
    with pytest.raises(EmptyComponentError, match=r"\[2\] collapsed onto single rows"):
        again.fit(x, EM(reg_covar=1e-4, rescue=Rescue(collapsed="raise")), init=start)


def test_the_limit_lets_a_fit_end():
    # one place, six components: whatever is reseeded collapses again
    x = torch.zeros(30, 2, dtype=torch.float64)
    x[0] = 1
    mixture = GaussianMixture(6, dtype=torch.float64)
    method = EM(max_iter=200, rescue=Rescue(collapsed="reseed", limit=1))
    result = mixture.fit(x, method, generator=0)
    assert result.parameters.is_finite()
    assert result.rescued <= 12  # the last step below the limit may replace all six
    assert result.n_steps < 200


def test_a_step_that_rescues_does_not_count_as_rest():
    _, result = fitted("full")
    assert result.converged
    assert result.history[-1].rescued == 0


def test_rows_of_weight_zero_are_no_place_for_a_component():
    x = torch.cat([X, torch.full((1, 2), 1e4).double()])
    w = torch.ones(len(x))
    w[-1] = 0
    mixture = GaussianMixture(3, dtype=torch.float64)
    mixture.fit(x, EM(max_iter=1), init=with_one_far_away("full"), weights=w)
    assert float(mixture.means.detach().abs().max()) < 100
