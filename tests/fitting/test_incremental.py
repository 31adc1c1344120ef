"""Incremental EM: no step size, the same fixed points as EM, the same blocks on every pass."""

import itertools
import math

import pytest
import torch

from tests.cases import FAMILIES, Case
from tests.laws.test_blocks import Cut
from torchgmm import EM, GaussianMixture, IncrementalEM, InputError, Tolerance
from torchgmm.data import ArraySource, LoaderSource
from torchgmm.fitting import IncrementalState, Problem, State
from torchgmm.kernels import as_kernel

every_family = pytest.mark.parametrize("family", FAMILIES)
CASE = Case("overlapping", 2, 0, 8, 4, k=3, n=600)
X = CASE.rows()
START = {family: CASE.start(family) for family in FAMILIES}


def problem_of(source, seed=0):
    return Problem(source, torch.Generator().manual_seed(seed))


def fitted(method, family="full", x=X, tol=0.0, **options):
    mixture = GaussianMixture(3, covariance=family, dtype=torch.float64)
    options = {"init": START[family], "generator": 0, "stop": Tolerance(tol)} | options
    return mixture, mixture.fit(x, method, **options)


def level(mixture, x=X):
    return float(mixture.score(x).detach())


# the same optimum --------------------------------------------------------------------------------


def at_rest(method, family):
    """The state of a method at its fixed point, and the problem."""
    given = problem_of(ArraySource(X))
    state = method.init(START[family], given)
    for _ in range(100):
        before = state.parameters.means
        state, _ = method.step(state, given)
        if float((state.parameters.means - before).abs().max()) < 1e-11:
            return state, given
    raise AssertionError("it does not come to rest")


def state_at(parameters, sizes):
    """The state of incremental EM that saw all blocks under these parameters."""
    method, given = IncrementalEM(), problem_of(Cut(X, sizes))
    first = method.init(parameters, given)
    kernel = as_kernel("dense")
    blocks = tuple(kernel.accumulate(x, None, parameters) for x in X.split(sizes))
    state = IncrementalState(parameters, blocks=blocks, start=first.start, seed=first.seed)
    return method, state, given


def assert_at_rest(after, before):
    # less than 100 steps to here: a rate of 0.8, so a last move of 1e-11 had 5e-11 left to go
    for name in ("logits", "means", "scale"):
        a, b = getattr(after.parameters, name), getattr(before.parameters, name)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@every_family
@pytest.mark.parametrize("sizes", [[600], [300, 300], [20] * 30])
def test_a_fixed_point_of_em_is_one_of_incremental_em(family, sizes):
    exact, problem = at_rest(EM(), family)
    method, state, given = state_at(exact.parameters, sizes)
    after, step = method.step(state, given)
    assert_at_rest(after, state)
    assert step.log_likelihood == pytest.approx(EM().step(exact, problem)[1].log_likelihood)


@every_family
def test_a_fixed_point_of_incremental_em_is_one_of_em(family):
    state, given = at_rest(IncrementalEM(n_blocks=6), family)
    exact, _ = EM().step(EM().init(state.parameters, given), given)
    assert_at_rest(exact, state)


def test_from_a_state_of_one_block_a_pass_is_an_em_step():
    _, state, given = state_at(START["full"], [600])
    after, _ = IncrementalEM().step(state, given)
    exact, _ = EM().step(EM().init(START["full"], given), given)
    for name in ("logits", "means", "scale"):
        a, b = getattr(after.parameters, name), getattr(exact.parameters, name)
        # the block's old moments were added and taken away again
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@every_family
def test_it_climbs_faster_than_exact_em(family):
    # Neal & Hinton's reason for it. The first pass still has the start in it, so later ones count.
    passes = 8
    exact, _ = fitted(EM(max_iter=passes), family)
    mixture, _ = fitted(IncrementalEM(max_iter=passes, n_blocks=20), family)
    assert level(mixture) > level(exact)


@pytest.mark.parametrize("n_blocks", [1, 2, 7])
def test_any_number_of_blocks_climbs_to_the_same_place(n_blocks):
    optimum = level(GaussianMixture.from_parameters(at_rest(EM(), "full")[0].parameters))
    mixture, _ = fitted(IncrementalEM(max_iter=40, n_blocks=n_blocks))
    # the gap is the square of the distance, which falls by 0.75 a pass: 0.75 ** 80
    assert level(mixture) == pytest.approx(optimum, abs=1e-9)


@every_family
def test_the_likelihood_never_falls_on_this_data_after_the_first_pass(family):
    # the law is about the free energy (laws/test_blocks.py), a bound of the likelihood that touches
    # it at the end; with 30 passes of small steps the likelihood itself follows
    levels, state = [], None
    method, given = IncrementalEM(n_blocks=5, reg_covar=0), problem_of(ArraySource(X))
    state = method.init(START[family], given)
    for _ in range(30):
        state, _ = method.step(state, given)
        levels.append(level(GaussianMixture.from_parameters(state.parameters)))
    assert levels[-1] > levels[0]
    assert min(b - a for a, b in itertools.pairwise(levels)) > -1e-12  # rounding


