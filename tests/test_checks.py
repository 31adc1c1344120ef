"""What a user hands in, looked at directly: dtypes, counts, finiteness at the edges."""

import numpy as np
import pytest
import torch

from torchgmm import InputError
from torchgmm.checks import (
    as_generator,
    check_count,
    check_finite,
    check_rows,
    check_weights,
    compute_dtype,
    place_of,
)

F16, B16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
MEETINGS = [
    (F32, F32, F32), (F64, F32, F64), (F32, F64, F64), (F64, F64, F64),
    (F16, F32, F32), (B16, F32, F32), (F16, F64, F64),
    (torch.int64, F32, F32), (torch.uint8, F32, F32), (torch.bool, F32, F32),
    (torch.int64, F64, F64), (torch.int8, F64, F64),
    (F16, F16, F32),  # a mixture that was sent to half precision is still computed in float32
]  # fmt: skip


@pytest.mark.parametrize(("rows", "mixture", "expected"), MEETINGS, ids=str)
def test_rows_and_mixture_meet_in_torchs_promotion_and_never_below_float32(rows, mixture, expected):
    assert compute_dtype(rows, mixture) == expected


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_the_limit_of_a_dtype_is_where_sums_of_squares_overflow(dtype):
    limit = {F32: 1e15, F64: 1e140}[dtype]
    check_finite(torch.tensor([[limit, -limit]], dtype=dtype), dtype)
    with pytest.raises(InputError, match="squares overflow"):
        check_finite(torch.tensor([[0, -1.01 * limit]], dtype=dtype), dtype)
    # as wide a mixture as the smallest floor of use lets be, over as many rows as can be
    assert (limit / 1e-3) ** 2 * 1e2 < torch.finfo(dtype).max


def test_float32_rows_may_be_large_where_the_computation_is_in_float64():
    check_finite(torch.tensor([[1e30]], dtype=F32), F64)


@pytest.mark.parametrize("dtype", [F16, B16, F32, F64], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_values_are_counted_and_placed(dtype, bad):
    x = torch.zeros(4, 3, dtype=dtype)
    x[2, 1] = x[3, 0] = bad
    with pytest.raises(InputError, match=r"things hold 2 NaN.*row 12, column 1"):
        check_finite(x, F32, offset=10, what="things")


def test_integers_are_exact_in_float32_up_to_2_to_24():
    edge = torch.tensor([[2**24, -(2**24)]])
    check_finite(edge, F32)
    check_finite(edge + 1, F64)
    for dtype in (torch.int32, torch.int64):
        with pytest.raises(InputError, match=r"16777217.*float32 is exact only to 16777216"):
            check_finite((edge + 1).to(dtype), F32)


@pytest.mark.parametrize(("shape", "batch", "sound"), [
    ((5, 2), 0, True), ((1, 1), 0, True), ((3, 5, 2), 1, True), ((5, 2), 1, True),
    ((5,), 0, False), ((3, 5, 2), 0, False), ((0, 2), 0, False), ((5, 0), 0, False),
    ((4, 3, 5, 2), 1, False), ((), 0, False),
])  # fmt: skip
def test_rows_are_a_table_with_at_most_the_batch_axes_before_it(shape, batch, sound):
    if sound:
        check_rows(shape, None, batch)
        check_rows(shape, shape[-1], batch)
        with pytest.raises(InputError, match=f"have {shape[-1]} columns.*n_features=99"):
            check_rows(shape, 99, batch)
    else:
        with pytest.raises(InputError, match="rows"):
            check_rows(shape, None, batch)


def test_a_count_is_an_integer_of_at_least_the_least():
    assert check_count("n", 3) == 3
    assert type(check_count("n", np.int16(3))) is int
    assert check_count("n", 0, least=0) == 0
    for wrong in (0, -1):
        with pytest.raises(InputError, match=f"n must be at least 1, got {wrong}"):
            check_count("n", wrong)
    for wrong in (1.0, True, "1", None, np.float64(2), torch.tensor(2.5)):
        with pytest.raises(InputError, match="n must be an integer"):
            check_count("n", wrong)


def test_weights_become_float64_and_lose_their_gradients():
    w = check_weights(torch.ones(3, requires_grad=True), 3)
    assert w.dtype == F64
    assert not w.requires_grad
    assert check_weights([0, 1, 2], 3).tolist() == [0, 1, 2]
    assert check_weights(np.array([1, 2], dtype=">f4"), 2).tolist() == [1, 2]
    assert check_weights(np.arange(4)[::-1][:2], 2).tolist() == [3, 2]
    assert check_weights((True, False), 2).tolist() == [1, 0]


def test_a_seed_becomes_a_generator_and_a_generator_stays_itself():
    given = torch.Generator()
    assert as_generator(given) is given
    assert as_generator(7).initial_seed() == 7
    torch.manual_seed(0)
    first = as_generator(None).initial_seed()
    torch.manual_seed(0)
    assert as_generator(None).initial_seed() == first  # torch's own seed decides
    with pytest.raises(InputError, match=r"the seed \(generator=\).*-1"):
        as_generator(-1)


def test_rows_are_computed_where_they_are_unless_asked_otherwise():
    assert place_of([[0.0]], None) == torch.device("cpu")
    assert place_of(torch.empty(1, device="meta"), None) == torch.device("meta")
    assert place_of(torch.empty(1), "meta") == torch.device("meta")
