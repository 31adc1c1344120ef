"""Fits and starts on a device without float64: rows stay there, and the answer is the CPU's."""

import dataclasses

import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, GRID
from tests.without_float64 import apple
from tests.without_float64.apple import THERE, placed, there
from tests.without_float64.common import CASE, METHODS, WEIGHTS, X, close, same_fit
from torchgmm.kernels import Dense

ROWS = {
    "there": lambda: there(X),
    "on the CPU": lambda: X,
    "float64": lambda: X.double().numpy(),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighted"])
def test_a_fit_is_that_on_the_cpu(family, rows, weights, monkeypatch):
    start = CASE.of(family).start(family)
    options = {"init": start, "weights": weights, "stop": tg.Tolerance(0)}
    wanted = tg.GaussianMixture(3, 3, family).fit(X, METHODS["EM"], **options)
    with apple.device(monkeypatch):
        mixture = placed(tg.GaussianMixture(3, 3, family))
        same_fit(mixture.fit(ROWS[rows](), METHODS["EM"], **options), wanted)
    assert mixture.means.device == THERE
    close(mixture.means, wanted.parameters.means)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["full", "tied_diagonal", "common_axes"])
def test_every_method_is_that_on_the_cpu(method, family, monkeypatch):
    options = {"init": CASE.of(family).start(family), "stop": tg.Tolerance(0), "generator": 0}
    wanted = tg.GaussianMixture(3, 3, family).fit(X, METHODS[method], **options)
    with apple.device(monkeypatch):
        mixture = placed(tg.GaussianMixture(3, 3, family))
        # the steps of an optimiser follow the last digits of gradients
        tolerance = 3e-3 if isinstance(METHODS[method], tg.Gradient) else 1e-4
        same_fit(mixture.fit(there(X), METHODS[method], **options), wanted, tolerance)


@pytest.mark.parametrize("case", GRID, ids=str)
@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_float32_keeps_its_digits_there(case, family, monkeypatch):
    case = case.of(family)
    x, start = case.rows(torch.float32), case.start(family)
    wanted = Dense().accumulate(x, None, start)
    with apple.device(monkeypatch):
        found = Dense(budget=50_000).accumulate(there(x), None, start)
    n = wanted.weight.unsqueeze(-1)
    close(found.weight, wanted.weight)
    moved = (found.first - wanted.first) / n
    spread = start.family.diagonal(wanted.second).div(n).sqrt()
    assert float((moved / spread).abs().max()) < 1e-4


def test_rows_stay_where_they_are(far):
    n, steps = 600, 5
    start, options = CASE.start("full"), {"stop": tg.Tolerance(0)}
    mixture, x = placed(tg.GaussianMixture(3, 3)), there(X)
    before = far.brought
    mixture.fit(x, tg.EM(max_iter=steps), init=start, **options)
    # of every row its log-probability, and of every component its sums
    assert far.brought - before <= steps * (n + 3 * (1 + 3 + 9))


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "random", "labels"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "two"])
@pytest.mark.parametrize("n_init", [1, 2])
def test_starts_are_those_on_the_cpu(init, batch, n_init, monkeypatch):
    if init == "labels":
        n_init, init = 1, torch.arange(600).expand(*batch, 600) % 3
    options = {"init": init, "n_init": n_init, "stop": tg.Tolerance(0), "generator": 0}
    for family in ("full", "tied_spherical"):
        kind = (3, 3, family)
        plain = tg.GaussianMixture(*kind, batch_shape=batch)
        wanted = plain.fit(X, tg.EM(max_iter=2), **options)
        with apple.device(monkeypatch):
            mixture = placed(tg.GaussianMixture(*kind, batch_shape=batch))
            same_fit(mixture.fit(there(X), tg.EM(max_iter=2), **options), wanted)


@pytest.mark.parametrize("grouped", ["stacked", "groups", "listed", "weighted"])
def test_a_batch_is_that_on_the_cpu(grouped, monkeypatch):
    labels = torch.arange(600) % 2
    tables = [X[:250], X[250:]]
    given = {
        "stacked": (X.view(2, 300, 3), {}),
        "groups": (X, {"groups": labels}),
        "listed": (tables, {}),
        "weighted": (X, {"weights": torch.stack([WEIGHTS, WEIGHTS.flip(0)])}),
    }
    rows, more = given[grouped]
    options = {"generator": 0, "stop": tg.Tolerance(0), **more}
    plain = tg.GaussianMixture(3, 3, batch_shape=(2,))
    wanted = plain.fit(rows, tg.EM(max_iter=3), **options)
    with apple.device(monkeypatch):
        rows = [there(x) for x in rows] if grouped == "listed" else there(rows)
        mixture = placed(tg.GaussianMixture(3, 3, batch_shape=(2,)))
        same_fit(mixture.fit(rows, tg.EM(max_iter=3), **options), wanted)
        close(mixture.score(there(X)), plain.score(X))


@pytest.mark.parametrize("method", ["EM", "IncrementalEM", "Gradient"])
def test_replaced_components_move_to_rows_of_there(method, monkeypatch):
    start = CASE.start("full")
    start.means[0] = 1e4  # where no row is
    options = {"init": start, "stop": tg.Tolerance(0), "generator": 0}
    wanted = tg.GaussianMixture(3, 3).fit(X, METHODS[method], **options)
    assert sum(step.rescued for step in wanted.history)
    with apple.device(monkeypatch):
        mixture = placed(tg.GaussianMixture(3, 3))
        same_fit(mixture.fit(there(X), METHODS[method], **options), wanted)


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_goes_on_from_a_file(method, monkeypatch, tmp_path):
    path, more = tmp_path / "fit.safetensors", METHODS[method]
    options = {"init": CASE.start("full"), "stop": tg.Tolerance(0), "generator": 0}
    with apple.device(monkeypatch):
        whole = placed(tg.GaussianMixture(3, 3)).fit(there(X), more, **options)
        mixture, first = placed(tg.GaussianMixture(3, 3)), dataclasses.replace(more, max_iter=1)
        mixture.fit(there(X), first, observers=[tg.Checkpoint(path, 0)], **options)
        resumed = mixture.fit(there(X), more, resume=tg.read_checkpoint(path), **options)
    assert resumed.log_likelihood == whole.log_likelihood
    assert torch.equal(resumed.parameters.means, whole.parameters.means)
