"""`log_prob` under autograd: right to any order, in torch.func, compiled, exported, in AMP, DDP."""

import copy
import io

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from tests.cases import FAMILIES, drawn
from tests.test_memory import measured
from torchgmm import GaussianMixture, Parameters
from torchgmm.covariance import Diagonal
from torchgmm.kernels import as_kernel, joint_log_prob, log_prob, score

NAMES = ("logits", "means", "scale")
every_family = pytest.mark.parametrize("family", FAMILIES)


def tensors_of(p):
    return p.logits, p.means, p.scale


def ours(family):
    """`log_prob` as a function of plain tensors."""
    return lambda x, *tensors: log_prob(x, Parameters(*tensors, family))


def dense(family):
    """The definition, under torch's own autograd."""
    return lambda x, *tensors: joint_log_prob(x, Parameters(*tensors, family)).logsumexp(-1)


def rows(*shape, seed=3):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def leaves(*tensors):
    return [t.detach().clone().requires_grad_() for t in tensors]


# gradients ---------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize(("batch", "own_rows"), [((), False), ((2,), False), ((2,), True)])
def test_first_and_second_derivatives_are_those_of_the_differences(family, batch, own_rows):
    p = drawn(family, 2, 2, batch)
    x = rows(*(batch if own_rows else ()), 3, 2)
    inputs = leaves(x, *tensors_of(p))
    assert torch.autograd.gradcheck(ours(p.family), inputs)
    assert torch.autograd.gradgradcheck(ours(p.family), inputs)


WEIGHTS = {
    "equal": torch.full((50,), -1 / 50),
    "positive": torch.linspace(0, 2, 50),
    "of both signs": torch.linspace(-1, 1, 50),
    "that cancel": torch.tensor([1.0, -1.0]).repeat(25),
    "tiny": torch.linspace(1, 2, 50) * 1e-30,
    "zero": torch.zeros(50),
}


@every_family
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("of", ["parameters", "rows", "all"])
def test_gradients_under_any_weights_are_those_of_the_definition(family, weights, of):
    p, x, g = drawn(family, 3, 2, (2,)), rows(50, 2), WEIGHTS[weights].double()
    found = []
    for f in (ours(p.family), dense(p.family)):
        inputs = [t.detach().clone() for t in (x, *tensors_of(p))]
        wanted = {"parameters": inputs[1:], "rows": inputs[:1], "all": inputs}[of]
        for t in wanted:
            t.requires_grad_()
        found.append(torch.autograd.grad((f(*inputs) * g).sum(), wanted))
    size = float(g.abs().max())
    for got, expected in zip(*found, strict=True):
        # float64 sums of 50 terms of size 100
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * size)


@every_family
def test_float32_gradients_are_those_of_float64(family):
    p, x = drawn(family, 3, 4), rows(500, 4)
    exact, single = leaves(x, *tensors_of(p)), leaves(*(t.float() for t in (x, *tensors_of(p))))
    for inputs in (exact, single):
        ours(p.family)(*inputs).mean().backward()
    for one, other in zip(single, exact, strict=True):
        assert one.grad.dtype == torch.float32
        size = float(other.grad.abs().max())
        # eps of float32 times Mahalanobis distances of some hundreds
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0, atol=1e-4 * size)


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_gets_a_gradient(family, dtype):
    mixture = GaussianMixture.from_parameters(drawn(family, 3, 4), dtype=dtype)
    (-mixture.log_prob(rows(30, 4).to(dtype)).mean()).backward()
    for name, tensor in mixture.named_parameters():
        assert tensor.grad.shape == tensor.shape, name
        assert tensor.grad.dtype == dtype
        assert float(tensor.grad.abs().max()) > 0


@every_family
def test_the_score_of_moments_is_the_gradient(family):
    p, x = drawn(family, 3, 4), rows(200, 4)
    w = torch.linspace(0, 3, 200, dtype=torch.float64)
    found = score(as_kernel("dense").accumulate(x, w, p), p)
    inputs = leaves(*tensors_of(p))
    expected = torch.autograd.grad((dense(p.family)(x, *inputs) * w).sum(), inputs)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_a_row_far_from_every_component_has_a_finite_gradient():
    mixture = GaussianMixture(3, 2)
    x = torch.tensor([[1e12, 0.0], [0.0, 1.0]]).requires_grad_()
    mixture.log_prob(x).sum().backward()
    for tensor in (x, *mixture.parameters()):
        assert bool(torch.isfinite(tensor.grad).all())


