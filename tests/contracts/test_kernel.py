"""The contract of a kernel: equal to the naive float64 definition, whatever the case and the cut.

A new kernel joins by being registered. What runs on a GPU alone runs here in an interpreter, and
with `--device cuda` every kernel runs there.
"""

import pytest
import torch

from tests.cases import CASES, EASY, FAMILIES, FLOATS, drawn, one_of
from tests.definition import STRUCTURES, e_step, log_joint, naive
from torchgmm.kernels import as_kernel, kernels
from torchgmm.moments import Moments

every_kernel = pytest.mark.parametrize("kernel", kernels())
every_family = pytest.mark.parametrize("family", FAMILIES)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)

# Relative to the size of log p. float32: eps 1e-7 times the Mahalanobis distances of the row, which
# cancel against nothing. float64: the naive definition itself solves with Sigma, condition 1e6.
FIELDS = tuple(Moments.__dataclass_fields__)
LOG_PROB = {torch.float32: 2e-5, torch.float64: 1e-9}


def joint_of(kernel, x, parameters, device="cpu"):
    """`log pi_k N` of all rows, computed on the device."""
    rows, p = x.to(device), parameters.to(device=device)
    parts = [joint.clone() for _, joint in as_kernel(kernel).log_joint(rows, p)]
    return torch.cat(parts, -1).cpu()


def moments_of(kernel, x, w, parameters, device="cpu"):
    """Moments of all rows, computed on the device."""
    weights = None if w is None else w.to(device)
    found = as_kernel(kernel).accumulate(x.to(device), weights, parameters.to(device=device))
    assert {getattr(found, f).device.type for f in FIELDS} == {torch.device(device).type}
    return Moments(*(getattr(found, f).cpu() for f in FIELDS))


def whole(moments, other, rtol):
    """Every sum of two moments agrees, relative to the largest entry of that sum."""
    for field in ("weight", "first", "second", "log_prob", "rows"):
        a, b = getattr(moments, field), getattr(other, field)
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


@every_kernel
@every_family
@every_case
@every_dtype
def test_log_joint_is_the_definition(kernel, family, case, dtype, device):
    case = case.of(family)
    x, p = case.rows(dtype), case.start(family)
    got = joint_of(kernel, x, p, device)
    expected = log_joint(x, naive(p))
    assert got.dtype == dtype
    scale = expected.abs() + 1
    worst = float(((got - expected).abs() / scale).max())
    assert worst < LOG_PROB[dtype]


@every_kernel
@every_family
@every_case
@every_dtype
def test_moments_are_the_definition(kernel, family, case, dtype, device):
    case = case.of(family)
    x, p = case.rows(dtype), case.start(family)
    w = torch.linspace(0.1, 3, len(x), dtype=dtype)
    for weights in (None, w):
        got = moments_of(kernel, x, weights, p, device)
        sums = e_step(x, weights, naive(p))
        second = STRUCTURES[family].reduce(sums.scatter)
        rows = torch.tensor(float(len(x)) if weights is None else float(w.double().sum()))
        expected = Moments(sums.weight, sums.first, second, sums.log_prob, rows.double(), p.means)
        assert torch.equal(got.frame, p.means)
        # float32: products of 2000 rows in float32, first moments that nearly cancel
        whole(got, expected, {torch.float32: 1e-4, torch.float64: 1e-8}[dtype])


@every_kernel
@every_family
@every_dtype
def test_moments_are_float64_whatever_the_rows_are(kernel, family, dtype, device):
    p = EASY[0].start(family)
    m = moments_of(kernel, EASY[0].rows(dtype), None, p, device)
    for field in ("weight", "first", "second", "log_prob", "rows", "frame"):
        assert getattr(m, field).dtype == torch.float64
    assert m.weight.shape == (3,)
    assert m.log_prob.shape == m.rows.shape == ()
    assert m.second.shape == p.scale.shape


@every_kernel
@every_family
@every_dtype
@pytest.mark.parametrize("budget", [1, 10_000, 2**30])
def test_the_chunk_budget_does_not_matter(kernel, family, dtype, budget, device):
    x, p = EASY[1].rows(dtype), EASY[1].start(family)
    w = torch.linspace(0, 1, len(x), dtype=dtype)
    small = type(as_kernel(kernel))(budget=budget)
    rounding = 100 * torch.finfo(dtype).eps  # 400 rows in another order
    whole(moments_of(small, x, w, p, device), moments_of(kernel, x, w, p, device), rounding)
    seen = torch.zeros(len(x))
    for part, joint in small.log_joint(x.to(device), p.to(device=device)):
        seen[part] += 1
        assert joint.shape == (3, part.stop - part.start)
    assert bool((seen == 1).all())


@every_kernel
@every_family
@every_dtype
def test_rows_may_lie_column_by_column(kernel, family, dtype, device):
    x, p = EASY[1].rows(dtype).to(device), EASY[1].start(family)
    columns = x.T.contiguous().T
    rounding = 100 * torch.finfo(dtype).eps
    chunked = type(as_kernel(kernel))(budget=20_000)
    by_columns = moments_of(chunked, columns, None, p, device)
    whole(by_columns, moments_of(chunked, x, None, p, device), rounding)
    joint, expected = (joint_of(kernel, rows, p, device) for rows in (columns, x))
    torch.testing.assert_close(joint, expected, rtol=rounding, atol=rounding)


