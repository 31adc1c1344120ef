"""The contract of a batch: each mixture of it is as if it were alone, whatever the others are."""

import functools
import warnings

import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, FLOATS, blobs, drawn, one_of
from torchgmm.fitting import Method

every_family = pytest.mark.parametrize("family", FAMILIES)
every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)
B, N, D, K = 4, 100, 3, 3
# What other cuts of the same sums may change of parameters of size 1 to 10: rounding, and in
# float32 what a fit of some ten steps makes of it.
CLOSE = {torch.float64: 1e-9, torch.float32: 2e-4}

# methods whose steps move all mixtures of a batch
METHODS = {"em": tg.EM(max_iter=15)}
every_method = pytest.mark.parametrize("method", METHODS)


def tables(dtype=torch.float64):
    """Rows `(B, N, D)`, every mixture's from another mixture."""
    return torch.stack([blobs(N, D, K, separation=2.5 + b, dtype=dtype, seed=b) for b in range(B)])


def row_weights():
    """Weights `(B, N)`, some of them 0."""
    g = torch.Generator().manual_seed(0)
    w = torch.rand(B, N, generator=g, dtype=torch.float64)
    return w * (torch.rand(B, N, generator=g) > 0.2)


def layouts(dtype):
    """Name -> what is given to the batch, and what to each mixture alone."""
    x, w = tables(dtype), row_weights()
    lengths = [N - 20 * b for b in range(B)]
    ragged = [x[b, :n] for b, n in enumerate(lengths)]
    labels = torch.arange(B).repeat_interleave(torch.tensor(lengths))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    mixed, of = torch.cat(ragged)[order], labels[order]
    at = torch.arange(len(of)).double() % 3

    def streamed(*tables):
        return lambda: (
            dict(zip(("x", "of", "w"), parts, strict=True))
            for parts in zip(*(t.split(37) for t in tables), strict=True)
        )

    return {
        "tables": ((x, {}), [(rows, {}) for rows in x]),
        "an array": ((x.numpy(), {}), [(rows, {}) for rows in x]),
        "weights": ((x, {"weights": w}), [(a, {"weights": b}) for a, b in zip(x, w, strict=True)]),
        "one table for all": ((x[0], {}), [(x[0], {})] * B),
        "one table, own weights": ((x[0], {"weights": w}), [(x[0], {"weights": v}) for v in w]),
        "a list": ((ragged, {}), [(rows, {}) for rows in ragged]),
        "a list with weights": (
            (ragged, {"weights": [w[b, :n] for b, n in enumerate(lengths)]}),
            [(rows, {"weights": w[b, : len(rows)]}) for b, rows in enumerate(ragged)],
        ),
        "groups": ((mixed, {"groups": of}), [(mixed[of == b], {}) for b in range(B)]),
        "a stream": (
            (list(zip(mixed.split(37), of.split(37), strict=True)), {"groups": 1}),
            [(mixed[of == b], {}) for b in range(B)],
        ),
        "a stream with weights": (
            (streamed(mixed, of, at), {"groups": "of", "weights": "w"}),
            [(mixed[of == b], {"weights": at[of == b]}) for b in range(B)],
        ),
    }


@functools.cache
def start_of(family, dtype):
    """A start per mixture.

    In float64 drawn at random, so that components empty and collapse on the way. In float32 what is
    left of those is rounding, and none is alike: there it is near the clusters.
    """
    if dtype == torch.float64:
        return drawn(family, K, D, (B,), seed=3)
    many = tg.GaussianMixture(K, covariance=family, batch_shape=(B,), dtype=torch.float64)
    p = quiet(many, tables(), tg.EM(max_iter=0), generator=0).parameters
    return tg.Parameters(p.logits, p.means + 0.3, p.scale, p.family)


def quiet(mixture, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.ConvergenceWarning)
        return mixture.fit(*args, **options)