def test_only_what_is_wanted_is_computed():
    p, x = drawn("full", 3, 2), rows(5, 2)
    mixture = GaussianMixture.from_parameters(p)
    mixture.requires_grad_(False)
    assert not mixture.log_prob(x).requires_grad
    mixture.log_prob(x.requires_grad_()).sum().backward()  # a frozen prior
    assert x.grad is not None
    assert all(t.grad is None for t in mixture.parameters())
    mixture.means.requires_grad_(True)
    mixture.log_prob(x).sum().backward()
    assert mixture.means.grad is not None
    assert mixture.scale.grad is mixture.logits.grad is None


class Unregistered(Diagonal):
    """A family that no operator can know by its name."""

    name = "diagonal of mine"


def test_a_family_that_nobody_registered_has_gradients_too():
    p, x = drawn("diagonal", 3, 2), rows(5, 2)
    got, expected = leaves(*tensors_of(p)), leaves(*tensors_of(p))
    ours(Unregistered())(x, *got).sum().backward()
    ours(p.family)(x, *expected).sum().backward()
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


# torch.func --------------------------------------------------------------------------------------


def _one(f, tensors):
    return lambda row: f(row[None], *tensors)[0]


def _by_means(f, tensors, x):
    return lambda means: f(x, tensors[0], means, tensors[2])


# each a function of the density, of the parameters and of rows (5, 2)
TRANSFORMS = {
    "grad of the parameters": lambda f, t, x: grad(lambda t: f(x, *t).sum())(t),
    "grad of the rows": lambda f, t, x: grad(lambda x: f(x, *t).sum())(x),
    "vmap over rows": lambda f, t, x: vmap(_one(f, t))(x),
    "score of each row": lambda f, t, x: vmap(grad(_one(f, t)))(x),
    "parameters' gradient of each row": lambda f, t, x: vmap(
        grad(lambda t, row: f(row[None], *t)[0]), (None, 0)
    )(t, x),
    "vmap over means, in_dims": lambda f, t, x: vmap(
        lambda m, x: f(x, t[0], m, t[2]), (2, 1)
    )(torch.stack([t[1], t[1] + 1], 2), torch.stack([x, x + 1], 1)),
    "grad in vmap over means": lambda f, t, x: vmap(
        grad(lambda m: f(x, t[0], m, t[2]).sum())
    )(torch.stack([t[1], t[1] + 1])),
    "vmap in vmap": lambda f, t, x: vmap(
        vmap(lambda m, row: f(row[None], t[0], m, t[2]), (None, 0)), (0, None)
    )(torch.stack([t[1], t[1] + 1]), x),
    "jacrev": lambda f, t, x: jacrev(lambda t: f(x, *t))(t),
    "jacfwd": lambda f, t, x: jacfwd(lambda t: f(x, *t))(t),
    "jvp": lambda f, t, x: jvp(lambda t: f(x, *t), (t,), (tuple(map(torch.ones_like, t)),)),
    "hessian of each row": lambda f, t, x: vmap(hessian(_one(f, t)))(x),
    "hessian of the means": lambda f, t, x: hessian(lambda m: _by_means(f, t, x)(m).sum())(t[1]),
    "three times grad": lambda f, t, x: grad(
        lambda m: grad(
            lambda m: grad(lambda m: _by_means(f, t, x)(m).sum())(m).square().sum()
        )(m).square().sum()
    )(t[1]),
}  # fmt: skip


