"""What holds however the rows are cut into blocks: exact, incremental and online EM."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.definition import log_joint, naive
from tests.laws.strategies import assert_close, problems, seeds
from torchgmm import EM, GaussianMixture, IncrementalEM, OnlineEM, Parameters, Rescue, Tolerance
from torchgmm.covariance import as_family
from torchgmm.data import ArraySource, Block, Source
from torchgmm.errors import SingularCovarianceError
from torchgmm.fitting import Problem
from torchgmm.kernels import Kernel, as_kernel
from torchgmm.parameters import from_moments, to_moments


class Cut(Source):
    """Rows in blocks of just these sizes, which are the batches as well."""

    def __init__(self, x, sizes, weights=None, replayable=True):
        assert sum(sizes) == len(x)
        self.parts = [(p, None) for p in x.split(list(sizes))]
        if weights is not None:
            self.parts = list(zip(x.split(list(sizes)), weights.split(list(sizes)), strict=True))
        self.n_rows, self.n_features, self.dtype = len(x), x.shape[1], x.dtype
        self.replayable = replayable

    def blocks(self, *, skip=0):
        start = 0
        for number, (x, w) in enumerate(self.parts):
            if number >= skip:
                yield Block(x, w, start)
            start += len(x)

    def batches(self, rows, *, seed, epoch, skip=0):
        return self.blocks(skip=skip)


@st.composite
def sizes_of(draw, n):
    """Sizes of some blocks that are `n` rows together."""
    cuts = draw(st.lists(st.integers(1, n - 1), max_size=12, unique=True))
    ends = [0, *sorted(cuts), n]
    return [b - a for a, b in itertools.pairwise(ends)]


def problem_of(source, seed=0):
    return Problem(source, torch.Generator().manual_seed(seed))


# exact EM ----------------------------------------------------------------------------------------


def assert_same_fit(got, expected):
    # the promise is 1e-10: sums of some hundred terms in another order, over five steps
    levels = [[s.log_likelihood for s in result.history] for result in (got, expected)]
    assert levels[0] == pytest.approx(levels[1], rel=1e-10, abs=1e-10)
    assert_close(got.parameters, expected.parameters, 1e-10)


@given(st.data(), problems(), st.booleans())
def test_exact_em_from_any_cut_is_exact_em_in_memory(data, problem, weighted):
    n = len(problem.x)
    w = 0.1 + torch.arange(n).double() % 3 if weighted else None
    source = Cut(problem.x, data.draw(sizes_of(n)), w)
    assert_same_fit(problem.fit(source, floor=1e-3), problem.fit(floor=1e-3, weights=w))


@given(problems(), st.integers(1, 70))
def test_exact_em_does_not_see_the_block_size(problem, block_rows):
    source = ArraySource(problem.x, block_rows=block_rows)
    assert_same_fit(problem.fit(source, floor=1e-3), problem.fit(floor=1e-3))


@given(problems(), seeds)
def test_exact_em_does_not_see_the_order_on_disk(problem, seed):
    order = torch.randperm(len(problem.x), generator=torch.Generator().manual_seed(seed))
    assert_same_fit(problem.fit(problem.x[order], floor=1e-3), problem.fit(floor=1e-3))


# incremental EM ----------------------------------------------------------------------------------


class Diary(Kernel):
    """The dense kernel, which remembers every block that it saw and under which parameters."""

    name = "diary"

    def __init__(self):
        self.seen = []

    def log_joint(self, x, parameters):
        return as_kernel("dense").log_joint(x, parameters)

    def accumulate(self, x, w, parameters):
        self.seen.append((x, parameters))
        return as_kernel("dense").accumulate(x, w, parameters)


def incremental(problem, sizes, passes, floor=0.0):
    """The kernel's diary, and the state after so many passes of incremental EM."""
    diary = Diary()
    method = IncrementalEM(kernel=diary, reg_covar=floor, rescue=Rescue(empty="keep"))
    given = problem_of(Cut(problem.x, sizes))
    state = method.init(problem.start, given)
    try:
        for _ in range(passes):
            state, _ = method.step(state, given)
    except SingularCovarianceError:
        assume(False)
    return diary.seen, state


