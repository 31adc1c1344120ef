"""`log_prob` under the transforms of torch.func."""

import copy

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from tests.autograd.common import dense, ours, rows, tensors_of
from tests.cases import drawn
from torchgmm import GaussianMixture


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