def agree(one, alone, dtype):
    """A result out of a batch and that of a fit alone from the same start."""
    assert one.status is alone.status
    assert one.n_steps == alone.n_steps
    assert one.rescued == alone.rescued
    assert one.collapsed == alone.collapsed
    for name in ("means", "logits", "scale"):
        a, b = getattr(one.parameters, name), getattr(alone.parameters, name)
        torch.testing.assert_close(a, b, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    for mine, theirs in zip(one.history, alone.history, strict=True):
        assert mine.log_likelihood == pytest.approx(theirs.log_likelihood, abs=CLOSE[dtype])


# all layouts in float64, and in float32 one of every kind of block
LAYOUTS = [(layout, torch.float64) for layout in layouts(torch.float64)]
LAYOUTS += [(name, torch.float32) for name in ("tables", "one table, own weights", "a stream")]


@every_method
@every_family
@pytest.mark.parametrize(("layout", "dtype"), LAYOUTS)
def test_a_fit_of_many_is_each_of_them_alone(method, family, dtype, layout):
    (data, options), each = layouts(dtype)[layout]
    start = start_of(family, dtype)
    many = tg.GaussianMixture(K, covariance=family, batch_shape=(B,), dtype=dtype)
    result = quiet(many, data, METHODS[method], init=start, **options)
    for b, (rows, own) in enumerate(each):
        alone = tg.GaussianMixture(K, covariance=family, dtype=dtype)
        agree(result[b], quiet(alone, rows, METHODS[method], init=start[b], **own), dtype)
        torch.testing.assert_close(many[b].means, alone.means, rtol=1e-3, atol=1e-3)


@every_family
@pytest.mark.parametrize("shape", [(1,), (2, 3)])
def test_a_batch_of_any_shape(family, shape):
    x = torch.stack([blobs(80, 2, 2, seed=b) for b in range(6)])[: torch.Size(shape).numel()]
    start = drawn(family, 2, 2, shape)
    many = tg.GaussianMixture(2, covariance=family, batch_shape=shape, dtype=torch.float64)
    result = quiet(many, x.view(*shape, 80, 2), init=start)
    assert many.means.shape == (*shape, 2, 2)
    for b, rows in enumerate(x):
        at = tuple(int(i) for i in torch.unravel_index(torch.tensor(b), shape))
        alone = tg.GaussianMixture(2, covariance=family, dtype=torch.float64)
        agree(result[at], quiet(alone, rows, init=one_of(start, at)), torch.float64)


@pytest.mark.parametrize(
    "init", ["kmeans", "k-means++", "random", "random_from_data", "labels", "current"]
)
@every_family
def test_every_seeding_starts_a_batch(init, family):
    x = tables()
    if init == "labels":
        init = torch.arange(N) % K * torch.ones(B, 1, dtype=torch.int64)
    many = tg.GaussianMixture(K, D, family, batch_shape=(B,), dtype=torch.float64)
    start = quiet(many, x, tg.EM(max_iter=0), init=init, generator=0).parameters
    again = quiet(many, x, tg.EM(max_iter=0), init=init, generator=0).parameters
    assert start.is_finite()
    assert torch.equal(start.means, again.means)
    if init != "current":  # means lie among the rows of their own mixture
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        assert bool(((start.means > low - 1e-9) & (start.means < high + 1e-9)).all())
    result = quiet(many, x, tg.EM(max_iter=4), init=start)
    assert all(one.history[-1].log_likelihood > one.history[0].log_likelihood for one in result)


@every_family
@every_dtype
def test_a_kmeans_start_of_a_batch_is_that_of_one(family, dtype):
    # far apart, so that whatever is drawn k-means ends at the same clusters
    x = torch.stack([blobs(N, D, K, separation=30.0, dtype=dtype, seed=b) for b in range(B)])
    many = tg.GaussianMixture(K, covariance=family, batch_shape=(B,), dtype=dtype)
    start = quiet(many, x, tg.EM(max_iter=0), generator=0).parameters
    for b, rows in enumerate(x):
        alone = tg.GaussianMixture(K, covariance=family, dtype=dtype)
        other = quiet(alone, rows, tg.EM(max_iter=0), generator=0).parameters
        own, its = start[b].means.sum(-1).argsort(), other.means.sum(-1).argsort()
        torch.testing.assert_close(start[b].means[own], other.means[its], rtol=1e-5, atol=1e-4)
        if not other.family.tied:
            own, its = start[b].scale[own], other.scale[its]
        else:
            own, its = start[b].scale, other.scale
        torch.testing.assert_close(own, its, rtol=1e-4, atol=1e-3)


@every_family
def test_mixtures_with_fewer_components_are_as_if_alone(family):
    x, counts = tables(), (1, 3, 2, 3)
    starts = [drawn(family, k, D, seed=k) for k in counts]
    each = [tg.GaussianMixture.from_parameters(p) for p in starts]
    many = tg.stack(each)
    result = quiet(many, x, init="current")
    bic, score = many.bic(x), many.score(x)
    for b, (rows, p) in enumerate(zip(x, starts, strict=True)):
        alone = each[b]
        other = quiet(alone, rows, init=p)
        assert result[b].n_steps == other.n_steps
        assert many[b].n_components == counts[b]
        torch.testing.assert_close(many[b].means, alone.means, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(many[b].weights, alone.weights, rtol=1e-9, atol=1e-9)
        assert float(score[b]) == pytest.approx(float(alone.score(rows)))
        assert float(bic[b]) == pytest.approx(float(alone.bic(rows)))
        assert bool((many.predict(x)[b] < counts[b]).all())
        assert torch.equal(many.predict(x)[b], alone.predict(rows))


ONE_BY_ONE = {
    "squarem": tg.SQUAREM(max_iter=6),
    "incremental": tg.IncrementalEM(max_iter=2, n_blocks=4),
    "reduced": tg.VarianceReducedEM(max_iter=2, n_blocks=4),
    "online": tg.OnlineEM(max_iter=2, batch_size=40),
    "gradient": tg.Gradient(max_iter=2, batch_size=40),
}


@pytest.mark.parametrize("method", ONE_BY_ONE)
@pytest.mark.parametrize("layout", ["tables", "weights", "a list", "groups", "one table for all"])
def test_methods_that_move_one_mixture_move_one_after_the_other(method, layout):
    (data, options), each = layouts(torch.float64)[layout]
    start = start_of("full", torch.float32)
    many = tg.GaussianMixture(K, batch_shape=(B,), dtype=torch.float64)
    options = options | {"generator": 7}
    result = quiet(many, data, ONE_BY_ONE[method], init=start, **options)
    assert len(result) == B
    for b, (rows, own) in enumerate(each):
        alone = tg.GaussianMixture(K, dtype=torch.float64)
        other = quiet(alone, rows, ONE_BY_ONE[method], init=start[b], generator=7, **own)
        assert result[b].status is other.status
        assert type(result[b].state) is type(other.state)
        assert result[b].n_steps == other.n_steps
        torch.testing.assert_close(many[b].means, alone.means)
        torch.testing.assert_close(many[b].scale, alone.scale)


def test_every_method_takes_a_batch():
    taken = {type(method) for method in (*METHODS.values(), *ONE_BY_ONE.values())}
    assert taken >= set(Method.__subclasses__())
