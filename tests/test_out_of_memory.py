"""Out of memory at any operation: half the chunk, the same answer, and one warning that says so."""

import dataclasses
import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchgmm as tg
from tests.cases import blobs
from torchgmm import density
from torchgmm.algebra import divergence
from torchgmm.covariance import as_family
from torchgmm.data import Block
from torchgmm.errors import MemoryWarning
from torchgmm.fitting.rescue import worst_rows
from torchgmm.images import denoise
from torchgmm.kernels import Dense, labelled_sums, memory, weighted_sums
from torchgmm.kmeans import assign, clustered, kmeans, kmeans_plus_plus, nearest, nearest_labels
from torchgmm.kmeans import spread as spreading
from torchgmm.mixture import implicit
from torchgmm.selection.criteria import evidence

# fits are of a few steps
pytestmark = pytest.mark.filterwarnings("ignore::torchgmm.errors.ConvergenceWarning")

CPU = torch.device("cpu")
KIB = 2**10


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Chunks that cut small data, so that half of one cuts them otherwise."""
    monkeypatch.setattr(memory, "_borne", {})
    monkeypatch.setattr(memory, "_LEAST", 16)
    for room, name in [(nearest, "_TILE_BYTES"), (nearest, "_CHUNK_BYTES"), (spreading, "_BYTES")]:
        monkeypatch.setattr(room, name, 32 * KIB)
    for room in (implicit, density, divergence):
        monkeypatch.setattr(room, "_BUDGET", 32 * KIB)
    monkeypatch.setattr(Dense, "usual_budget", 32 * KIB)
    monkeypatch.setattr(tg.kernels.Kernel, "usual_budget", 32 * KIB)


class Full(TorchDispatchMode):
    """A device that has no memory left at the n-th operation whose chunks can be halved."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += memory._watched.get()
        if self.count == self.at:
            self.at = None
            raise torch.OutOfMemoryError("CUDA out of memory")
        return func(*args, **(kwargs or {}))


def counted(call, seed=0, at=None):
    """The answer, what is left of the generator, and the number of operations."""
    generator = torch.Generator().manual_seed(seed)
    with Full(at) as full:
        answer = call(generator)
    return answer, generator.get_state(), full.count


def failing(call, at):
    with pytest.warns(MemoryWarning, match="out of memory on cpu") as said:
        answer, state, _ = counted(call, at=at)
    assert [w.category for w in said].count(MemoryWarning) == 1
    assert CPU in memory._borne
    memory._borne.clear()
    return answer, state


