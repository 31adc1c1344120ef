"""A device that has no float64 (as Apple's): rows stay there, what is exact is made on the CPU."""

import dataclasses
import pathlib

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, GRID, Case
from tests.gpu import apple
from tests.gpu.apple import THERE, here, placed, there
from torchgmm import checks, exact
from torchgmm.exact import exact_device, has_float64
from torchgmm.kernels import Dense

CASE = Case("blobs", 3, 0, 6, 4, k=3, n=600)
X = CASE.rows(torch.float32)
WEIGHTS = torch.rand(600, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WEIGHTS[::7] = 0
METHODS = {
    "EM": tg.EM(max_iter=4),
    "EM, ahead": tg.EM(max_iter=4, check_every=3),
    "SQUAREM": tg.SQUAREM(max_iter=5),
    "OnlineEM": tg.OnlineEM(max_iter=2, batch_size=100),
    "IncrementalEM": tg.IncrementalEM(max_iter=2, n_blocks=4),
    "VarianceReducedEM": tg.VarianceReducedEM(max_iter=2, n_blocks=4),
    "Gradient": tg.Gradient(max_iter=3, annealing=1),
    "LBFGS": tg.Gradient(max_iter=2, optimizer="LBFGS"),
}
ROWS = {
    "there": lambda: there(X),
    "on the CPU": lambda: X,
    "float64": lambda: X.double().numpy(),
}


@pytest.fixture
def far(monkeypatch):
    with apple.device(monkeypatch) as told:
        yield told


def mixture_of(family, batch=(), start=None):
    start = CASE.of(family).start(family) if start is None else start
    one = tg.GaussianMixture.from_parameters(start, dtype=torch.float32)
    return tg.stack([one] * batch[0]) if batch else one


def close(found, wanted, tolerance=1e-4):
    """Equal as two orders of float32 sums are."""
    options = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    torch.testing.assert_close(here(found), here(wanted), **options)


def same_fit(found, wanted, tolerance=1e-4):
    assert found.n_steps == wanted.n_steps
    assert abs(found.log_likelihood - wanted.log_likelihood) < 1e-5
    for name in ("logits", "means", "scale"):
        tensor = getattr(found.parameters, name)
        assert (tensor.dtype, tensor.device.type) == (torch.float64, "cpu")
        close(tensor, getattr(wanted.parameters, name), tolerance)


# the stand-in -----------------------------------------------------------------------------------


REFUSED = {
    "float64": lambda x: x.double(),
    "a sum in float64": lambda x: x.sum(dtype=torch.float64),
    "made in float64": lambda x: torch.zeros(2, dtype=torch.float64, device=THERE),
    "sent in float64": lambda x: torch.zeros(2, dtype=torch.float64).to(THERE),
    "float64 beside it": lambda x: torch.add(x, torch.zeros((), dtype=torch.float64)),
    "two devices": lambda x: torch.add(x, torch.zeros(3)),
    "a product of two": lambda x: torch.dot(x, torch.zeros(3)),
    "another dtype on the way": lambda x: x.to("cpu", torch.float64),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_stand_in_refuses(what, far):
    with pytest.raises((RuntimeError, TypeError), match="device"):
        REFUSED[what](there(torch.ones(3)))


def test_the_stand_in_computes(far):
    x = there(torch.tensor([1.0, 2.0, 3.0]))
    view = x[1:]
    view.mul_(2)  # into the same numbers
    assert x.device == view.device == THERE
    assert x.cpu().double().tolist() == [1.0, 4.0, 6.0]
    assert far.brought == 3


def test_mps_is_such_a_device():
    assert not has_float64(torch.device("mps"))
    assert exact_device(torch.device("mps")) == torch.device("cpu")
    for name in ("cpu", "cuda", "meta"):
        assert has_float64(torch.device(name))
        assert exact_device(torch.device(name)) == torch.device(name)


# fits -------------------------------------------------------------------------------------------


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


# questions --------------------------------------------------------------------------------------


ON_CPU = {"bic", "aic", "icl"}  # float64: of many rows float32 would have no digits for them
QUESTIONS = ["log_prob", "log_joint", "component_log_prob", "mahalanobis", "responsibilities",
             "membership_entropy", "predict", "score", *sorted(ON_CPU)]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "two"])
