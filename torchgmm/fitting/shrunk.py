"""EM for few rows in many dimensions: covariances are drawn towards round ones at every M-step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..kernels import Kernel
from ..moments import Moments
from ..parameters import Parameters
from .base import Problem, Step
from .em import EM, EMState
from .mstep import MStep

__all__ = ["ShrunkEM", "shrunk"]

Shrinkage = float | Literal["auto"]


@dataclass(frozen=True)
class ShrunkEM(EM):
    """EM whose covariances are `(1 - a) S + a tr(S) / D I`, with the maximum-likelihood S.

    `auto` takes the `a` of the oracle-approximating estimator (Chen, Wiesel, Eldar & Hero 2010)
    for the rows that a component has: much where they are few beside D, none in the end. The
    likelihood may fall in a step, as it is not what is maximised.

    Args:
        shrinkage: `a` within 0 and 1, or `auto`.
    """

    shrinkage: Shrinkage = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shrinkage != "auto" and not 0 <= self.shrinkage <= 1:
            raise InputError(f"shrinkage must be auto or within 0 and 1, got {self.shrinkage!r}")

    def _maximised(
        self,
        moments: Moments,
        rows: int,
        state: EMState,
        problem: Problem,
        kernel: Kernel,
        at: Parameters | None = None,
    ) -> tuple[MStep, Step]:
        after, step = super()._maximised(moments, rows, state, problem, kernel, at)
        p = shrunk(after.parameters, moments.weight, self.shrinkage)
        return replace(after, parameters=p), step


def shrunk(p: Parameters, weight: Tensor, shrinkage: Shrinkage) -> Parameters:
    """Parameters whose covariances are drawn towards `tr(S) / D I`.

    Args:
        p: of any family; those with one variance for all features stay as they are.
        weight: `(*B, K)` how many rows each covariance is estimated from.
        shrinkage: how far, 0 to 1, or `auto`.
    """
    d, family = p.n_features, p.family
    factor = family.factor(p.scale)
    matrix = family.n_axes == 2
    s = factor @ factor.mT if matrix else factor.square()
    if not matrix and s.shape[-1] != d:
        return p
    n = family.pool(weight, 0)
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1) if matrix else s.sum(-1)
    squares = s.square().sum((-1, -2) if matrix else -1)
    a = torch.full_like(trace, 0.0 if shrinkage == "auto" else float(shrinkage))
    if shrinkage == "auto":
        a = _oracle(trace, squares, n, d)
    return Parameters(p.logits, p.means, family.rounded(p.scale, a, trace / d), family)


def _oracle(trace: Tensor, squares: Tensor, n: Tensor, d: int) -> Tensor:
    """The shrinkage of OAS from `tr S`, `tr S^2` and the number of rows (their equation 23).

    As scikit-learn has it: the factors `1 - 2 / D` are left out, which makes it a little more.
    """
    mean = trace / d
    power = squares / d**2
    above = power + mean.square()
    below = (n + 1) * (power - mean.square() / d)
    a = torch.where(below > 0, above / below.clamp_min(torch.finfo(below.dtype).tiny), 1.0)
    return a.clamp(max=1.0)
