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
from .screened import Screened, probe_pays
from .triton import Triton

__all__ = ["AutoGPU"]

# Operations that other kernels could make while it is found out whether products keep the digits,
# some fifty launches, and during a probe of some rows, some hundred.
_PLANNING, _PROBE = 1e10, 6e10
_MANY = 256  # components, below which little is to be dismissed


class AutoGPU:
    """What `auto` does where Triton's kernels run.

    Args:
        budget: bytes of the buffers of a chunk.

    Attributes:
        triton: what answers questions there.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.triton, self._formed = Triton(budget), TritonQuadratic(budget)
        self._library, self._screened = _Library(budget), Screened(budget)

    def accumulate(self, x: Tensor, w: Tensor | None, p: Parameters) -> tuple[str, Moments]:
        """The name of the kernel that was chosen, and what it finds."""
        best = self._quadratic(x, p)
        cost = fused_cost(p, x.dtype) if best is None else best.cost
        if p.n_components >= _MANY and probe_pays(x, p, cost, _PROBE):
            found = self._screened.below(cost, x, w, p)
            if found is not None:
                return self._screened.name, found
        if best is None:
            return self.triton.name, self.triton.accumulate(x, w, p)
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
