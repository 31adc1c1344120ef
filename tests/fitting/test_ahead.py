"""Steps made before anybody looks at their numbers: the same fit, and a device waited for once."""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchgmm as tg
from tests.cases import FAMILIES, Case, drawn
from torchgmm.data import Checked, as_source
from torchgmm.errors import SingularCovarianceError
from torchgmm.fitting import Observer, Problem, Rescue
from torchgmm.fitting.ahead import tentative

CASE = Case("blobs", 3, 0, 2, 1, k=3, n=600)
X = CASE.rows(torch.float32)
aten = torch.ops.aten


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: numbers read, and shapes that depend on them."""

    READS = (aten._local_scalar_dense, aten.equal, aten.nonzero, aten.is_nonzero, aten.unique_dim,
             aten.masked_select, aten._linalg_eigh, aten._unique2)  # fmt: skip

    def __init__(self):
        super().__init__()
        self.places, self.off = [], True

    def __enter__(self):
        self.off = False
        return super().__enter__()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        by_mask = op.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if op.overloadpacket in self.READS or by_mask:
            self.note()
        return op(*args, **(kwargs or {}))

    def note(self):
        if not self.off:
            own = [f for f in traceback.extract_stack() if "/torchgmm/" in f.filename]
            self.places.append(f"{own[-1].filename}:{own[-1].lineno}")


@pytest.fixture
def waits(monkeypatch):
    """Counts within `with`; `tolist` of a GPU's numbers is one wait, but none here."""
    mode, tolist = Waits(), torch.Tensor.tolist

    def noted(tensor):
        mode.note()
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", noted)
    return mode


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", ["dense", "quadratic", "triton", "triton_quadratic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_many_steps_wait_once(family, kernel, weighted, waits, monkeypatch):
    if kernel.startswith("triton"):
        pytest.importorskip("triton", reason="Triton is not installed")
        from torchgmm.kernels import triton_quadratic, triton_run

        launch = triton_run.launch

        def uncounted(*arguments):  # the interpreter reads what a GPU would not
            before, waits.off = waits.off, True
            launch(*arguments)
            waits.off = before

        for module in (triton_run, triton_quadratic):
            monkeypatch.setattr(module, "launch", uncounted)
    weights = torch.rand(len(X), generator=torch.Generator().manual_seed(0)) + 0.1
    source = Checked(as_source(X, weights if weighted else None), X.dtype, X.device)
    problem = Problem(source, torch.Generator())
    method = tg.EM(kernel=kernel, check_every=3)
    state = method.init(CASE.start(family), problem)
    for _ in range(3):  # the first of which looks at the rows too, and may see them far away
        with torch.no_grad(), problem.answers.looking():
            state, _ = method.step(state, problem)
    with torch.no_grad(), waits:
        found = tentative(method, problem, state, 3)
    assert len(found) == 3
    # the search for common axes looks at eigenvectors first, which are waited for
    assert len(waits.places) == (4 if family == "common_axes" else 1), waits.places


class Heard(Observer):
    def __init__(self):
        self.seen = []

    def on_step(self, event):
        p = event.state.parameters
        told = (event.number, event.change, len(event.history), event.state.step)
        self.seen.append((*told, event.step.log_likelihood, event.step.rescued, p.means.tolist()))


def fitted(every, x=X, family="full", **options):
    method, heard = options.pop("method", {"max_iter": 30}), Heard()
    mixture = tg.GaussianMixture(CASE.k, covariance=family)
    result = mixture.fit(
        x, tg.EM(check_every=every, **method), generator=0, observers=[heard], **options
    )
    return result, heard.seen, [t.tolist() for t in mixture.parameters()]


def same(every, **options):
    """The fit that looks every step, after it was compared with the one that does not."""
    one, other = fitted(1, **options), fitted(every, **options)
    assert other[1:] == one[1:]
    assert (other[0].status, other[0].n_steps) == (one[0].status, one[0].n_steps)
    assert other[0].state.step == one[0].state.step
    return one[0]


@pytest.mark.parametrize("every", [2, 7, 1000])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_is_the_same(family, every):
    assert same(every, family=family, stop=tg.Tolerance(1e-4)).converged


