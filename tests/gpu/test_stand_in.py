"""Tensors that hold nothing stand in for a device: an operation that mixes two devices raises.

What depends on values is answered for them: every check of rows and sums passes, every other
question is answered by no. So a fit goes its usual way, and what it leaves on the wrong device is
found where there is no GPU. Devices that mix are a RuntimeError; shapes that depend on values,
which nobody can answer for, are no failure.
"""

import contextlib
import copy
import traceback

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

import torchgmm as tg
from tests.cases import FAMILIES, Case
from torchgmm import checks
from torchgmm.data import Checked, as_source
from torchgmm.fitting import Problem
from torchgmm.kmeans import assign, kmeans_plus_plus

CASE = Case("blobs", 3, 0, 6, 4, k=3, n=600)
_YES = {"is_finite", "positive", "_usable"}


class Answered(TorchDispatchMode):
    """Numbers that are read are 1; conditions hold only where finiteness is asked for."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op is torch.ops.aten.equal.default:
            return False
        if op is not torch.ops.aten._local_scalar_dense.default:
            return op(*args, **(kwargs or {}))
        if args[0].dtype != torch.bool:
            return 1.0 if args[0].is_floating_point() else 1
        return not _YES.isdisjoint(frame.name for frame in traceback.extract_stack(limit=16))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    # autocast knows no such device
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
    return FakeTensorMode(allow_non_fake_inputs=True)  # constants are made without it


@contextlib.contextmanager
def answering(mode):
    """The stand-in, with its answers; a test that wants shapes that depend on values is skipped."""
    try:
        with mode, Answered():
            yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        pytest.skip(f"the way taken depends on values: {error}")


def there(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def placed(mixture):
    """The mixture on the stand-in; its own constructor makes tensors that modes refuse."""
    copied = copy.copy(mixture)
    copied._parameters = {n: torch.nn.Parameter(there(t)) for n, t in mixture._parameters.items()}
    return copied


def test_two_devices_do_not_mix(stand_in):
    with stand_in, pytest.raises(RuntimeError, match="same device"):
        torch.empty(3, device="meta") + torch.empty(3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["auto", "dense", "quadratic"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_stays_on_its_device(family, kernel, weighted, stand_in, monkeypatch):
    monkeypatch.setattr(checks, "check_weights", lambda w, n: w)
    mixture, start = tg.GaussianMixture(CASE.k, CASE.d, family), CASE.start(family)
    x, generator = CASE.rows(torch.float32), torch.Generator()
    with answering(stand_in):
        method = tg.EM(max_iter=2, kernel=kernel)
        weights = torch.empty(len(x), dtype=torch.float64, device="meta") if weighted else None
        options = {"stop": tg.Tolerance(0), "generator": generator, "weights": weights}
        result = placed(mixture).fit(there(x), method, init=start.map(there), **options)
        tensors = (result.parameters.means, result.parameters.scale, result.parameters.logits)
        assert {t.device.type for t in tensors} == {"meta"}


class Moved(TorchDispatchMode):
    """Counts copies between the CPU and the stand-in: each makes the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        copied = op.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        given = [a for a in args if isinstance(a, torch.Tensor)]
        if copied and len({t.device.type for t in (*given, out)}) > 1:
            self.count += 1
        return out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["dense", "quadratic"])
def test_steps_that_go_ahead_move_nothing(family, kernel, stand_in):
    x, start = CASE.rows(torch.float32), CASE.start(family)
    with answering(stand_in), torch.no_grad():
        rows = there(x)
        source = Checked(as_source(rows), rows.dtype, rows.device)
        problem, method = Problem(source, torch.Generator()), tg.EM(kernel=kernel)
        state = method.init(start.map(there), problem)
        with problem.answers.looking():
            state, _ = method.step(state, problem)
        source._clean = True
        with Moved() as moved, problem.answers.guessing(rows.device) as guess:
            _, step = method.step(state, problem)
        assert step.numbers.device.type == guess.wrong().device.type == "meta"
    assert moved.count == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "ask", ["log_prob", "log_joint", "responsibilities", "predict", "score", "bic", "icl"]
)
def test_answers_stay_on_the_device(family, ask, stand_in):
    mixture, x = tg.GaussianMixture(CASE.k, CASE.d, family), CASE.rows(torch.float32)
    with answering(stand_in):
        assert getattr(placed(mixture), ask)(there(x)).device.type == "meta"


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_stay_on_the_device(family, stand_in):
    mixture, x = tg.GaussianMixture(CASE.k, CASE.d, family), CASE.rows(torch.float32)
    with answering(stand_in):
        rows, mixture = there(x).requires_grad_(), placed(mixture)
        mixture.log_prob(rows).sum().backward()
        tensors = (rows, mixture.logits, mixture.means, mixture.scale)
        assert {t.grad.device.type for t in tensors} == {"meta"}


def test_starts_stay_on_the_device(stand_in):
    x, generator = CASE.rows(torch.float32), torch.Generator()
    with answering(stand_in):
        rows, weights = there(x), torch.empty(len(x), device="meta")
        for w in (None, weights):
            centres = kmeans_plus_plus(rows, w, 3, generator)
            labels, distances = assign(rows, centres)
            assert {t.device.type for t in (centres, labels, distances)} == {"meta"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_launches_get_all_their_arguments_from_the_device(
    family, batch, dtype, stand_in, monkeypatch
):
    pytest.importorskip("triton", reason="Triton is not installed")
    import inspect

    from tests.cases import drawn
    from torchgmm.kernels import formed, triton_quadratic, triton_run
    from torchgmm.kernels.quadratic import _about_the_middle

    launched = []

    def launch(kernel, programs, device, arguments, tile):
        tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
        assert {t.device.type for t in tensors} == {device.type} == {"meta"}
        names = list(inspect.signature(kernel.fn).parameters)
        assert len(names) == len(arguments) + len(tile.sizes)
        for name, argument in zip(names, arguments, strict=False):
            assert isinstance(argument, torch.Tensor) == (name in _POINTERS), name
        launched.append(kernel.__name__)

    for module in (triton_run, triton_quadratic):
        monkeypatch.setattr(module, "launch", launch)
    p = drawn(family, 3, 5, batch)
    with stand_in:
        p = p.map(there)
        for shape in ((1000, 5), (*batch, 1000, 5)):
            x, w = (torch.empty(s, dtype=dtype, device="meta") for s in (shape, shape[:-1]))
            made = triton_run.Launcher(p, x, "ieee", 2**20)
            for about in (None, torch.empty(*batch, 3, 5, dtype=dtype, device="meta")):
                found = made.moments(x, w, about)
                assert found.second.shape == p.scale.shape
                assert {getattr(found, f).device.type for f in vars(found)} == {"meta"}
            assert made.log_prob(x).shape == (*batch, 1000)
            assert len(set(launched)) == 2
            launched.clear()
            work = formed._FormedChunks(_about_the_middle(p, x), x, dtype, 2**20, "ieee")
            for part, joint in work:
                log_prob, sums = work.sums(joint, w[..., part], None)
                assert log_prob.shape == (*batch, part.stop - part.start)
                assert sums.dtype == torch.float64
                assert sums.device.type == "meta"
            assert {"joint_formed", "sums_formed"} <= set(launched)
            launched.clear()


_POINTERS = {
    "x", "w", "centre", "shift", "factor", "log_norm", "about", "log_prob", "joint", "weight",
    "first", "second", "y", "left", "right", "theta", "constant", "slope", "out", "extra",
}  # fmt: skip
