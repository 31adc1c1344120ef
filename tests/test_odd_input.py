"""Odd input that is right: rows in every form of memory, and rows without spread."""

import warnings

import numpy as np
import pytest
import torch

from tests.cases import EASY, FAMILIES, blobs
from torchgmm import EM, ConvergenceWarning, GaussianMixture
from torchgmm.errors import SingularCovarianceError

PLAIN = (10 * blobs(80, 2)).round()  # whole numbers, so that every dtype holds them


def views(tmp_path):
    """The same rows in every form that memory can take."""
    x = PLAIN.numpy()
    np.save(tmp_path / "rows.npy", x)
    x.T.tofile(tmp_path / "rows.bin")
    wide = np.zeros((80, 6))
    wide[:, ::3] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    return {
        "a list": x.tolist(),
        "a tuple of tuples": tuple(map(tuple, x)),
        "a list of arrays": list(x),
        "a list of tensors": list(PLAIN),
        "an array": x,
        "column-major": np.asfortranarray(x),
        "a slice with steps": wide[:, ::3],
        "negative strides": x[::-1, ::-1].copy()[::-1, ::-1],
        "big-endian": x.astype(">f8"),
        "read-only": frozen,
        "a read-only memory map": np.load(tmp_path / "rows.npy", mmap_mode="r"),
        "a raw memory map": np.memmap(tmp_path / "rows.bin", float, "r", 0, (80, 2), "F"),
        "a path": tmp_path / "rows.npy",
        "a path as text": str(tmp_path / "rows.npy"),
        "a transposed tensor": PLAIN.T.contiguous().T,
        "a strided tensor": torch.from_numpy(wide)[:, ::3],
        "an expanded tensor": PLAIN[:, None].expand(80, 3, 2)[:, 1],
        "a tensor with gradients": PLAIN.clone().requires_grad_(),
        "int64": PLAIN.long(),
        "int32": PLAIN.int(),
        "int16 array": x.astype(np.int16),
        "long double": x.astype(np.longdouble),
        "float32": PLAIN.float(),
        "float16": PLAIN.half(),
        "bfloat16": PLAIN.bfloat16(),
    }