def free_energy(blocks, parameters):
    """Of responsibilities that each block got under parameters of its own (Neal & Hinton)."""
    total, now = 0.0, naive(parameters)
    for x, own in blocks:
        log_r = log_joint(x, naive(own)).log_softmax(0)
        total += float((log_r.exp() * (log_joint(x, now) - log_r)).sum())
    return total


@given(st.data(), problems(least_rows=15, most_rows=30))
def test_incremental_em_never_lowers_the_free_energy(data, problem):
    sizes = data.draw(sizes_of(len(problem.x)))
    seen, state = incremental(problem, sizes, passes=3)
    count = len(sizes)
    least = torch.linalg.eigvalsh(naive(state.parameters).covariances)[:, 0]
    assume(float(least.min()) > 1e-6 * float(problem.x.var()))  # no fall into a single row
    last = [parameters for _, parameters in seen[count:]] + [state.parameters]
    levels = [free_energy(seen[j : j + count], p) for j, p in enumerate(last)]
    rises = torch.tensor(levels).double().diff()
    # covariances with a condition below 1e6 keep ten digits of some hundred logarithms
    assert bool((rises > -1e-10 * (1 + max(map(abs, levels)))).all())


@given(st.data(), problems(), st.integers(2, 4))
def test_replaced_moments_add_up_to_fresh_ones(data, problem, passes):
    sizes = data.draw(sizes_of(len(problem.x)))
    seen, state = incremental(problem, sizes, passes, floor=1e-3)
    assume(state.rescues == 0)
    family, frame = state.parameters.family, state.start.frame
    kernel = as_kernel("dense")
    fresh = [kernel.accumulate(x, None, p) for x, p in seen[-len(sizes) :]]
    for kept, new in zip(state.blocks, (family.moved(m, frame) for m in fresh), strict=True):
        for field in ("weight", "first", "second", "rows"):
            # the same block under the same parameters, moved about frames a few units apart
            a, b = getattr(kept, field), getattr(new, field)
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * (1 + float(b.abs().max())))
    total = sum(state.blocks[1:], state.blocks[0])
    expected, _ = from_moments(total, family, 1e-3)
    # one block was added and another taken away `passes` times a block: some roundings more
    assert_close(state.parameters, expected, 1e-9)


# online EM ---------------------------------------------------------------------------------------

SETTINGS = st.builds(
    OnlineEM,
    exponent=st.sampled_from([0.55, 0.7, 1.0]),
    offset=st.sampled_from([1e-3, 1.0, 20.0]),
    average=st.just("never"),
)
# between them, the step sizes come down to what is forgotten anyway at some row
FORGETFUL = st.builds(
    OnlineEM,
    exponent=st.sampled_from([0.55, 0.7, 1.0]),
    offset=st.sampled_from([1e-3, 1.0, 20.0]),
    forget=st.sampled_from([3.0, 10.0, 40.0, 1e4]),
    average=st.just("never"),
)


def online(method, start, source):
    given = problem_of(source)
    return method.step(method.init(start, given), given)[0]


def single(family, place):
    """One component, whose responsibilities are 1 whatever happens: statistics are linear."""
    family = as_family(family)
    scale = torch.zeros(family.scale_shape(1, 1), dtype=torch.float64)
    return Parameters(torch.zeros(1).double(), torch.tensor([[place]]).double(), scale, family)


def share_of_rows(method, source):
    """The mean of statistics that began at 0, of rows that are all 1."""
    moments = online(method, single("spherical", 0.0), source).moments
    return float(moments.frame + moments.first / moments.weight)


@given(st.data(), SETTINGS, st.integers(2, 60))
def test_what_is_forgotten_depends_on_the_rows_not_on_their_cut(data, method, n):
    x = torch.ones(n, 1, dtype=torch.float64)
    cuts = ([n], data.draw(sizes_of(n)), [1] * n)
    shares = [share_of_rows(method, Cut(x, sizes)) for sizes in cuts]
    assert 0 < shares[0] <= 1
    # products of some ten factors 1 - g: few roundings
    assert shares[1:] == pytest.approx([shares[0]] * 2, rel=1e-11)


