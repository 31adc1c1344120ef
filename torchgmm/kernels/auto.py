"""The kernel that chooses the kernel: by shape, dtype, what rounding allows, and a probe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ..moments import Moments
from ..parameters import Parameters
from .base import Kernel, register
from .dense import Dense
from .quadratic import Quadratic
from .screen import turned
from .screened import Screened, best_plan, dense_cost, elementwise

__all__ = ["Auto"]

# A product in float64 takes so many times as long as one in float32.
_DOUBLE = 2.2
# A pass must cost so many times what a probe does: that is a fixed sum, and for matrices so many
# operations for each of K D^3.
_PAYS, _PROBE, _PROBE_CUBIC = 20, 3e8, 20
# Operations per pair of row and component of a soft-max.
_SOFT_MAX = 10


@register
class Auto(Kernel):
    """The fastest of the others for the rows and the mixture at hand.

    The choice follows from operation counts with constants measured on two AVX-512 cores (see
    `benchmarks/`), from whether `Quadratic` keeps the digits, and, where single pairs might be
    dismissed, from a probe of some rows. It is made anew for every call, so it follows a fit from
    its blurred start to its sharp end. `ran` says which kernel it was.
    """

    name: ClassVar[str] = "auto"

    def __init__(self, budget: int | None = None) -> None:
        options = {} if budget is None else {"budget": budget}
        self._dense = Dense(**options)
        self._quadratic = Quadratic(**options)
        self._screened = Screened(**options)
        self._last = ""

    @property
    def ran(self) -> str:
        return self._last or self.name

    def log_joint(self, x: Tensor, parameters: Parameters) -> Iterator[tuple[slice, Tensor]]:
        cheap = _quadratic_cost(parameters, double=True) < dense_cost(parameters, x.dtype)
        return (self._quadratic if cheap else self._dense).log_joint(x, parameters)

    def accumulate(self, x: Tensor, w: Tensor | None, parameters: Parameters) -> Moments:
        kernel, cost = self._plain(x, parameters)
        if self._may_screen(x, parameters, cost):
            mixture = turned(parameters, x.dtype)
            plan = best_plan(x, parameters, mixture)
            if plan is not None and plan.cost < cost:
                self._last = self._screened.name
                return self._screened.planned(x, w, parameters, mixture, plan)
        self._last = kernel.name
        return kernel.accumulate(x, w, parameters)

    def _may_screen(self, x: Tensor, parameters: Parameters, cost: float) -> bool:
        """Whether a probe could pay, given what a row costs without it."""
        if parameters.family.tied or parameters.batch_shape:
            return False
        if x.device.type != "cpu":  # sums over tiles would run in no fixed order there
            return False
        k, d = parameters.means.shape
        probe = _PROBE + (_PROBE_CUBIC * k * d**3 if parameters.family.n_axes == 2 else 0)
        least = 4 * k * elementwise(x.dtype)  # the bounds alone
        return least < cost and len(x) * cost > _PAYS * probe

    def _plain(self, x: Tensor, parameters: Parameters) -> tuple[Kernel, float]:
        """The better one of those that compute every pair, and its cost per row."""
        dense = dense_cost(parameters, x.dtype)
        for dtype in dict.fromkeys((x.dtype, torch.float64)):
            if self._quadratic.fits(x, parameters, dtype):
                cost = _quadratic_cost(parameters, double=dtype == torch.float64)
                return (self._quadratic, cost) if cost < dense else (self._dense, dense)
        return self._dense, dense


def _quadratic_cost(parameters: Parameters, *, double: bool) -> float:
    k, d = parameters.means.shape[-2:]
    family = parameters.family
    size = d + 1 if family.tied else 2 * d + 1
    if family.n_axes == 2:
        size = d + 1 + d * d // k if family.tied else d * (d + 3) // 2 + 1
    products = (_DOUBLE if double else 1.0) * 4 * k * size
    dtype = torch.float64 if double else torch.float32
    return products + (size + _SOFT_MAX * k) * elementwise(dtype)
