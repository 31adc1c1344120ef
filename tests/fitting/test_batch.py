"""What happens to the mixtures of a batch: each its own end, its own trouble, its own start."""

import warnings

import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, blobs, drawn
from torchgmm.fitting import BatchResult, Observer, ShrunkEM, restarts
from torchgmm.fitting.run import Run
from torchgmm.kernels import turns

WATCHED = ([], [Observer()])  # runs of who is watched come one by one
X = torch.stack([blobs(80, 2, 2, separation=2.0 + 4 * b, seed=b) for b in range(3)])


def many(k=2, b=3, **options):
    return tg.GaussianMixture(k, batch_shape=(b,), dtype=torch.float64, **options)


def quiet(mixture, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.ConvergenceWarning)
        return mixture.fit(*args, **options)


def near():
    """A start at the clusters of each table."""
    return quiet(many(), X, tg.EM(max_iter=0), generator=0).parameters


class Diary(Observer):
    """Writes down what it is told, and stops the fit at a step."""

    def __init__(self, stop_at=None):
        self.told, self.stop_at = [], stop_at

    def on_start(self, problem, method, n_init):
        self.told.append(("start", problem.source.n_groups, n_init))

    def on_step(self, event):
        self.told.append((event.run, event.number, len(event.state.parameters.means)))
        if event.number == self.stop_at:
            raise KeyboardInterrupt

    def on_end(self, result):
        self.told.append("end" if isinstance(result, BatchResult) else "cut")


# ends -------------------------------------------------------------------------------------------


def test_those_at_rest_are_stalled_as_they_would_be_alone():
    x = torch.stack([blobs(60, 2, 2, separation=40.0, seed=b) for b in range(3)])
    settings = {"stop": tg.Tolerance(0), "init": near()}
    result = quiet(many(), x, tg.EM(max_iter=200), **settings)
    for b in range(3):
        own = tg.GaussianMixture(2, dtype=torch.float64)
        alone = quiet(own, x[b], tg.EM(max_iter=200), stop=tg.Tolerance(0), init=near()[b])
        assert result[b].status is alone.status is tg.Status.STALLED
        assert 50 <= result[b].n_steps < 200
        assert result[b].log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-12)


def test_those_that_are_done_leave_and_the_others_go_on():
    diary = Diary()
    result = quiet(many(), X, tg.EM(max_iter=25), generator=0, observers=[diary])
    left = [entry[2] for entry in diary.told[1:-1]]
    assert left == sorted(left, reverse=True)
    assert left[0] <= 3
    assert left[-1] < 3
    steps = result.steps.tolist()
    assert len(set(steps)) > 1
    assert max(steps) == len(left)
    assert [one.n_steps for one in result] == steps
    assert diary.told[0] == ("start", 3, 1)
    assert diary.told[-1] == "end"


def test_a_spent_budget_is_said_once_for_all_and_of_each():
    mixture = many()
    with pytest.warns(tg.ConvergenceWarning, match="3 mixtures: .*BUDGET_SPENT") as told:
        result = mixture.fit(X, tg.EM(max_iter=3), stop=tg.Tolerance(0), generator=0)
    assert len(told) == 1
    assert result.statuses == (tg.Status.BUDGET_SPENT,) * 3
    assert not result.converged
    assert result.unconverged == [0, 1, 2]
    assert [one.n_steps for one in result] == [3, 3, 3]


def test_one_without_spread_does_not_end_the_fit_of_the_others():
    x = X.clone()
    x[1, :, 1] = 0  # constant: no covariance without a floor
    start = near()
    mixture = many()
    with pytest.warns(tg.ConvergenceWarning, match="1 SINGULAR"):
        result = mixture.fit(x, tg.EM(500, reg_covar=0), init=start)
    kinds = [status.name for status in result.statuses]
    assert kinds == ["CONVERGED", "SINGULAR", "CONVERGED"]
    assert torch.equal(result[1].parameters.means, start[1].means)  # the last good step
    assert bool(torch.isfinite(mixture.log_prob(x)).all())
    with pytest.raises(tg.InputError):
        raise tg.InputError(str(result))  # its words are text


def test_one_whose_sums_overflow_does_not_end_the_fit_of_the_others():
    x = X.float()
    x[0] *= 1e14
    p = drawn("full", 2, 2, (3,))
    scale = p.scale.clone()
    scale[0] = -60.0 * torch.eye(2)
    start = tg.Parameters(p.logits, p.means, scale, p.family)
    mixture = tg.GaussianMixture(2, batch_shape=(3,))
    result = quiet(mixture, x, init=start)
    assert [s.name for s in result.statuses] == ["DIVERGED", "CONVERGED", "CONVERGED"]
    assert torch.equal(result[0].parameters.means, p.means[0])
    assert result.status is tg.Status.DIVERGED