@given(FORGETFUL, st.integers(2, 60), st.integers(1, 30))
def test_so_it_is_where_the_past_is_forgotten(method, n, batch_size):
    # such rows are learnt in the order of the source, cut at every so many
    source = Cut(torch.ones(n, 1, dtype=torch.float64), [n])
    shares = [
        share_of_rows(replace(method, batch_size=size), source) for size in (n, batch_size, 1)
    ]
    assert shares[1:] == pytest.approx([shares[0]] * 2, rel=1e-11)  # as above
    assert shares[0] >= (1 - math.exp(-n / method.forget)) * (1 - 1e-12)


@given(st.sampled_from([0.55, 0.7, 1.0]), st.integers(1, 30), st.floats(0.1, 50))
def test_step_sizes_fall_as_the_clock_to_the_exponent(exponent, n, offset):
    # rows one by one, unit 1 row: the logarithms of 1 - g add up to the integral
    start = single("spherical", 0.0)
    method = OnlineEM(exponent=exponent, offset=offset, average="never")
    assert method.unit(start) == 1
    left = 1 - share_of_rows(method, Cut(torch.ones(n, 1, dtype=torch.float64), [1] * n))
    t = torch.linspace(offset, offset + n, 20_001, dtype=torch.float64)
    decay = float(torch.trapezoid(t**-exponent, t))
    assert left == pytest.approx(math.exp(-decay), rel=1e-4, abs=1e-12)  # the trapezoids' error


@given(problems())
def test_with_exponent_one_and_no_offset_a_batch_of_all_rows_is_an_em_step(problem):
    exact = problem.fit(steps=1, floor=1e-3)
    counts = as_kernel("dense").accumulate(problem.x, None, problem.start).weight
    # below that a component would wait for more rows
    assume(float(counts.min()) >= problem.start.family.min_rows(problem.start.n_features))
    method = OnlineEM(exponent=1.0, offset=1e-12, average="never", reg_covar=1e-3)
    state = online(method, problem.start, Cut(problem.x, [len(problem.x)]))
    # 1e-12 of the start is left; far starts are some thousand times the spread squared
    assert_close(state.parameters, exact.parameters, 1e-8)


@given(st.data(), problems(), st.integers(1, 3))
def test_steps_of_some_rows_are_the_pass_in_pieces(data, problem, batches):
    n = len(problem.x)
    source = Cut(problem.x, [n // 4] * 4 + ([n % 4] if n % 4 else []))
    whole = online(OnlineEM(reg_covar=1e-3), problem.start, source)
    method, given = OnlineEM(reg_covar=1e-3, rows_per_step=batches * (n // 4)), problem_of(source)
    state, rows = method.init(problem.start, given), 0
    while rows < n:
        if data.draw(st.booleans()):  # another process goes on: nothing is hidden in the reader
            given = problem_of(source)
        state, step = method.step(state, given)
        rows += step.rows
    assert rows == n
    assert state.rows_seen == whole.rows_seen
    for name in ("logits", "means", "scale"):
        assert torch.equal(getattr(state.running, name), getattr(whole.running, name))
    assert torch.equal(state.average.first, whole.average.first)


@given(problems(), st.floats(0.1, 1e6))
def test_from_moments_undoes_to_moments(problem, rows):
    again, hopeless = from_moments(to_moments(problem.start, rows), problem.start.family, 0.0)
    assert not bool(hopeless.any())
    # a product of factors, and the Cholesky factor of it: condition 1 here
    assert_close(again, problem.start, 1e-12)


def test_a_fit_from_blocks_goes_through_the_front_door():
    # the laws above speak of methods and sources; users call `fit`
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    results = []
    for data in (x, Cut(x, [20, 1, 29])):
        mixture = GaussianMixture(2, dtype=torch.float64)
        results.append(mixture.fit(data, EM(max_iter=5), stop=Tolerance(0), generator=0))
    assert_same_fit(results[1], results[0])