@pytest.mark.parametrize("tracked", [False, True])
def test_answers_are_those_on_the_cpu(family, batch, tracked, monkeypatch):
    mixture = mixture_of(family, batch)
    wanted = {ask: getattr(mixture, ask)(X) for ask in QUESTIONS}
    with apple.device(monkeypatch):
        own = placed(mixture).requires_grad_(tracked)
        for ask, answer in wanted.items():
            for rows in (there(X), X.double().numpy()):
                found = getattr(own, ask)(rows)
                assert found.device.type == ("cpu" if ask in ON_CPU else THERE.type)
                assert found.dtype == answer.dtype
                close(found, answer)
        close(own.score(there(X), WEIGHTS), mixture.score(X, WEIGHTS))
        if not batch:
            close(own.bic(lambda: iter(X.numpy().reshape(3, 200, 3))), wanted["bic"])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_on_the_cpu(family, monkeypatch):
    mixture, x = mixture_of(family), X.clone().requires_grad_()
    mixture.log_prob(x).sum().backward()
    with apple.device(monkeypatch):
        for tracked in (True, False):
            own, rows = placed(mixture), there(X).requires_grad_(tracked)
            own.log_prob(rows).sum().backward()
            for name, tensor in mixture.named_parameters():
                found = getattr(own, name).grad
                assert (found.device, found.dtype) == (THERE, torch.float32)
                close(found, tensor.grad, 1e-3)
            if tracked:
                close(rows.grad, x.grad)
        twice = placed(mixture)
        (first,) = torch.autograd.grad(
            twice.log_prob(there(X[:20])).sum(), twice.means, create_graph=True
        )
        first.square().sum().backward()
        assert bool(here(twice.means.grad).isfinite().all())


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_drawn_there(family, monkeypatch):
    mixture = mixture_of(family)
    drawn = mixture.rsample((50,), torch.Generator().manual_seed(0))
    drawn.square().sum().backward()
    with apple.device(monkeypatch):
        own = placed(mixture)
        found = own.rsample((50,), torch.Generator().manual_seed(0))
        assert (found.device, found.dtype) == (THERE, torch.float32)
        close(found, drawn)
        found.square().sum().backward()
        for name, tensor in mixture.named_parameters():
            close(getattr(own, name).grad, tensor.grad, 1e-3)
        assert own.sample((7,)).device == THERE
        assert bool(here(own.entropy(100).value).isfinite())


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_of_there_are_mixtures(family, monkeypatch):
    tensors = [t.detach() for t in mixture_of(family).parameters()]
    wanted = [ask(X, *tensors, covariance=family) for ask in FUNCTIONS]
    with apple.device(monkeypatch):
        own = [there(t) for t in tensors]
        for ask, answer in zip(FUNCTIONS, wanted, strict=True):
            close(ask(there(X), *own, covariance=family), answer)


FUNCTIONS = (tg.functional.log_prob, tg.functional.log_joint, tg.functional.responsibilities)


# doors above ------------------------------------------------------------------------------------


def test_a_mixture_is_built_and_sized_there(far):
    for mixture in (tg.GaussianMixture(3, device=THERE), tg.GaussianMixture(3, 3, device=THERE)):
        mixture.fit(there(X), generator=0)
        assert {t.device for t in mixture.parameters()} == {THERE}


@pytest.mark.parametrize("options", [{}, {"n_init": 2}, {"criterion": "cv", "folds": 2}], ids=str)
def test_a_search_is_that_on_the_cpu(options, monkeypatch):
    kinds = {"n_components": [2, 3], "covariance": ["full", "tied"], "generator": 0, **options}
    wanted = tg.select(X, **kinds)
    with apple.device(monkeypatch):
        found = tg.select(there(X), **kinds)
        assert found.best.device == THERE
    values = [[one.value for one in table.candidates] for table in (found, wanted)]
    close(torch.tensor(values[0]), torch.tensor(values[1]))


def test_a_test_is_made_on_the_cpu(monkeypatch):
    options = {"n_replicates": 3, "generator": 0}
    wanted = tg.bootstrap_test(X[:90], 1, **options)
    with apple.device(monkeypatch):
        found = tg.bootstrap_test(there(X[:90]), 1, **options)
    assert found.statistic == pytest.approx(wanted.statistic)
    assert found.p_value == wanted.p_value


@pytest.mark.parametrize("criterion", ["entropy", "quadratic"])
def test_clusters_are_those_on_the_cpu(criterion, monkeypatch):
    mixture = mixture_of("full")
    wanted = tg.cluster(mixture, X, WEIGHTS, criterion=criterion)
    with apple.device(monkeypatch):
        found = tg.cluster(placed(mixture), there(X), WEIGHTS, criterion=criterion)
        assert found.joined == wanted.joined
        close(torch.tensor(found.entropy), torch.tensor(wanted.entropy))


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_the_estimator_computes_there(kind, monkeypatch):
    from torchgmm.sklearn import GaussianMixture

    rows = X.double().numpy()
    wanted = GaussianMixture(3, init_params="kmeans", random_state=0).fit(rows)
    with apple.device(monkeypatch):
        rows = there(X) if kind == "tensor" else rows
        given = {"means_init": wanted.means_, "device": THERE}
        own = GaussianMixture(3, random_state=0, **given).fit(rows)
        assert len(own.lower_bounds_) > 1
        assert own.score(rows) == pytest.approx(wanted.score(X.double().numpy()), abs=1e-3)
        assert own.bic(rows) == pytest.approx(wanted.bic(X.double().numpy()), rel=1e-3)
        answer = own.predict_proba(rows)
        assert isinstance(answer, apple.There if kind == "tensor" else np.ndarray)
        own.partial_fit(rows)