@every_kernel
@every_family
@pytest.mark.parametrize("batch", [(2,), (2, 3)])
@pytest.mark.parametrize("own_rows", [False, True], ids=["shared rows", "own rows"])
def test_a_batch_of_mixtures_is_a_loop(kernel, family, batch, own_rows, device):
    p = drawn(family, 3, 4, batch)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(*(batch if own_rows else ()), 70, 4, generator=g, dtype=torch.float64)
    w = torch.rand(*x.shape[:-1], generator=g, dtype=torch.float64)
    chunked = type(as_kernel(kernel))(budget=5000)  # several chunks
    joined, joint = moments_of(chunked, x, w, p, device), joint_of(kernel, x, p, device)
    for index in torch.cartesian_prod(*map(torch.arange, batch)).reshape(-1, len(batch)):
        at = tuple(index.tolist())
        rows, weights = (x[at], w[at]) if own_rows else (x, w)
        alone = moments_of(kernel, rows, weights, one_of(p, at), device)
        taken = Moments(*(getattr(joined, f)[at] for f in FIELDS))
        whole(taken, alone, 1e-12)  # the same sums in another order
        torch.testing.assert_close(joint[at], joint_of(kernel, rows, one_of(p, at), device))


@every_kernel
@every_family
@every_dtype
def test_parameters_may_have_more_digits_than_the_rows(kernel, family, dtype, device):
    # a mean between two float32 numbers: half a unit in the last place at 3e4 is 1e-3
    case = CASES[-1]
    p = case.start(family)
    m = moments_of(kernel, case.rows(dtype), None, p, device)
    assert m.frame.dtype == torch.float64
    shifted = e_step(case.rows(dtype), None, naive(p))
    error = ((m.first - shifted.first) / shifted.weight[:, None]).abs().max()
    assert float(error) < 1e-5  # of a standard deviation; rounding the means would cost 1e-3


@every_kernel
@every_family
@every_dtype
def test_rows_at_an_absurd_distance_stay_finite(kernel, family, dtype, device):
    p = drawn(family, 3, 4)
    far = {torch.float32: 1e15, torch.float64: 1e140}[dtype]  # the largest that checks let pass
    x = torch.zeros(5, 4, dtype=dtype)
    x[1], x[2], x[3, 0] = far, -far, far
    assert bool(torch.isfinite(joint_of(kernel, x, p, device)).all())
    assert moments_of(kernel, x, None, p, device).is_finite()


@every_kernel
@every_family
@every_dtype
def test_far_rows_and_a_tight_component_never_make_a_nan(kernel, family, dtype, device):
    # the tight component's squares overflow on the far rows, which belong wholly to the other
    far = {torch.float32: 1e14, torch.float64: 1e139}[dtype]
    tight = drawn(family, 2, 3)
    p = type(tight)(tight.logits, tight.means.clone(), tight.scale, tight.family)
    p.means[0], p.means[1] = 0, far
    if not p.family.tied:
        factor = p.family.factor(p.scale)
        size = torch.tensor([1e-9, 0.01 * far], dtype=torch.float64)
        size = size.reshape(-1, *[1] * p.family.n_axes)
        p = type(tight)(p.logits, p.means, p.family.unconstrained(size * factor), p.family)
    x = torch.zeros(6, 3, dtype=dtype)
    x[3:] = far
    assert bool(torch.isfinite(joint_of(kernel, x, p, device)).all())
    assert moments_of(kernel, x, None, p, device).is_finite()


@every_kernel
@every_dtype
def test_a_component_of_weight_zero_gets_nothing(kernel, dtype, device):
    p = EASY[0].start("full")
    p.logits[1] = -torch.inf
    m = moments_of(kernel, EASY[0].rows(dtype), None, p, device)
    assert m.is_finite()
    assert float(m.weight[1]) == 0
    assert float(m.weight.sum()) == pytest.approx(500, rel=1e-6)  # float32 chunk sums


@every_kernel
def test_one_row_and_one_feature_are_enough(kernel, device):
    p = drawn("full", 2, 1)
    x = torch.tensor([[0.5]], dtype=torch.float64)
    torch.testing.assert_close(joint_of(kernel, x, p, device), log_joint(x, naive(p)))
    assert float(moments_of(kernel, x, None, p, device).weight.sum()) == pytest.approx(1)


@every_kernel
@every_family
@every_dtype
def test_log_prob_is_the_sum_over_components(kernel, family, dtype, device):
    x, p = EASY[1].rows(dtype), EASY[1].start(family)
    got = as_kernel(kernel).log_prob(x.to(device), p.to(device=device)).cpu()
    assert got.dtype == dtype
    expected = joint_of(kernel, x, p, device).logsumexp(-2)
    torch.testing.assert_close(got, expected)


@every_kernel
@every_family
def test_equal_calls_give_equal_bits(kernel, family, device):
    x, p = EASY[1].rows(torch.float32), EASY[1].start(family)
    first, second = (moments_of(kernel, x, None, p, device) for _ in range(2))
    for field in FIELDS:
        assert torch.equal(getattr(first, field), getattr(second, field))