# the blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "count"),
    [({}, 32), ({"n_blocks": 7}, 7), ({"block_rows": 100}, 6), ({"block_rows": 10_000}, 1)],
)
def test_memory_is_so_many_blocks(settings, count):
    method, given = IncrementalEM(**settings), problem_of(ArraySource(X))
    state, step = method.step(method.init(START["full"], given), given)
    assert len(state.blocks) == count
    assert step.rows == 600
    assert sum(float(block.rows) for block in state.blocks) == 600
    again, _ = method.step(state, given)
    assert len(again.blocks) == count


def test_more_blocks_than_rows_are_single_rows():
    x = X[:20]
    _, result = fitted(IncrementalEM(max_iter=3, n_blocks=50), x=x)
    assert len(result.state.blocks) == 20
    assert result.parameters.is_finite()


def test_a_loader_of_unknown_length_is_cut_into_few_blocks():
    # moments of every few rows would be as large as the rows themselves
    x = X.repeat(50, 1)
    source = LoaderSource(lambda: iter(x.split(1000)))
    assert source.n_rows is None
    _, result = fitted(IncrementalEM(max_iter=1), x=source)
    assert len(result.state.blocks) == 4  # 30,000 rows, 8,192 at a time
    assert result.history[0].rows == len(x)


@pytest.mark.parametrize(("first", "then"), [(4, 3), (3, 4), (4, 0)])
def test_a_source_that_changes_is_refused(first, then):
    method = IncrementalEM(block_rows=100)
    state, _ = method.step(
        method.init(START["full"], given := problem_of(Cut(X[: 100 * first], [100] * first))), given
    )
    other = problem_of(Cut(X[: 100 * then], [100] * then))
    with pytest.raises(InputError, match=rf"gave {then} blocks after {first} in its first pass"):
        method.step(state, other)


def test_blocks_are_the_same_on_every_pass_and_mixed():
    order = X[:, 0].argsort()
    seen = []

    class Watched(ArraySource):
        def batches(self, rows, *, seed, epoch, skip=0):
            for batch in super().batches(rows, seed=seed, epoch=epoch, skip=skip):
                seen.append(batch.x)
                yield batch

    fitted(IncrementalEM(max_iter=3, n_blocks=4), x=Watched(X[order]))
    assert len(seen) == 12
    for early, late in zip(seen, seen[4:], strict=False):
        assert torch.equal(early, late)
    spread = X[:, 0].std()
    # rows sorted on disk: quarters in their order would be 0.3 standard deviations wide
    assert all(float(x[:, 0].std()) > 0.7 * float(spread) for x in seen[:4])


def test_the_start_counts_for_less_and_less():
    method = IncrementalEM()
    unit = 3 * START["full"].family.min_rows(2)
    weights = [method._start_weight(START["full"], seen) for seen in (0, unit, 100 * unit)]
    assert weights == pytest.approx([unit, unit / 2, unit / 101])


def test_a_far_start_is_forgotten_after_the_first_pass():
    # the start's own moments may not stay: they would be the weight of some rows for ever
    far = CASE.start("full", seed=3)
    far.means.add_(50)
    state = IncrementalEM(n_blocks=4).init(far, given := problem_of(ArraySource(X)))
    method = IncrementalEM(n_blocks=4, reg_covar=1e-3)
    for _ in range(2):
        state, _ = method.step(state, given)
    mean = state.parameters.log_weights.exp() @ state.parameters.means
    # an M-step of rows that all count once gives their mean, whatever the responsibilities
    torch.testing.assert_close(mean, X.mean(0), rtol=1e-10, atol=1e-10)


# weights, hardships ------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_only_the_ratios_of_weights_count_in_the_end(factor):
    w = torch.linspace(0.5, 2, 600, dtype=torch.float64)
    levels = []
    for weights in (w, factor * w):
        mixture, _ = fitted(IncrementalEM(max_iter=40, n_blocks=4), weights=weights)
        levels.append(float(mixture.score(X, w).detach()))
    assert levels[1] == pytest.approx(levels[0], abs=1e-9)  # as above


def test_a_shared_covariance_survives_a_component_that_dies():
    # an emptied component is the difference of equal numbers: 0, or a rounding of either sign
    x = torch.cat([X, X + 1e3])
    means = torch.cat([X[:1], X[:1] + 1e3, X[:1] + 500])
    for family in FAMILIES:
        wide = CASE.start(family)
        begin = type(wide)(wide.logits, means, wide.scale + 0, wide.family)
        mixture, result = fitted(
            IncrementalEM(max_iter=8, n_blocks=4), family, x=x, init=begin, tol=0.0
        )
        assert result.parameters.is_finite()
        assert math.isfinite(level(mixture, x))
        within = 4 * float(X.var(0).max())
        spread = mixture.covariances.detach().abs().max()
        assert float(spread) < within or mixture.family.tied


def test_a_state_of_another_method_is_refused():
    with pytest.raises(InputError, match="IncrementalEM goes on from an IncrementalState"):
        IncrementalEM().step(State(START["full"]), problem_of(ArraySource(X)))


@pytest.mark.parametrize("setting", ["n_blocks", "block_rows"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_settings_that_mean_nothing_are_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        IncrementalEM(**{setting: value})