def test_files_are_read_into_it(monkeypatch, tmp_path):
    path = tmp_path / "mixture.safetensors"
    tg.save(tg.GaussianMixture.from_parameters(CASE.start("full")), path)  # float64
    with apple.device(monkeypatch):
        mixture = tg.load(path, device=THERE)
        assert (mixture.device, mixture.dtype) == (THERE, torch.float32)
        tg.save(mixture, path)
    assert tg.load(path).dtype == torch.float32


# what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["quadratic", "screened", "triton", "quadratic:tf32x3"])
def test_kernels_that_need_float64_are_refused_by_name(kernel, far):
    for batch in ((), (2,)):
        mixture = placed(tg.GaussianMixture(3, 3, batch_shape=batch))
        wanted = rf"kernel '{kernel.partition(':')[0]}' computes in float64.*take 'auto'"
        with pytest.raises(tg.InputError, match=wanted):
            mixture.fit(there(X), tg.EM(kernel=kernel), generator=0)


def test_the_choice_of_a_kernel_is_dense_there(far):
    # large enough that another one would be chosen on the CPU
    mixture = placed(tg.GaussianMixture(32, 8, "diagonal"))
    x = there(Case("large", 8, 0, 6, 4, k=8, n=4000).rows(torch.float32))
    result = mixture.fit(x, tg.EM(max_iter=1), init="random_from_data", generator=0)
    assert {step.kernel for step in result.history} == {"dense"}


DOORS = {
    "marginal": lambda mixture: tg.marginal(mixture, [0]),
    "calibrate": lambda mixture: tg.calibrate(mixture, X),
    "surprise": lambda mixture: tg.surprise(mixture, X),
    "PCA": lambda mixture: tg.PCA().fit(there(X)),
}


@pytest.mark.parametrize("door", DOORS)
def test_other_doors_say_what_is_lacking(door, far):
    mixture = placed(mixture_of("full"))
    with pytest.raises(tg.InputError, match=r"has no float64.*move mixture and rows"):
        DOORS[door](mixture)


def test_a_mixture_in_float64_is_refused_there(monkeypatch):
    monkeypatch.setattr(exact, "_WITHOUT", {"cpu"})
    tg.GaussianMixture(3, 3, device="cpu")
    with pytest.raises(tg.InputError, match=r"cpu has no float64: give dtype=torch\.float32"):
        tg.GaussianMixture(3, 3, device="cpu", dtype=torch.float64)


def test_large_integers_are_refused(far):
    with pytest.raises(tg.InputError, match="float32 is exact only to"):
        placed(mixture_of("full")).log_prob(torch.full((2, 3), 2**25))
    assert checks.compute_dtype(torch.float64, torch.float32, THERE) == torch.float32


# what torch can do there ------------------------------------------------------------------------


def test_apple_has_a_kernel_for_every_operation(far):
    """By the table of kernels that torch is built from: `MPS`, or made of others that have it."""
    yaml = pytest.importorskip("yaml")
    torchgen = pytest.importorskip("torchgen")
    place = "packaged/ATen/native/native_functions.yaml"
    path = pathlib.Path(torchgen.__file__).parent / place
    if not path.exists() or torch.__version__ < "2.13":
        pytest.skip("no table of kernels, or an old one")
    table = {entry["func"].partition("(")[0]: entry for entry in yaml.safe_load(path.read_text())}
    for family in FAMILIES:
        mixture = placed(mixture_of(family))
        mixture.fit(there(X), tg.EM(max_iter=2), generator=0, weights=np.ones(600))
        for ask in QUESTIONS:
            getattr(mixture, ask)(there(X))
        mixture.log_prob(there(X).requires_grad_()).sum().backward()
        mixture.rsample((50,), torch.Generator()).sum().backward()
        mixture.log_joint(there(X)).sum().backward()
    lacking = {str(op) for op in far.operations if not _has_kernel(op, table)}
    assert not lacking
    assert len(far.operations) > 50


def _has_kernel(op, table):
    name = op._schema.name.removeprefix("aten::")
    overload = op._schema.overload_name
    entry = table[f"{name}.{overload}" if overload else name]
    entry = table.get(entry.get("structured_delegate"), entry)
    kinds = {kind.strip() for kinds in entry.get("dispatch", {}) for kind in kinds.split(",")}
    composed = any(kind.startswith("Composite") for kind in kinds)
    return not kinds or composed or "MPS" in kinds