def moments(total, parts):
    """Operations at the beginning, at the end, and between."""
    return sorted({1 + (total - 1) * i // parts for i in range(parts + 1)})


X = blobs(1200, 3, k=5, separation=3.0)
W = torch.rand(1200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
BATCH, WEIGHTS = X.view(3, 400, 3), W.view(3, 400)
START = X[:7]

KMEANS = {
    "assign": lambda g: torch.stack(assign(X, START)),
    "nearest_labels": lambda g: nearest_labels(X, START),
    "kmeans": lambda g: kmeans(X, None, START),
    "an empty cluster": lambda g: kmeans(X, W, torch.cat([START, 1e3 * START[:1]]), max_iter=2),
    "equal centres": lambda g: kmeans(X, None, torch.cat([START[:3], START[:3]]), max_iter=2),
    "batch of kmeans": lambda g: kmeans(BATCH, WEIGHTS, START.expand(3, 7, 3)),
    "kmeans_plus_plus": lambda g: kmeans_plus_plus(X, None, 7, g),
    "clustered": lambda g: clustered(X, None, 7, g),
    "weighted": lambda g: clustered(X, W, 7, g),
    "float32": lambda g: clustered(X.float(), W, 7, g),
    "batch": lambda g: clustered(BATCH, None, 7, g),
    "weighted batch": lambda g: clustered(BATCH, WEIGHTS, 7, g),
    "generators": lambda g: clustered(BATCH, None, 7, [g, torch.Generator(), g]),
    "shared rows": lambda g: clustered(X.expand(3, 1200, 3), W.expand(3, 1200), 7, g),
}


@pytest.mark.parametrize("name", KMEANS)
def test_kmeans_gives_what_half_the_chunk_gives_from_the_start(name):
    call = KMEANS[name]
    _, _, total = counted(call)
    memory._borne[CPU] = 16 * KIB
    expected, left, more = counted(call)
    assert more > total  # chunks are smaller
    memory._borne.clear()
    for at in moments(total, 6):
        found, state = failing(call, at)
        assert torch.equal(found, expected)
        assert torch.equal(state, left)  # nothing was drawn twice


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["one", "batch", "shared"])
def test_spread_out_centres_do_not_depend_on_chunks(name, weighted, monkeypatch):
    x = {"one": X[None], "batch": BATCH, "shared": X.expand(3, 1200, 3)}[name]
    w = W[: x.shape[1]].expand(x.shape[:2]) if weighted else None
    found = []
    for size in (2**30, 16 * KIB, 64):  # whole; some rows; of one data set 256
        monkeypatch.setattr(spreading, "_BYTES", size)
        found.append(kmeans_plus_plus(x, w, 8, torch.Generator().manual_seed(0)))
    assert torch.equal(found[0], found[1])  # they are rows
    assert torch.equal(found[0], found[2])


def fitted(init="kmeans", k=4, x=X, **options):
    batch = () if x.dim() == 2 else x.shape[:1]

    def call(generator):
        mixture = tg.GaussianMixture(k, covariance="full", batch_shape=batch)
        mixture.fit(x, tg.EM(max_iter=3), init=init, generator=generator, **options)
        return torch.cat([t.detach().flatten() for t in mixture.parameters()])

    return call


FITS = {
    "kmeans": fitted(),
    "k-means++": fitted("k-means++", weights=W),
    "random": fitted("random", weights=W),
    "random_from_data": fitted("random_from_data"),
    "labels": fitted(torch.arange(1200) % 4),
    "batch": fitted(x=BATCH),
    "restarts": fitted(n_init=2),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_ends_where_it_would_have_ended(name):
    call = FITS[name]
    call(torch.Generator())  # what is kept from a first call is there
    expected, left, total = counted(call)
    for at in moments(total, 10):
        found, state = failing(call, at)
        # other chunks, other order of sums
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
        assert torch.equal(state, left)


@functools.cache
def mixture(k=4, d=3):
    found = tg.GaussianMixture(k, covariance="full")
    found.fit(X if d == 3 else PATCHES, tg.EM(max_iter=2), generator=0)
    return found


def chosen(generator):
    found = tg.select(X, n_components=[2, 3, 4], covariance="full", generator=generator)
    return torch.tensor([candidate.bic for candidate in found.candidates])


@torch.no_grad()
def far(generator):
    p, kernel = mixture().as_parameters(), tg.kernels.as_kernel("auto")
    return worst_rows([Block(X, None, 0)], p, kernel, 5)


def pulled(value):
    x = X.clone().requires_grad_()
    return torch.autograd.grad(value(mixture(), x), x)[0]


def divergent(generator):
    found = tg.kl_divergence(mixture(), mixture(3), n_samples=1200, generator=generator)
    return found.value.detach()


def by_draws(generator):
    fit = mixture()
    drawn = fit.rsample((1200,), generator=generator)
    return torch.cat([g.flatten() for g in torch.autograd.grad(drawn.square().sum(), fit.means)])


IMAGE = X[:400, 0].view(20, 20)
PATCHES = IMAGE.unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9)
LABELS = nearest_labels(X, START)


def first_sums(sums):
    m = sums.moments()
    return torch.cat([m.weight, m.first.flatten(), m.second.flatten(), m.rows[None]])


def labelled(generator):
    blocks = [Block(X, W, 0)]
    return first_sums(labelled_sums(blocks, START, FULL, lambda block: LABELS[: len(block.x)]))


def weighted(generator):
    blocks = [Block(X, W, 0)]
    made = torch.ones(7, 1).double()
    return first_sums(weighted_sums(blocks, START, FULL, lambda block: made * block.x.sum(1)))


FULL = as_family("full")
ANSWERS = {
    "labelled sums": labelled,
    "weighted sums": weighted,
    "log_prob": lambda g: mixture().log_prob(X).detach(),
    "predict": lambda g: mixture().predict(X),
    "evidence": lambda g: torch.tensor(
        dataclasses.astuple(evidence(tg.as_source(X), mixture().as_parameters()))
    ),
    "cluster": lambda g: torch.tensor(tg.cluster(mixture(), X).entropy),
    "denoise": lambda g: denoise(IMAGE, mixture(2, 9), 0.1),
    "worst_rows": far,
    "select": chosen,
    "surprise": lambda g: tg.surprise(mixture(), X).detach(),
    "kl_divergence": divergent,
    "by the rows": lambda g: pulled(lambda fit, x: (W * fit.log_prob(x)).sum()),
    "by the rows of an answer": lambda g: pulled(lambda fit, x: tg.surprise(fit, x).sum()),
    "by the mixture of draws": by_draws,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_what_it_would_have_been(name):
    call = ANSWERS[name]
    call(torch.Generator())  # what is kept from a first call is there
    expected, _, total = counted(call)
    for at in moments(total, 4 if name == "select" else 8):
        found, _ = failing(call, at)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("before", [{}, {CPU: 8 * KIB}])
def test_chunks_that_were_of_no_help_are_not_made_smaller_for_good(before, monkeypatch):
    def never(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    memory._borne.update(before)
    monkeypatch.setattr("torchgmm.kmeans.lloyd.with_ones", never)  # a copy of all rows
    with pytest.warns(MemoryWarning), pytest.raises(torch.OutOfMemoryError):
        kmeans(X, None, START)
    assert memory._borne == before
