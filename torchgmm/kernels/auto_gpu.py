"""The choice of a kernel on a GPU: the fewest operations, as far as the digits allow."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..moments import Moments
from ..parameters import Parameters
from .base import Kernel
from .costs_gpu import formed_cost, fused_cost, products_cost
from .formed import TritonQuadratic
from .quadratic import Quadratic, QuadraticPlan
from .screen import turned
from .screened import Screened, best_plan
from .triton import Triton

__all__ = ["AutoGPU"]

# Finding out whether products keep the digits: some fifty launches, during which other kernels
# could make so many operations.
_PLANNING = 1e10
_MANY = 256  # components, below which little is to be dismissed
# A pass must cost so many times what a probe does: some hundred launches, and for matrices so many
# operations for each of K D^3.
_PAYS, _PROBE, _PROBE_CUBIC = 20, 6e10, 20


class AutoGPU:
    """What `auto` does where Triton's kernels run.

    Args:
        budget: bytes of the buffers of a chunk.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._triton, self._formed = Triton(budget), TritonQuadratic(budget)
        self._library, self._screened = _Library(budget), Screened(budget)

    def accumulate(self, x: Tensor, w: Tensor | None, p: Parameters) -> tuple[str, Moments]:
        """The name of the kernel that was chosen, and what it finds."""
        best = self._quadratic(x, p)
        cost = fused_cost(p, x.dtype) if best is None else best.cost
        if _may_screen(x, p, cost):
            mixture = turned(p, x.dtype)
            plan = best_plan(x, p, mixture)
            if plan is not None and plan.cost < cost:
                return self._screened.name, self._screened.planned(x, w, p, mixture, plan)
        if best is None:
            return self._triton.name, self._triton.accumulate(x, w, p)
        return best.kernel.name, best.kernel.planned(x, w, p, best.plan)

    def _quadratic(self, x: Tensor, p: Parameters) -> _Choice | None:
        """The better one of the kernels with quadratic features, where they pay and are exact."""
        fused = fused_cost(p, x.dtype)
        gain = fused - min(formed_cost(p, x.dtype), products_cost(p, x.dtype))
        rows = x.shape[-2] * p.batch_shape.numel()
        if rows * gain < _PLANNING:
            return None
        plan = self._formed.plan(x, p)
        if not plan.dtypes:
            return None
        dtype = plan.dtypes[0]
        choices = (
            _Choice(formed_cost(p, dtype), self._formed, plan),
            _Choice(products_cost(p, dtype), self._library, plan),
        )
        best = min(choices, key=lambda choice: choice.cost)
        return best if best.cost < fused else None


class _Library(Quadratic):
    """`quadratic`, with `triton` for what it cannot do."""

    def _dense(self) -> Kernel:
        return Triton(self.budget)


class _Choice(NamedTuple):
    cost: float
    kernel: Quadratic
    plan: QuadraticPlan


def _may_screen(x: Tensor, p: Parameters, cost: float) -> bool:
    """Whether a probe could pay, given what a row costs without it."""
    if p.family.tied or p.batch_shape or p.n_components < _MANY:
        return False
    k, d = p.means.shape
    probe = _PROBE + (_PROBE_CUBIC * k * d**3 if p.family.n_axes == 2 else 0)
    return len(x) * cost > _PAYS * probe