@pytest.mark.parametrize("family", ["full", "tied", "tied_diagonal", "spherical"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_torch_func_give_what_the_definition_gives(family, transform):
    p, x = drawn(family, 3, 2), rows(5, 2)
    f = TRANSFORMS[transform]
    got, expected = (f(kind(p.family), tensors_of(p), x) for kind in (ours, dense))
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("family", ["full", "tied_diagonal"])
@pytest.mark.parametrize("own_rows", [False, True])
def test_vmap_over_a_batch_of_mixtures(family, own_rows):
    p = drawn(family, 3, 2, (2,))
    x = rows(4, *((2,) if own_rows else ()), 5, 2)
    logits, means, scale = tensors_of(p)

    def both(f):
        by_rows = vmap(grad(lambda x: f(x, logits, means, scale).sum()))(x)
        each = grad(lambda x, m: f(x, logits, m, scale).sum(), argnums=(0, 1))
        return (
            by_rows,
            vmap(each, (0, None))(x, means),
            vmap(each, (None, 0))(x[0], torch.stack([means, means + 1])),
        )

    torch.testing.assert_close(both(ours(p.family)), both(dense(p.family)), rtol=1e-8, atol=1e-9)


def test_an_ensemble_of_modules():
    parts = [GaussianMixture(3, 2, dtype=torch.float64) for _ in range(4)]
    stacked, buffers = stack_module_state(parts)
    base, x = copy.deepcopy(parts[0]), rows(5, 2)

    def one(tensors):
        return functional_call(base, (tensors, buffers), (x,))

    with torch.no_grad():
        torch.testing.assert_close(vmap(one)(stacked), torch.stack([m(x) for m in parts]))


# compiled, exported ------------------------------------------------------------------------------


def losses(mixture, x, loss):
    """The loss and its gradients."""
    mixture.zero_grad()
    x = x.clone().requires_grad_()
    value = loss(x)
    value.backward()
    return value.detach(), x.grad, *(t.grad.clone() for t in mixture.parameters())


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("family", ["full", "tied_diagonal"])
def test_a_loss_compiles_into_one_graph(family, dynamic):
    compiles(GaussianMixture.from_parameters(drawn(family, 3, 2)), "aot_eager", dynamic)


@pytest.mark.slow
def test_a_loss_compiles_with_inductor():
    compiles(GaussianMixture.from_parameters(drawn("full", 3, 2)), "inductor", None)


def compiles(mixture, backend, dynamic):
    torch._dynamo.reset()

    def loss(x):
        return -mixture.log_prob(2 * x).mean()

    compiled = torch.compile(loss, fullgraph=True, backend=backend, dynamic=dynamic)
    for n in (20, 33):
        x = rows(n, 2)
        torch.testing.assert_close(losses(mixture, x, compiled), losses(mixture, x, loss))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), loss(x))


@pytest.mark.parametrize("question", ["log_joint", "responsibilities", "predict"])
@pytest.mark.parametrize("tracking", [True, False])
def test_questions_compile_into_one_graph(question, tracking):
    torch._dynamo.reset()
    mixture, x = GaussianMixture.from_parameters(drawn("full", 3, 2)), rows(20, 2)
    ask = getattr(mixture, question)
    with torch.set_grad_enabled(tracking):
        got = torch.compile(ask, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(got, ask(x))


def test_transforms_compile_into_one_graph():
    torch._dynamo.reset()
    mixture, x = GaussianMixture.from_parameters(drawn("full", 3, 2)), rows(20, 2)
    each = vmap(grad(lambda row: mixture.log_prob(row[None])[0]))
    compiled = torch.compile(each, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), each(x))


