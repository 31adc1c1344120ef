"""How moments of a kernel on any device are compared with those of another."""

import torch

from torchgmm.moments import Moments

FIELDS = tuple(Moments.__dataclass_fields__)


def agrees(got, expected, rtol=1e-5):
    """Every field, relative to its largest entry."""
    for field in FIELDS:
        a, b = getattr(got, field).cpu(), getattr(expected, field)
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))