FORMS = [
    "a list",
    "a tuple of tuples",
    "a list of arrays",
    "a list of tensors",
    "an array",
    "column-major",
    "a slice with steps",
    "negative strides",
    "big-endian",
    "read-only",
    "a read-only memory map",
    "a raw memory map",
    "a path",
    "a path as text",
    "a transposed tensor",
    "a strided tensor",
    "an expanded tensor",
    "a tensor with gradients",
    "int64",
    "int32",
    "int16 array",
    "long double",
    "float32",
    "float16",
    "bfloat16",
]


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_any_form_give_the_same_fit(form, tmp_path):
    rows = views(tmp_path)[form]
    expected, got = (GaussianMixture(3, dtype=torch.float64) for _ in range(2))
    expected.fit(PLAIN, EM(max_iter=5), generator=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # torch warns of read-only memory
        warnings.simplefilter("ignore", ConvergenceWarning)
        got.fit(rows, EM(max_iter=5), generator=0)
    # bfloat16 has 8 bits, the rows reach 100
    assert torch.equal(got.means, expected.means)
    assert torch.equal(got.scale, expected.scale)


@pytest.mark.parametrize("form", [f for f in FORMS if "path" not in f])
def test_rows_in_any_form_give_the_same_scores(form, tmp_path):
    rows = views(tmp_path)[form]
    mixture = GaussianMixture(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(mixture.predict(rows), mixture.predict(PLAIN))
        assert torch.equal(mixture.log_prob(rows), mixture.log_prob(PLAIN))


UNSIGNED = [np.uint8, np.uint16, np.uint32, np.uint64, bool]


@pytest.mark.parametrize("kind", UNSIGNED)
def test_unsigned_and_boolean_rows_are_numbers(kind):
    x = (PLAIN.numpy() > 0) * (1 if kind is bool else 200)
    expected, got = GaussianMixture(2), GaussianMixture(2)
    expected.fit(x.astype(np.float32), EM(max_iter=3, reg_covar=1e-2), generator=0)
    got.fit(x.astype(kind), EM(max_iter=3, reg_covar=1e-2), generator=0)
    assert torch.equal(got.means, expected.means)
    assert torch.equal(got.predict(x.astype(kind)), expected.predict(x.astype(np.float32)))


def test_int64_rows_above_2_to_24_are_exact_in_a_float64_mixture():
    x = PLAIN.long() + 2**40
    near, far = (GaussianMixture(3, dtype=torch.float64) for _ in range(2))
    near.fit(PLAIN, EM(max_iter=5, reg_covar=1e-2), generator=0)
    far.fit(x, EM(max_iter=5, reg_covar=1e-2), generator=0)
    # float64 holds means near 2^40 to 2^-13
    torch.testing.assert_close(far.means - 2**40, near.means.detach(), rtol=0, atol=2e-3)


def test_weights_in_any_form_are_the_same():
    w = torch.arange(80) % 4
    answers = []
    for form in (w, w.double(), w.float(), w.numpy(), w.tolist(), w.half(), w.int()):
        mixture = GaussianMixture(3, dtype=torch.float64)
        mixture.fit(PLAIN, EM(max_iter=3), weights=form, generator=0)
        answers.append(mixture.means.detach())
    assert all(torch.equal(other, answers[0]) for other in answers)


def test_boolean_weights_choose_rows():
    kept = torch.arange(80) % 4 > 0
    one, other = (GaussianMixture(3, dtype=torch.float64) for _ in range(2))
    one.fit(PLAIN, EM(max_iter=3), weights=kept, generator=0)
    other.fit(PLAIN[kept], EM(max_iter=3), generator=0)
    torch.testing.assert_close(one.means, other.means)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
class TestDegenerateRows:
    """Rows without spread, which the floor makes a mixture of all the same."""

    def fitted(self, x, family, dtype, k=2, **options):
        mixture = GaussianMixture(k, covariance=family, dtype=dtype)
        result = mixture.fit(x.to(dtype), EM(**options), generator=0)
        assert result.parameters.is_finite()
        assert bool(torch.isfinite(mixture.log_prob(x.to(dtype))).all())
        return mixture, result

    def test_a_constant_column_has_the_floor_for_a_variance(self, family, dtype):
        x = torch.cat([blobs(60, 2), torch.full((60, 1), 5.0).double()], 1)
        mixture, _ = self.fitted(x, family, dtype, reg_covar=1e-3)
        tril = mixture.scale_tril.detach().double()
        if "spherical" not in family:
            variance = (tril @ tril.mT)[:, 2, 2]
            torch.testing.assert_close(variance, torch.full((2,), 1e-3).double(), rtol=1e-4, atol=0)
        torch.testing.assert_close(mixture.means[:, 2].detach(), torch.full((2,), 5, dtype=dtype))

    def test_all_rows_equal_is_a_point_with_the_floor(self, family, dtype):
        x = torch.tensor([[3.0, -2.0]]).double().expand(20, 2)
        mixture, result = self.fitted(x, family, dtype, reg_covar=0.25)
        expected = torch.tensor([[3.0, -2.0]] * 2, dtype=dtype)
        torch.testing.assert_close(mixture.means.detach(), expected)
        tril = mixture.scale_tril.detach()
        floor = (0.25 * torch.eye(2, dtype=dtype)).expand(2, 2, 2)
        torch.testing.assert_close(tril @ tril.mT, floor)
        assert result.converged

    def test_without_a_floor_it_is_an_error_that_names_it(self, family, dtype):
        x = torch.full((20, 2), 3.0, dtype=dtype)
        message = "no spread in some direction.*reg_covar=0.*larger reg_covar"
        with pytest.raises(SingularCovarianceError, match=message):
            GaussianMixture(2, covariance=family, dtype=dtype).fit(x, EM(reg_covar=0), generator=0)

    def test_duplicated_rows_change_nothing(self, family, dtype):
        x, start = EASY[0].rows(dtype), EASY[0].start(family)
        answers = []
        for rows in (x, torch.cat([x, x])):
            mixture = GaussianMixture(3, covariance=family, dtype=dtype)
            answers.append(mixture.fit(rows, EM(max_iter=1), init=start).parameters)
        once, twice = answers
        # the same sums in another order
        rtol = {torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
        torch.testing.assert_close(twice.means, once.means, rtol=rtol, atol=rtol)
        torch.testing.assert_close(twice.scale, once.scale, rtol=rtol, atol=rtol)

    def test_as_many_components_as_rows_is_one_for_each(self, family, dtype):
        x = 100 * torch.eye(4, dtype=torch.float64)
        mixture, _ = self.fitted(x, family, dtype, k=4, reg_covar=1.0)
        assert sorted(mixture.predict(x).tolist()) == [0, 1, 2, 3]

    def test_one_component_and_one_row_will_do(self, family, dtype):
        x = torch.tensor([[1.0, 2.0]]).double()
        mixture, _ = self.fitted(x, family, dtype, k=1, reg_covar=1.0)
        torch.testing.assert_close(mixture.means.detach(), x.to(dtype))