@pytest.mark.parametrize("strict", [True, False])
def test_it_is_exported_for_any_number_of_rows(strict):
    mixture = GaussianMixture(3, 2)
    shapes = {"x": {0: torch.export.Dim("N", min=2, max=10**6)}}
    x = torch.randn(20, 2)
    program = torch.export.export(mixture, (x,), dynamic_shapes=shapes, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        for n in (7, 300):
            x = torch.randn(n, 2)
            torch.testing.assert_close(loaded(x), mixture(x))


@pytest.mark.parametrize("of_rows", [True, False])
def test_torch_finds_no_fault_with_the_operators(of_rows):
    p, x = drawn("full", 3, 2), rows(5, 2)
    inputs = (x, *tensors_of(p))
    torch.library.opcheck(torch.ops.torchgmm.mixture_log_prob.default, (*inputs, "full"))
    operator = torch.ops.torchgmm.mixture_log_prob_backward.default
    torch.library.opcheck(operator, (rows(5), *inputs, "full", of_rows, True))


# inside networks ---------------------------------------------------------------------------------


def test_under_autocast_the_mixture_stays_in_float32():
    encoder, mixture = torch.nn.Linear(6, 4), GaussianMixture(3, 4)
    x = torch.randn(50, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = encoder(x)
        assert z.dtype == torch.bfloat16
        answers = [q(z) for q in (mixture.log_prob, mixture.log_joint, mixture.responsibilities)]
        (-answers[0].mean()).backward()
        with torch.no_grad():
            answers.append(mixture.log_joint(z))
    got = [t.grad.clone() for t in mixture.parameters()]
    assert encoder.weight.grad is not None
    mixture.zero_grad()
    z = z.detach().float()
    expected = [q(z) for q in (mixture.log_prob, mixture.log_joint, mixture.responsibilities)]
    (-expected[0].mean()).backward()
    for one, other in zip(answers, [*expected, expected[1]], strict=True):
        assert one.dtype == torch.float32
        # another kernel may have computed it; bfloat16 would be wrong by 1e-2
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
    for one, tensor in zip(got, mixture.parameters(), strict=True):
        torch.testing.assert_close(one, tensor.grad)


def test_a_loss_trains_encoder_and_mixture():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=g)
    x[200:] += 4
    encoder, mixture = torch.nn.Linear(6, 2, bias=False), GaussianMixture(2, 2, generator=g)
    torch.nn.init.orthogonal_(encoder.weight)  # and stays so: else rows shrink to a point
    torch.nn.utils.parametrizations.orthogonal(encoder)
    before = {n: t.detach().clone() for n, t in [*encoder.named_parameters()]}
    optimizer = torch.optim.Adam([*encoder.parameters(), *mixture.parameters()], lr=0.05)
    history = []
    for _ in range(60):
        loss = -mixture.log_prob(encoder(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < history[0] - 0.5
    assert any(not torch.equal(before[n], t) for n, t in encoder.named_parameters())


def test_a_frozen_mixture_stays_as_it_is():
    encoder, mixture = torch.nn.Linear(6, 2), GaussianMixture(2, 2).requires_grad_(False)
    before = copy.deepcopy(mixture.state_dict())
    optimizer = torch.optim.SGD([*encoder.parameters(), *mixture.parameters()], lr=0.1)
    (-mixture.log_prob(encoder(torch.randn(20, 6))).mean()).backward()
    optimizer.step()
    assert float(encoder.weight.grad.abs().max()) > 0
    assert all(torch.equal(before[name], t) for name, t in mixture.state_dict().items())


class Two(torch.nn.Module):
    """Two mixtures of different families on parts of the features."""

    def __init__(self):
        super().__init__()
        self.left = GaussianMixture(2, 3)
        self.right = GaussianMixture(4, 2, covariance="diagonal")

    def forward(self, x):
        return self.left(x[:, :3]) + self.right(x[:, 3:])


def test_several_mixtures_in_one_model():
    model, x = Two(), torch.randn(20, 5)
    names = [name for name, _ in model.named_parameters()]
    assert names == [f"{part}.{t}" for part in ("left", "right") for t in NAMES]
    (-model(x).mean()).backward()
    assert all(float(t.grad.abs().max()) > 0 for t in model.parameters())
    other = Two()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), model(x))


def test_it_trains_under_ddp(tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0,
                            world_size=1)  # fmt: skip
    try:
        model, x = Two(), torch.randn(20, 5)
        expected = copy.deepcopy(model)
        wrapped = DistributedDataParallel(model)
        for m in (wrapped, expected):
            optimizer = torch.optim.Adam(m.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                (-m(x).mean()).backward()
                optimizer.step()
        for one, other in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one, other)
    finally:
        dist.destroy_process_group()


# memory ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backward_pass_of_a_million_rows_adds_less_than_300_mb():
    found = measured(
        "mixture = tg.GaussianMixture(K, D)\n"
        "(-mixture.log_prob(x[:5000]).mean()).backward()\n"
        "def forward():\n"
        "    global loss\n"
        "    loss = -mixture.log_prob(x).mean()\n"
        "found['forward'] = extra(forward)\n"
        "found['backward'] = extra(lambda: loss.backward())\n"
        "x.requires_grad_()\n"
        "forward()\n"
        "found['of the rows too'] = extra(lambda: loss.backward())\n",
        d=32,
        k=64,
    )
    # N x K in float32 would be 256 MB, N x K x D 8 GB; the gradient of the rows itself is 128 MB
    assert max(found.values()) < 300e6, found
