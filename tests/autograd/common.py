"""What the tests under autograd share."""

import pytest
import torch

from tests.cases import FAMILIES
from torchgmm import Parameters
from torchgmm.kernels import joint_log_prob, log_prob

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
