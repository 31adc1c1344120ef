"""The kernel that chooses the kernel: by shape, dtype, what rounding allows, and a probe."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ..exact import is_near
from ..moments import Moments
from ..parameters import Parameters
from .auto_gpu import AutoGPU
from .base import Kernel, register
from .costs import dense_cost, elementwise, quadratic_cost, sharing
from .dense import Dense
from .quadratic import Quadratic, QuadraticPlan
from .screened import Screened, probe_pays
from .triton import is_fused
from .turns import turns

__all__ = ["Auto"]

_PROBE = 3e8  # what a probe of some rows costs at least
# What `Quadratic` costs however few the rows are, and for every component: finding out whether it
# keeps the digits.
_PLANNING, _PLANNING_EACH = 8e7, 6e4


@register
class Auto(Kernel):
    """The fastest of the others for the rows and the mixture at hand.

    The choice follows from operation counts (`costs`), from whether `Quadratic` keeps the digits,
    and, where single pairs might be dismissed, from a probe of some rows. On a GPU (`AutoGPU`) it
    lies between `TritonQuadratic` and `Quadratic`, where these keep the digits, `Triton`, and
    `Screened` for many components; on a device without float64 it is `Dense`. It is made anew for
    every call, so it follows a fit from its blurred start to its sharp end. `ran` says which kernel
    it was.
    """

    name: ClassVar[str] = "auto"
    needs_float64: ClassVar[bool] = False

    def __init__(self, budget: int | None = None) -> None:
        self._dense, self._quadratic = Dense(budget), Quadratic(budget)
        self._screened, self._budget = Screened(budget), budget
        self._last = ""

    @property
    def ran(self) -> str:
        return self._last or self.name

    @functools.cached_property
    def _on_gpu(self) -> AutoGPU:
        return AutoGPU(self._budget)

    def log_prob(self, x: Tensor, parameters: Parameters) -> Tensor:
        if is_fused(x, parameters):
            return self._on_gpu.triton.log_prob(x, parameters)
        return super().log_prob(x, parameters)

    def log_joint(self, x: Tensor, parameters: Parameters) -> Iterator[tuple[slice, Tensor]]:
        if is_fused(x, parameters):
            return self._on_gpu.triton.log_joint(x, parameters)
        cheap = quadratic_cost(parameters, torch.float64) < dense_cost(parameters, x.dtype)
        cheap = cheap and is_near(x)
        return (self._quadratic if cheap else self._dense).log_joint(x, parameters)

    def accumulate(self, x: Tensor, w: Tensor | None, parameters: Parameters) -> Moments:
        if is_fused(x, parameters):
            self._last, found = self._on_gpu.accumulate(x, w, parameters)
            return found
        shape = parameters.batch_shape
        if len(shape) and shape.numel() == 1:  # the last of a batch: by itself it takes less
            one = parameters.map(lambda t: t.reshape(t.shape[len(shape) :]))
            own = w if w is None else w.reshape(-1)
            found = self._accumulate(x.reshape(x.shape[-2:]), own, one)
            return found.map(lambda t: t.reshape(*shape, *t.shape))
        parts = [
            self._accumulate(rows, own, some) for _, some, rows, (own,) in turns(parameters, x, w)
        ]
        if len(parts) == 1:
            return parts[0]
        return Moments.cat(parts).map(lambda t: t.reshape(*shape, *t.shape[1:]))

    def _accumulate(self, x: Tensor, w: Tensor | None, parameters: Parameters) -> Moments:
        cost = dense = dense_cost(parameters, x.dtype)
        quadratic = self._plan(x, parameters, dense) if is_near(x) else None
        if quadratic is not None:
            dtype = quadratic.dtypes[0]
            cost = min(dense, quadratic_cost(parameters, dtype, sharing(parameters, x)))
        if self._may_screen(x, parameters, cost):
            found = self._screened.below(cost, x, w, parameters)
            if found is not None:
                self._last = self._screened.name
                return found
        if quadratic is not None and cost < dense:
            self._last = self._quadratic.name
            return self._quadratic.planned(x, w, parameters, quadratic)
        self._last = self._dense.name
        return self._dense.accumulate(x, w, parameters)

    def _plan(self, x: Tensor, parameters: Parameters, dense: float) -> QuadraticPlan | None:
        """How `Quadratic` would go about it; None where it could not, or could not pay."""
        rows = x.shape[:-1].numel() if x.dim() > 2 else len(x) * parameters.batch_shape.numel()
        cost = quadratic_cost(parameters, x.dtype, sharing(parameters, x))
        if rows * (dense - cost) < _PLANNING + _PLANNING_EACH * parameters.logits.numel():
            return None
        plan = self._quadratic.plan(x, parameters)
        return plan if plan.dtypes else None

    def _may_screen(self, x: Tensor, parameters: Parameters, cost: float) -> bool:
        """Whether a probe could pay, given what a row costs without it."""
        if x.device.type != "cpu":  # a GPU without Triton: tiles would be added in no fixed order
            return False
        least = 4 * parameters.n_components * elementwise(x.dtype)  # the bounds alone
        return least < cost and probe_pays(x, parameters, cost, _PROBE)