def test_an_empty_component_is_moved_in_its_mixture_only():
    p = near()
    means = p.means.clone()
    means[1, 1] = 1e6
    start = tg.Parameters(p.logits, means, p.scale, p.family)
    result = quiet(many(), X, init=start)
    assert [one.rescued for one in result] == [0, 1, 0]
    alone = tg.GaussianMixture(2, dtype=torch.float64)
    expected = quiet(alone, X[1], init=start[1])
    torch.testing.assert_close(result[1].parameters.means, expected.parameters.means)
    with pytest.raises(tg.TorchGMMError, match=r"\(1, 1\).*lost all their rows"):
        many().fit(X, tg.EM(rescue=tg.Rescue(empty="raise")), init=start)


def test_ctrl_c_leaves_what_was_reached():
    mixture, diary = many(), Diary(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        mixture.fit(X, generator=0, observers=[diary])
    two = many()
    quiet(two, X, tg.EM(max_iter=2), stop=tg.Tolerance(0), generator=0)
    torch.testing.assert_close(mixture.means, two.means)
    assert diary.told[-1] == "cut"


# runs -------------------------------------------------------------------------------------------


def test_of_every_mixture_the_best_run_is_kept():
    x = torch.stack([blobs(60, 2, 4, separation=5.0, seed=b) for b in range(5)])
    result = quiet(many(4, 5), x, init="random_from_data", n_init=4, generator=0)
    assert result.levels_of_runs.shape == (4, 5)
    torch.testing.assert_close(result.levels, result.levels_of_runs.amax(0))
    for b, one in enumerate(result):
        assert one.runs == tuple(result.levels_of_runs[:, b].tolist())
        assert one.log_likelihood == max(one.runs)
        again = tg.GaussianMixture.from_parameters(one.parameters)
        assert float(again.score(x[b])) >= one.log_likelihood - 1e-9


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("family", FAMILIES)
def test_runs_side_by_side_are_runs_one_by_one(init, family):
    x = blobs(200, 3, 3, separation=3.0)
    w = torch.arange(200) % 3
    fits = []
    for observers in WATCHED:
        mixture = tg.GaussianMixture(3, covariance=family, dtype=torch.float64)
        options = {"weights": w, "init": init, "n_init": 5, "generator": 3}
        fits.append(quiet(mixture, x, observers=observers, **options))
    side, one_by_one = fits
    assert side.runs == pytest.approx(one_by_one.runs, abs=1e-9)
    assert side.n_steps == one_by_one.n_steps
    assert side.status is one_by_one.status
    assert type(side.state) is type(one_by_one.state)
    torch.testing.assert_close(side.parameters.means, one_by_one.parameters.means)
    torch.testing.assert_close(side.parameters.scale, one_by_one.parameters.scale)


def test_runs_from_starts_that_are_equal_but_for_their_order_climb_once(monkeypatch):
    climbed, x = [], blobs(200, 3, 3, separation=8.0)

    def counted(problem, starts, *rest):
        climbed.append((problem.source.n_groups, len(starts.means)))
        return Run(problem, starts, *rest)

    monkeypatch.setattr(restarts, "Run", counted)
    fits = [quiet(tg.GaussianMixture(3), x, n_init=12, generator=0, observers=o) for o in WATCHED]
    ((groups, starts),) = climbed
    assert groups == starts < 12
    assert len(fits[0].runs) == 12
    assert fits[0].runs == pytest.approx(fits[1].runs, abs=1e-6)


def test_a_run_that_cannot_be_fitted_says_why():
    x = torch.zeros(20, 2).double()
    x[:, 0] = torch.arange(20)
    with pytest.raises(tg.TorchGMMError, match="no spread"):
        tg.GaussianMixture(1, dtype=torch.float64).fit(x, tg.EM(reg_covar=0), n_init=3)


# shrinkage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_shrinkage_pulls_every_covariance_to_a_round_one(family):
    x = blobs(60, 4, 2, separation=8.0) @ torch.diag(torch.tensor([1, 2, 3, 4]).double())
    whole = tg.GaussianMixture(2, covariance=family, dtype=torch.float64)
    quiet(whole, x, ShrunkEM(shrinkage=1.0), generator=0)
    for cov in whole.scale_tril @ whole.scale_tril.mT:
        torch.testing.assert_close(cov, cov.diagonal().mean() * torch.eye(4).double())
    none = tg.GaussianMixture(2, covariance=family, dtype=torch.float64)
    plain = tg.GaussianMixture(2, covariance=family, dtype=torch.float64)
    quiet(none, x, ShrunkEM(shrinkage=0.0), generator=0)
    quiet(plain, x, generator=0)
    torch.testing.assert_close(none.covariances, plain.covariances)
    with pytest.raises(tg.InputError, match="shrinkage must be"):
        ShrunkEM(shrinkage=1.5)


# rows -------------------------------------------------------------------------------------------


def spoilt():
    x = X.clone()
    x[1, 5] = torch.nan
    return x


BAD = {
    "another batch": (lambda: many().fit(X[:2]), r"do not fit a batch of shape \(3,\)"),
    "too few tables": (lambda: many().fit([X[0], X[1]]), "2 tables .* batch of 3 mixtures"),
    "other columns": (lambda: many().fit([X[0], X[1], X[2][:, :1]]), "table 2 has the shape"),
    "too few rows": (
        lambda: many().fit([X[0], X[1], X[2][:1]]),
        r"1 mixture\(s\) have fewer rows than components, the first is number 2 with 1",
    ),
    "no rows of a group": (
        lambda: many().fit(X[0], groups=torch.arange(80) % 2),
        r"1 group\(s\) have no row of positive weight: 2",
    ),
    "labels out of range": (lambda: many().fit(X[0], groups=torch.arange(80) % 4), "0..2"),
    "labels that are no integers": (lambda: many().fit(X[0], groups=torch.rand(80)), "integer"),
    "too few labels": (lambda: many().fit(X[0], groups=torch.arange(8) % 3), "one integer per row"),
    "a mixture of weight zero": (
        lambda: many().fit(X, weights=torch.tensor([1.0, 0, 1])[:, None].expand(3, 80)),
        "no row of positive weight: 1",
    ),
    "weights of others": (lambda: many().fit(X, weights=torch.ones(2, 80)), "weights must be"),
    "negative weights": (lambda: many().fit(X, weights=-torch.ones(3, 80)), "negative"),
    "a row that is not finite": (
        lambda: many().fit(spoilt()),
        "rows of group 1 hold 2 NaN.*row 5",
    ),
    "an empty batch": (lambda: many(b=0).fit(X[:0]), "holds no mixture"),
    "a start of others": (
        lambda: many().fit(X, init=drawn("full", 2, 2, (2,))),
        "a start of 2 mixtures is none for 3",
    ),
    "many runs from one start": (
        lambda: many().fit(X, init=drawn("full", 2, 2, (3,)), n_init=2),
        "all be equal",
    ),
    "labels of one": (lambda: many().fit(X, init=torch.zeros(80, dtype=int)), "one table or list"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused(case):
    call, message = BAD[case]
    with pytest.raises(tg.InputError, match=message):
        call()


def test_rows_of_weight_zero_may_hold_anything():
    x, w = X.clone(), torch.ones(3, 80)
    w[0, :5] = w[2, 70:] = 0
    x[0, :5], x[2, 70:] = torch.nan, torch.inf
    start = drawn("full", 2, 2, (3,))
    got = quiet(many(), x, init=start, weights=w)
    alone = tg.GaussianMixture(2, dtype=torch.float64)
    expected = quiet(alone, X[0, 5:], init=start[0])
    torch.testing.assert_close(got[0].parameters.means, expected.parameters.means)
    assert got.parameters.is_finite()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_cuts_over_rows_and_mixtures_do_not_matter(family, ragged, monkeypatch):
    x = torch.stack([blobs(700, 2, 2, seed=b) for b in range(3)])
    data = [rows[: 700 - 150 * b] for b, rows in enumerate(x)] if ragged else x
    start = drawn(family, 2, 2, (3,))
    whole = quiet(many(covariance=family), data, tg.EM(5), init=start)
    monkeypatch.setattr("torchgmm.data.packed_groups.BLOCK_BYTES", 1)  # 256 rows, the least
    monkeypatch.setattr(turns, "_BYTES", 1)
    parts = quiet(many(covariance=family), data, tg.EM(5), init=start)
    torch.testing.assert_close(parts.levels, whole.levels)
    torch.testing.assert_close(parts.parameters.means, whole.parameters.means)
    seeded = quiet(many(covariance=family), data, tg.EM(0), generator=0).parameters
    monkeypatch.undo()
    again = quiet(many(covariance=family), data, tg.EM(0), generator=0).parameters
    assert seeded.means.shape == again.means.shape


@pytest.mark.parametrize("init", ["kmeans", "labels", "start"])
def test_many_mixtures_climb_in_parts(init, monkeypatch):
    x = torch.stack([blobs(60, 2, 2, separation=2.0 + b, seed=b) for b in range(6)])
    labels = torch.arange(60) % 2 * torch.ones(6, 1, dtype=int)
    options = {
        "kmeans": {"generator": 0, "n_init": 2},
        "labels": {"init": labels},
        "start": {"init": drawn("full", 2, 2, (2, 3))},
    }[init]

    def result():
        mixture = tg.GaussianMixture(2, batch_shape=(2, 3), dtype=torch.float64)
        return mixture, quiet(mixture, x.view(2, 3, 60, 2), **options)

    _, expected = result()
    monkeypatch.setattr("torchgmm.fitting.batch._STATISTICS", 8 * (8 + 6) * 4)  # four at once
    parts, got = result()
    assert got.statuses == expected.statuses
    assert got.shape == (2, 3)
    assert len(got) == 6
    for one, other in zip(got, expected, strict=True):
        assert one.n_steps == len(one.history)
        if init != "kmeans":  # whose draws are those of other mixtures then
            assert one.n_steps == other.n_steps
            torch.testing.assert_close(one.parameters.means, other.parameters.means)
    torch.testing.assert_close(got.levels, expected.levels, rtol=0, atol=0.05)
    torch.testing.assert_close(parts.means, got.parameters.means.view(2, 3, 2, 2))


def test_ctrl_c_in_a_later_part_leaves_the_first_ones_done(monkeypatch):
    monkeypatch.setattr("torchgmm.fitting.batch._STATISTICS", 1)  # one at a time
    whole = many()
    quiet(whole, X, init=near())

    class Third(Observer):
        calls = 0

        def on_step(self, event):
            self.calls += event.number == 1
            if self.calls == 3:
                raise KeyboardInterrupt

    cut = many()
    with pytest.raises(KeyboardInterrupt):
        cut.fit(X, init=near(), observers=[Third()])
    torch.testing.assert_close(cut.means[:2], whole.means[:2])
    assert bool(torch.isfinite(cut.means).all())


def test_few_rows_are_filled_up():
    from torchgmm.data import as_groups

    g = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 3000, (200,), generator=g)
    rows = [torch.randn(int(n), 2, generator=g) for n in counts]
    groups = as_groups(rows, (200,), torch.float32, torch.device("cpu"))
    blocks = list(groups.blocks())
    assert sum(block.n_rows for block in blocks) == int(counts.sum())
    assert sum(block.x.shape[:-1].numel() for block in blocks) <= 1.25 * int(counts.sum())
    total = torch.zeros(200, 2)
    for block in blocks:
        w = 1.0 if block.w is None else block.w.unsqueeze(-1)
        total.index_add_(0, block.groups, (block.x * w).sum(1))
    torch.testing.assert_close(total, torch.stack([r.sum(0) for r in rows]), rtol=1e-4, atol=1e-3)


# groups in a stream -------------------------------------------------------------------------------


def scattered(batch=50):
    """Rows of three groups in batches, in any order."""
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0))
    x, of = X.reshape(-1, 2)[order], torch.arange(3).repeat_interleave(80)[order]
    return list(zip(x.split(batch), of.split(batch), strict=True))


