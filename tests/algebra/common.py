"""Mixtures and integrals for the tests of the algebra."""

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cases import drawn
from tests.definition import log_joint, naive
from torchgmm import GaussianMixture, Parameters

TENSORS = ("logits", "means", "scale")


def near(family, k=3, d=3, batch=(), seed=0, condition=10.0):
    """Parameters whose components overlap."""
    p = drawn(family, k, d, batch, seed, condition)
    return Parameters(p.logits, p.means / 2, p.scale, p.family)


def density(p, x):
    """The textbook's density of one mixture at `x (..., D)`."""
    x = torch.as_tensor(x, dtype=torch.float64)
    joint = log_joint(x.reshape(-1, x.shape[-1]), naive(p.map(torch.Tensor.detach)))
    return joint.logsumexp(0).exp().reshape(x.shape[:-1]).numpy()


def grid(d, reach=12.0, n=None):
    """Points `(n^d, d)` and the volume of a cell: sums over it are integrals, to 1e-10.

    The trapezoidal rule converges faster than any power for smooth functions that vanish at the
    ends; the steps here are a fifth of the least standard deviation.
    """
    n = n or {1: 4001, 2: 601}[d]
    axis = np.linspace(-reach, reach, n)
    points = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), -1).reshape(-1, d)
    return points, (axis[1] - axis[0]) ** d


def whole_moments(p):
    """Mean and covariance of one mixture, by the textbook."""
    weights, means, covariances = naive(p)
    mean = weights @ means
    apart = means - mean
    return mean, torch.einsum("k,kij->ij", weights, covariances) + (apart.mT * weights) @ apart


def leaves(p):
    return p.map(lambda t: t.detach().clone().requires_grad_())


def tensors(p):
    return tuple(getattr(p, name) for name in TENSORS)


def as_module(p, dtype=None):
    return GaussianMixture.from_parameters(p, dtype=dtype)


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that was made."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // 8)
        return made
