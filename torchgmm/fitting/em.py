"""Exact expectation-maximisation: every step reads all rows once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..checks import check_count
from ..data import Source
from ..errors import InputError, SingularCovarianceError
from ..kernels import Kernel, as_kernel
from ..moments import Moments
from ..parameters import Parameters, from_moments
from .base import Method, Problem, State, Step
from .rescue import Rescue, reseeded

__all__ = ["EM"]


@dataclass(frozen=True)
class EM(Method):
    """Exact EM (Dempster, Laird & Rubin 1977): the likelihood never falls.

    A step sums the moments of all rows about the current means and takes the parameters that
    maximise their likelihood; sums and M-step are in float64 whatever the rows are.

    Args:
        max_iter: most steps.
        reg_covar: floor, added to the diagonal of every covariance; absolute, in squared units of
            the data, as scikit-learn's. Data of another scale want another floor.
        rescue: the policy for components that empty or collapse.
        kernel: how the E-step is computed: `auto` or a name from `kernels()`.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> mixture = tg.GaussianMixture(2)
        >>> tg.fit(mixture, x, tg.EM(max_iter=500), stop=tg.Tolerance(1e-6), generator=0).converged
        True
    """

    max_iter: int = 100
    reg_covar: float = 1e-6
    rescue: Rescue = field(default_factory=Rescue)
    kernel: str = "auto"

    def __post_init__(self) -> None:
        check_count("max_iter", self.max_iter, least=0)
        if not 0 <= self.reg_covar < float("inf"):
            raise InputError(f"reg_covar must be at least 0 and finite, got {self.reg_covar}")
        as_kernel(self.kernel)

    def init(self, parameters: Parameters) -> State:
        return State(parameters)

    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        kernel = as_kernel(self.kernel)
        moments, rows = one_pass(problem.source, kernel, state.parameters)
        log_likelihood = float(moments.mean_log_prob)
        if not moments.is_finite():
            return state, Step(float("nan"), rows, kernel=kernel.name)
        empty, collapsed = self.rescue.find(moments, state.parameters.family, self.reg_covar)
        self.rescue.check(empty, collapsed)
        parameters = self._maximise(moments, state.parameters, empty)
        chosen = self.rescue.chosen(empty, collapsed, state.rescues)
        rescued = int(chosen.sum())
        if rescued:
            parameters = reseeded(
                parameters, chosen, moments, problem.source, kernel, self.reg_covar
            )
        step = Step(log_likelihood, rows, 0.0, rescued, int(collapsed.sum()), kernel.name)
        return State(parameters, state.step + 1, state.rescues + rescued), step

    def _maximise(self, moments: Moments, before: Parameters, empty: Tensor) -> Parameters:
        """The M-step; a component without rows keeps its mean and covariance."""
        after, hopeless = from_moments(moments, before.family, self.reg_covar)
        if not before.family.tied and bool(empty.any()):
            mask = empty.reshape(-1, *[1] * before.family.n_axes)
            scale = torch.where(mask, before.scale, after.scale)
            means = torch.where(empty.unsqueeze(-1), before.means, after.means)
            after = Parameters(after.logits, means, scale, after.family)
            hopeless = hopeless & ~empty
        if bool(hopeless.any()):
            raise SingularCovarianceError(hopeless.nonzero().flatten().tolist(), self.reg_covar)
        return after


def one_pass(source: Source, kernel: Kernel, parameters: Parameters) -> tuple[Moments, int]:
    """The moments of all rows about the current means, and how many rows there were."""
    moments, rows = None, 0
    for block in source.blocks():
        part = kernel.accumulate(block.x, block.w, parameters)
        moments = part if moments is None else moments + part
        rows += len(block.x)
    if moments is None:
        raise InputError("the source gave no rows of positive weight")
    return moments, rows
