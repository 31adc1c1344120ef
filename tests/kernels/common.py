"""How moments of a kernel on any device are compared with those of another."""

import pytest
import torch

from torchgmm import EM, GaussianMixture
from torchgmm.moments import Moments

FIELDS = tuple(Moments.__dataclass_fields__)


def agrees(got, expected, rtol=1e-5):
    """Every field, relative to its largest entry."""
    for field in FIELDS:
        a, b = getattr(got, field).cpu(), getattr(expected, field)
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


def fits_as_dense(name, case, device):
    """A fit with the kernel of this name is made by it, and is the fit of `dense`."""
    x, start = case.rows(torch.float32), case.start("full")
    levels = []
    for kernel, place in ((name, device), ("dense", torch.device("cpu"))):
        mixture = GaussianMixture(case.k, device=place)
        result = mixture.fit(x, EM(max_iter=3, kernel=kernel), init=start.to(device=place))
        assert {step.kernel for step in result.history} == {kernel}
        levels.append([step.log_likelihood for step in result.history])
    assert levels[0] == pytest.approx(levels[1], rel=1e-5)