def test_it_stops_at_the_budget():
    assert same(4, method={"max_iter": 6}, stop=tg.Tolerance(0)).n_steps == 6


@pytest.mark.parametrize("n_init", [1, 3])
def test_several_runs_are_the_same(n_init):
    assert len(same(5, n_init=n_init).runs) == n_init


def test_components_that_empty_are_replaced_when_they_do():
    start = CASE.start("full")
    start.means[1:] = 1e3  # two components on one spot far from all rows
    assert same(5, init=start).rescued > 0


def test_components_that_empty_later_are_found():
    # one that only a far row holds, which it shares with nobody until the others grow
    start = drawn("full", 3, 2, condition=2.0)
    start.means[2] = 40.0
    x = torch.cat([torch.randn(400, 2), torch.tensor([[40.0, 40.0]])]).double()
    for rescue in (Rescue(), Rescue(empty="keep"), Rescue(collapsed="reseed")):
        method = {"max_iter": 20, "rescue": rescue, "reg_covar": 1e-3}
        same(6, x=x, init=start, method=method, stop=tg.Tolerance(0))


def test_a_component_at_the_floor_is_counted_every_step():
    x = torch.cat([X.double(), X[:1].double().expand(50, -1) + 100])
    labels = torch.cat([torch.arange(len(X)) % 2, torch.full((50,), 2)])
    result = same(3, x=x, init=labels, stop=tg.Tolerance(0), method={"max_iter": 10})
    assert result.collapsed == 1


def test_an_end_without_numbers_is_the_same():
    x = X.double() * 1e160  # squares of what is far away overflow
    for every in (1, 4):
        with pytest.raises(tg.InputError, match=r"reg_covar|finite|rescale") as caught:
            fitted(every, x=x, init=CASE.start("full"))
        if every == 1:
            expected = str(caught.value)
    assert str(caught.value) == expected


def test_a_covariance_without_spread_is_told():
    x = torch.cat([torch.randn(200, 2).double(), torch.full((1, 2), 9.0).double()])
    start = drawn("full", 3, 2, condition=2.0)
    start.means[2] = 9.0
    for every in (1, 4):
        with pytest.raises(SingularCovarianceError):
            fitted(every, x=x, init=start, method={"max_iter": 50, "reg_covar": 0.0})


def test_a_mistake_in_the_middle_costs_only_the_steps_after_it(monkeypatch):
    problem = Problem(Checked(as_source(X), X.dtype, X.device), torch.Generator())
    method = tg.EM(check_every=4)
    state = method.init(CASE.start("full"), problem)
    with torch.no_grad():
        with problem.answers.looking():
            state, _ = method.step(state, problem)
        assert len(tentative(method, problem, state, 4)) == 4
        step, calls = tg.EM.step, []

        def spoilt(self, state, problem):
            calls.append(None)
            if len(calls) == 3:  # not finite: an answer that is wrong
                p = state.parameters
                state = type(state)(tg.Parameters(p.logits, p.means * torch.nan, p.scale, p.family))
            return step(self, state, problem)

        monkeypatch.setattr(tg.EM, "step", spoilt)
        assert len(tentative(method, problem, state, 4)) == 2
    assert not problem.answers.known


@pytest.mark.parametrize("every", [1, 3])
def test_a_checkpoint_goes_on_the_same(every, tmp_path):
    def fit(steps, **options):
        mixture = tg.GaussianMixture(CASE.k)
        method = tg.EM(max_iter=steps, check_every=every)
        tg.fit(mixture, X, method, stop=tg.Tolerance(0), generator=0, **options)
        return mixture

    fit(4, observers=[tg.Checkpoint(tmp_path / "fit.safetensors", every=0)])
    resumed = fit(9, resume=tg.read_checkpoint(tmp_path / "fit.safetensors"))
    assert torch.equal(resumed.means, fit(9).means)


def test_squarem_says_that_it_looks_every_step():
    with pytest.raises(tg.InputError, match="looks at every step"):
        tg.SQUAREM(check_every=2)
    with pytest.raises(tg.InputError, match="check_every"):
        tg.EM(check_every=0)
