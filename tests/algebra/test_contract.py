"""What every operation keeps to: families, dtypes, modules and values, batches, gradients."""

import pytest
import torch

from tests.algebra.common import TENSORS, as_module, leaves, near, tensors
from tests.cases import FAMILIES, FLOATS, one_of
from torchgmm import GaussianMixture, InputError, Parameters
from torchgmm import algebra as al

every_family = pytest.mark.parametrize("family", FAMILIES)
MATRIX = [[1.0, 0.5, 0.0], [0.0, 2.0, -1.0]]
VALUES = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)


def every_pair(names, of_common_axes):
    """Families and operations; common axes become full at the door, so that a few are enough."""
    few = {"common_axes": of_common_axes}
    pairs = [(f, n) for f in FAMILIES for n in names if n in few.get(f, names)]
    return pytest.mark.parametrize(("family", "name"), pairs)


# mixtures from a mixture: the operation, and the batch axes that it adds
MAKES = {
    "marginal": (lambda m: al.marginal(m, [2, 0]), ()),
    "condition": (lambda m: al.condition(m, [2, 0], VALUES), (2,)),
    "condition-one": (lambda m: al.condition(m, [1], [0.5]), ()),
    "affine": (lambda m: al.affine(m, MATRIX, [1.0, 2.0]), ()),
    "scaled": (lambda m: al.affine(m, 2.0), ()),
    "merge": (lambda m: al.merge(m, 2), ()),
    "merge-within": (lambda m: al.merge(m, 2, covariance="tied_diagonal"), ()),
    "product": (lambda m: al.product(m, m).mixture, ()),
}
# numbers from a mixture: (*B, ...) out
TELLS = {
    "regress-mean": lambda m: al.regress(m, [2, 0], VALUES).mean,
    "regress-variance": lambda m: al.regress(m, [2, 0], VALUES).variance,
    "log-normaliser": lambda m: al.product(m, other_of(m)).log_normaliser,
    "log-overlap": lambda m: al.log_overlap(m, other_of(m)),
    "l2": lambda m: al.l2_distance(m, other_of(m)),
    "cauchy-schwarz": lambda m: al.cauchy_schwarz_divergence(m, other_of(m)),
    "kl": lambda m: al.kl_divergence(m, other_of(m), generator=torch.Generator().manual_seed(0))[0],
}


def other_of(m):
    """Another mixture of the same family, batch and dtype, to go with it."""
    p = m.as_parameters() if isinstance(m, GaussianMixture) else m
    return Parameters(p.logits.flip(-1), p.means.sin(), p.scale * 0.5, p.family)


@every_family
@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_a_mixture_comes_back_as_it_was_given(family, name, dtype, batch):
    make, added = MAKES[name]
    p = near(family, batch=batch).to(dtype)
    value, module = make(p), make(as_module(p))
    assert isinstance(value, Parameters)
    assert isinstance(module, GaussianMixture)
    assert module.batch_shape == value.batch_shape == (*batch, *added)
    assert module.dtype == value.means.dtype == value.logits.dtype == value.scale.dtype == dtype
    assert module.family == value.family
    assert value.scale.shape == module.scale.shape  # and so the shape that the family asks for
    for name in TENSORS:
        assert torch.equal(getattr(module, name), getattr(value, name))
    assert value.is_finite()


@every_family
@pytest.mark.parametrize("name", [*MAKES, *TELLS])
def test_a_batch_is_answered_as_its_mixtures_are(family, name):
    batch = near(family, batch=(2,))
    alone = [one_of(batch, b) for b in range(2)]
    if name in MAKES:
        together = MAKES[name][0](batch)
        for b in range(2):
            for found, expected in zip(
                tensors(together), tensors(MAKES[name][0](alone[b])), strict=True
            ):
                torch.testing.assert_close(found[b], expected)
    elif name != "kl":  # its rows are drawn for the whole batch
        together = TELLS[name](batch)
        for b in range(2):
            torch.testing.assert_close(together[b], TELLS[name](alone[b]))


@every_family
@pytest.mark.parametrize("name", [*MAKES, *TELLS])
def test_float32_agrees_with_float64(family, name):
    exact, single = near(family), near(family).to(torch.float32)
    rounded = single.to(torch.float64)  # computed in float64: only the answer is rounded
    if name in MAKES:
        pairs = zip(tensors(MAKES[name][0](single)), tensors(MAKES[name][0](rounded)), strict=True)
    else:
        pairs = [(TELLS[name](single), TELLS[name](rounded))]
    for found, expected in pairs:
        # other_of is rounded to float32 on the way as well
        torch.testing.assert_close(found.double(), expected, rtol=3e-5, atol=3e-6)
    assert exact.means.dtype == torch.float64


@every_pair([n for n in MAKES if n != "condition-one"], ("marginal", "scaled"))
def test_gradients_flow_through_parameters(family, name):
    p = near(family, k=3)
    make = MAKES[name][0]

    def made(*given):
        answer = make(Parameters(*given, p.family))
        return answer.log_weights, answer.means, answer.scale

    assert torch.autograd.gradcheck(made, tensors(leaves(p)))


@every_pair([n for n in TELLS if n != "kl"], ("log-overlap",))
def test_gradients_flow_into_numbers(family, name):
    p = near(family, k=2)

    def told(*given):
        return TELLS[name](Parameters(*given, p.family))

    assert torch.autograd.gradcheck(told, tensors(leaves(p)))


@pytest.mark.parametrize("name", TELLS)
def test_numbers_have_gradients_in_a_module(name):
    module = as_module(near("full"))
    TELLS[name](module).sum().backward()
    for tensor in module.parameters():
        assert float(tensor.grad.abs().max()) > 0


PAIRS = (al.product, al.log_overlap, al.l2_distance, al.cauchy_schwarz_divergence, al.kl_divergence)


@pytest.mark.parametrize("ask", PAIRS)
def test_pairs_must_fit_and_are_broadcast(ask):
    p = near("full", d=3)
    with pytest.raises(InputError, match="have 3 and 2 features"):
        ask(p, near("full", d=2))
    with pytest.raises(InputError, match=r"batch shapes \(2,\) and \(3,\) do not fit"):
        ask(near("full", batch=(2,)), near("full", batch=(3,)))
    with pytest.raises(InputError, match="a GaussianMixture or Parameters, got list"):
        ask(p, [1, 2])
    found = ask(p, near("diagonal", batch=(2,)))
    shape = found[1].shape if isinstance(found, tuple) else found.shape
    assert shape == (2,)


@pytest.mark.parametrize("ask", PAIRS)
def test_pairs_meet_in_the_wider_dtype(ask):
    p, q = near("full").to(torch.float32), near("tied")
    found = ask(p, q)
    assert (found[1] if isinstance(found, tuple) else found).dtype == torch.float64


def test_a_mixture_without_size_says_so():
    with pytest.raises(RuntimeError, match="needs a mixture with known n_features"):
        al.marginal(GaussianMixture(2), [0])
