"""What mixtures are chosen by: how well one explains rows, and what its parameters cost."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Block, Source
from ..errors import InputError
from ..exact import exact
from ..kernels import as_kernel
from ..parameters import Parameters

__all__ = ["CRITERIA", "Evidence", "check_criterion", "evidence", "n_parameters"]

# name -> whether lower is better
CRITERIA = {"bic": True, "aic": True, "icl": True, "held-out": False, "cv": False}


@dataclass(frozen=True)
class Evidence:
    """Sums over rows under one mixture.

    Attributes:
        log_likelihood: summed, nats.
        entropy: of the responsibilities, summed, nats.
        rows: summed weight.
    """

    log_likelihood: float
    entropy: float
    rows: float

    @property
    def mean(self) -> float:
        """Mean log-likelihood per row, nats."""
        return self.log_likelihood / self.rows

    def criteria(self, n_free: int) -> dict[str, float]:
        """BIC (Schwarz 1978), AIC, and ICL (Biernacki, Celeux & Govaert 2000), lower is better."""
        bic = -2 * self.log_likelihood + n_free * math.log(self.rows)
        aic = -2 * self.log_likelihood + 2 * n_free
        return {"bic": bic, "aic": aic, "icl": bic + 2 * self.entropy}


@torch.no_grad()
def evidence(source: Source, parameters: Parameters, kernel: str = "auto") -> Evidence:
    """One pass over the rows, a chunk at a time: memory does not grow with rows x components."""
    log_likelihood = entropy = rows = 0.0
    computes = as_kernel(kernel)
    for block in source.blocks():
        of_chunk = functools.partial(_evidence_of, block)
        for level, doubt, weight in computes.each(block.x, parameters, of_chunk):
            log_likelihood += level
            entropy += doubt
            rows += weight
    log_likelihood, entropy, rows = source.group.total(log_likelihood, entropy, rows)
    if not rows:
        raise InputError("the source gave no rows of positive weight")
    return Evidence(log_likelihood, entropy, rows)


def _evidence_of(block: Block, part: slice, joint: Tensor) -> tuple[float, float, float]:
    log_prob = joint.logsumexp(-2)
    log_r = joint - log_prob
    least = torch.finfo(log_r.dtype).min
    own = exact(-(log_r.exp() * log_r.clamp_min(least)).sum(-2))
    w = torch.ones_like(own) if block.w is None else exact(block.w[part])
    return float(exact(log_prob) @ w), float(own @ w), float(w.sum())


def n_parameters(p: Parameters) -> int:
    """Free parameters: weights, means and covariances."""
    k, d = p.n_components, p.n_features
    return (k - 1) + k * d + p.family.n_parameters(k, d)


def check_criterion(criterion: str) -> str:
    """`criterion` if it is one."""
    if criterion not in CRITERIA:
        raise InputError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    return criterion
