"""What a device without float64 cannot do is said, before torch fails inside."""

import warnings

import pytest
import torch

import torchgmm as tg
from tests.cases import Case
from tests.without_float64.apple import THERE, placed, there
from tests.without_float64.common import X, mixture_of
from torchgmm import checks, exact
from torchgmm.images import denoise


@pytest.mark.parametrize("name", ["quadratic", "screened", "triton", "quadratic:tf32x3"])
def test_kernels_that_need_float64_are_refused_by_name(name, far):
    for batch in ((), (2,)):
        mixture = placed(tg.GaussianMixture(3, 3, batch_shape=batch))
        wanted = rf"kernel '{name.partition(':')[0]}' computes in float64.*take 'auto'"
        with pytest.raises(tg.InputError, match=wanted):
            mixture.fit(there(X), tg.EM(kernel=name), generator=0)


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
    "denoise": lambda _: denoise(torch.zeros(8, 8), placed(tg.GaussianMixture(2, 4)), 0.1),
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


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_rows_that_lose_digits_are_told_of(offset, far):
    rows = X.double() + torch.tensor([0, offset, 0])
    loses = offset > 1e5  # of columns that are about ten wide
    for batch in ((), (2,)):
        mixture = placed(tg.GaussianMixture(3, 3, batch_shape=batch))
        given = torch.stack([rows, rows]) if batch else rows
        for call in (mixture.log_prob, lambda x, m=mixture: m.fit(x, tg.EM(max_iter=1))):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", RuntimeWarning)
                call(given)
            found = [str(w.message) for w in told if "float32" in str(w.message)]
            assert bool(found) == loses
            assert all("column 1" in text and "subtract an offset" in text for text in found)


def test_large_integers_are_refused(far):
    with pytest.raises(tg.InputError, match="float32 is exact only to"):
        placed(mixture_of("full")).log_prob(torch.full((2, 3), 2**25))
    assert checks.compute_dtype(torch.float64, torch.float32, THERE) == torch.float32