@pytest.mark.parametrize("init", ["kmeans", "random", "random_from_data"])
def test_a_stream_of_groups_is_seeded_and_fitted(init):
    mixture = many()
    result = quiet(mixture, scattered(), groups=1, init=init, generator=0)
    assert [status.name for status in result.statuses] == ["CONVERGED"] * 3
    best = quiet(many(), X, n_init=3, generator=0)
    assert bool((result.levels > best.levels - 0.7).all())


def test_of_a_long_stream_some_rows_of_each_group_are_enough_for_a_start():
    mixture = many()
    few = tg.KMeans(max_rows=20)
    quiet(mixture, scattered(), tg.EM(max_iter=0), groups=1, init=few, generator=0)
    for b in range(3):
        assert float(mixture.score(X)[b]) > float(many(1, 3).fit(X).levels[b]) - 1


@pytest.mark.parametrize("method", [tg.OnlineEM(max_iter=2), tg.SQUAREM(max_iter=2)])
def test_other_methods_read_one_group_of_a_stream_after_the_other(method):
    result = quiet(many(), scattered(), method, groups=1, generator=0)
    assert [one.history[0].rows for one in result] == [80, 80, 80]


STREAMS = {
    "once": (lambda: iter(scattered()), 1, "read only once"),
    "no such place": (lambda: scattered(), 2, "no part 2"),
    "labels out of range": (lambda: [(X[0], torch.full((80,), 3))], 1, "0..2"),
    "no integers": (lambda: [(X[0], torch.rand(80))], 1, "one integer per row"),
    "other columns": (
        lambda: [*scattered(), (X[0][:, :1], torch.zeros(80, dtype=int))],
        1,
        "1 columns after 2",
    ),
    "a group without rows": (lambda: [(X[0], torch.arange(80) % 2)], 1, "no row of positive"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streams_that_cannot_be_used_are_refused(case):
    make, place, message = STREAMS[case]
    with pytest.raises(tg.InputError, match=message):
        many().fit(make(), groups=place)
