"""Only the pairs of row and component that count: exact to rounding, and far fewer of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..moments import Moments
from ..parameters import Parameters
from .base import Kernel, has_triton, register
from .costs import pair_cost, screening_cost
from .costs_gpu import pair_cost_there, screening_cost_there
from .dense import Dense, in_plain_coordinates
from .grouped import Grouped
from .memory import spared
from .pairs import Chosen, Pairs, nats_of
from .screen import Screen, Turned, turned

__all__ = ["Screened"]

_PROBE_NUMBERS = 2**21  # rows x components x features of a probe
# A pass must cost so many times what a probe does; for matrices it makes so many operations for
# each of K D^3.
_PAYS, _PROBE_CUBIC = 20, 20
_COVERED = 0.99  # of the rows, at the first look
# Rows of a chunk: at least, and for every component, so that its pairs fill whole tiles.
_CHUNK_ROWS, _SHARING_ROWS = 2**16, 2**8
_TILE_BYTES = 2**21  # of bounds; features may take eight times as much


@dataclass(frozen=True)
class Plan:
    """How to screen: with how many coordinates, and what that is expected to cost.

    Attributes:
        p: coordinates of the bounds.
        cost: operations per row.
        kept: pairs per row that were not dismissed in the probe.
        margin: pairs whose bound is so many nats below the row's best bound are left out at first;
            rows where the best pair turns out to be worse than that are looked at again.
    """

    p: int
    cost: float
    kept: float
    margin: float


@register
class Screened(Kernel):
    """Dismisses pairs by an upper bound of their density, and whitens the rest one by one.

    What is kept goes through the same differences and products as in `dense`, so digits are lost
    nowhere. Before a pass some rows are probed for the number of coordinates that pays best.
    Components that share a covariance, or are too tight for the range of float32, go to `dense`.
    On a GPU kept pairs go through grouped products; without Triton there, all go to `dense`.

    Args:
        budget: bytes of the kept rows of one chunk.
    """

    name: ClassVar[str] = "screened"
    usual_budget: ClassVar[int] = 8 * 2**20

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget

    def log_joint(self, x: Tensor, parameters: Parameters) -> Iterator[tuple[slice, Tensor]]:
        yield from self._dense().log_joint(x, parameters)

    def accumulate(self, x: Tensor, w: Tensor | None, parameters: Parameters) -> Moments:
        # One covariance: nothing to gain from single pairs. Without Triton tiles would be added
        # up on a GPU by atomic operations, in another order every time.
        if parameters.family.tied or (x.is_cuda and not has_triton()):
            return Dense().accumulate(x, w, parameters)
        if parameters.batch_shape:
            return self._batch(x, w, parameters)
        found = self.below(math.inf, x, w, parameters)
        return self._dense().accumulate(x, w, parameters) if found is None else found

    def below(
        self, cost: float, x: Tensor, w: Tensor | None, parameters: Parameters
    ) -> Moments | None:
        """`accumulate` if a probe says that it costs less than this per row; None otherwise."""
        mixture = turned(parameters, x.dtype)
        plan = best_plan(x, parameters, mixture)
        if plan is None or plan.cost >= cost:
            return None
        return self.planned(x, w, parameters, mixture, plan)

    def planned(
        self,
        x: Tensor,
        w: Tensor | None,
        parameters: Parameters,
        mixture: Turned,
        plan: Plan,
    ) -> Moments:
        """`accumulate` with a plan at hand."""
        screen = Screen(mixture, plan.p, x.dtype)
        if is_grouped(x):
            return self._grouped(x, w, parameters, screen, plan)

        def moments(centre: Tensor | None) -> Moments:
            pairs = Pairs(parameters, x, centre)
            chooser = _Chooser(screen, plan, x, self.bytes_for(x))
            for start in range(0, len(x), chooser.rows):
                part = slice(start, start + chooser.rows)
                chunk = chooser.by_rows(x[part])
                pairs.add(chunk, None if w is None else w[part], chooser.choose(chunk))
            return pairs.moments()

        return in_plain_coordinates(moments, parameters, x.dtype)

    @spared
    def _grouped(
        self, x: Tensor, w: Tensor | None, parameters: Parameters, screen: Screen, plan: Plan
    ) -> Moments:
        def moments(centre: Tensor | None) -> Moments:
            found = Grouped(parameters, screen, plan.kept, x, centre, self.bytes_for(x))
            for start in range(0, len(x), found.rows):
                part = slice(start, start + found.rows)
                found.add(x[part], None if w is None else w[part])
            return found.moments()

        return in_plain_coordinates(moments, parameters, x.dtype)

    def _dense(self) -> Dense:
        # of a chunk's two buffers: the default is that of `Dense`
        return Dense(None if self.budget is None else 2 * self.budget)

    def _batch(self, x: Tensor, w: Tensor | None, parameters: Parameters) -> Moments:
        shape, each = parameters.batch_shape, []
        for number in range(shape.numel()):
            at = np.unravel_index(number, tuple(shape))
            rows = x if x.dim() == 2 else x[at]
            weights = w if w is None or w.dim() == 1 else w[at]
            own = (parameters.logits[at], parameters.means[at], parameters.scale[at])
            each.append(self.accumulate(rows, weights, Parameters(*own, parameters.family)))
        sums = [torch.stack([getattr(m, f) for m in each]) for f in Moments.__dataclass_fields__]
        return Moments(*(s.view(*shape, *s.shape[1:]) for s in sums))


def probe_pays(x: Tensor, parameters: Parameters, cost: float, launches: float) -> bool:
    """Whether a probe could pay, given what a row costs without it.

    Args:
        x: the rows.
        parameters: the mixture.
        cost: operations per row.
        launches: operations that could be made while a probe is set up, whatever its size.
    """
    if parameters.family.tied or parameters.batch_shape:
        return False
    k, d = parameters.means.shape
    probe = launches + (_PROBE_CUBIC * k * d**3 if parameters.family.n_axes == 2 else 0)
    return len(x) * cost > _PAYS * probe


def is_grouped(x: Tensor) -> bool:
    """Whether pairs go through large products, as a GPU wants them."""
    return x.is_cuda


class _Chooser:
    """Finds the pairs of a chunk to look at, tile by tile: bounds never leave the cache.

    Chunks are large, so that many of their rows share a component.
    """

    def __init__(self, screen: Screen, plan: Plan, x: Tensor, budget: int) -> None:
        self._screen, self._margin = screen, plan.margin
        self._k, d = screen.shape
        size = x.dtype.itemsize
        per_row = int((1 + plan.kept) * d) * size + self._k
        usual = max(_CHUNK_ROWS, _SHARING_ROWS * self._k)
        self.rows = min(max(256, min(usual, 4 * budget // per_row // 8 * 8)), len(x))
        tile = min(_TILE_BYTES // (self._k * size), 8 * _TILE_BYTES // (screen.size * size))
        self._tile = min(max(256, min(tile, 8192) // 8 * 8), self.rows)
        self._layout = screen.layout(self._tile, x)
        self._bounds = x.new_empty(self._k * self._tile)
        self._mask = x.new_empty(self._k * self.rows, dtype=torch.bool)
        self._least = x.new_empty(self.rows)
        self._turned: Tensor | None = None

    def by_rows(self, x: Tensor) -> Tensor:
        """The chunk row by row, as single rows are gathered from it."""
        if x.is_contiguous():
            return x
        if self._turned is None:
            self._turned = x.new_empty(self.rows, x.shape[-1])
        # a product, as torch copies with one thread where it transposes
        return torch.mul(x, 1, out=self._turned[: len(x)])

    def choose(self, x: Tensor) -> Chosen:
        """Pairs of the rows `x (n, D)`; what it gives is overwritten by the next chunk."""
        n = len(x)
        mask, least = self._mask[: self._k * n].view(self._k, n), self._least[:n]
        for start in range(0, n, self._tile):
            some = slice(start, start + self._tile)
            u = self.bounds(x[some])
            torch.sub(u.amax(0), self._margin, out=least[some])
            # rows so far out that products overflow are NaN here: nothing is dismissed there
            torch.lt(u, least[some], out=mask[:, some])
        least.nan_to_num_(nan=-math.inf)
        return Chosen(mask.logical_not_(), least, self.bounds)

    def bounds(self, x: Tensor) -> Tensor:
        """Upper bounds `(K, n)` for the rows `x (n, D)`, a tile or fewer in the usual buffer."""
        if len(x) > self._tile:
            starts = range(0, len(x), self._tile)
            return torch.cat([self.bounds(x[i : i + self._tile]).clone() for i in starts], 1)
        out = self._bounds[: self._k * len(x)].view(self._k, -1)
        return self._screen.bounds(x, self._layout, out)


def best_plan(x: Tensor, parameters: Parameters, mixture: Turned) -> Plan | None:
    """The cheapest number of coordinates, found by trying it on some of the rows; None if none."""
    k, d = parameters.means.shape
    rows = min(max(_PROBE_NUMBERS // (k * d), 64), 512)
    probe = x[:: max(1, len(x) // rows)]
    joint = torch.cat([j.clone() for _, j in Dense().log_joint(probe, parameters)], -1)
    best, nats = joint.amax(0), nats_of(x.dtype, k)
    matrix = parameters.family.n_axes == 2
    candidates = sorted({p for p in (4, 8, 12, 16, 32) if p < d} | {d}) if matrix else [d]
    of_pair, of_bounds = pair_cost, screening_cost
    if is_grouped(x):
        of_pair, of_bounds = pair_cost_there, screening_cost_there
    pair = of_pair(parameters, x.dtype)
    plans = []
    for p in candidates:
        screen = Screen(mixture, p, x.dtype)
        if not screen.usable:
            break
        u = screen.bounds(probe, screen.layout(len(probe), x), torch.empty_like(joint))
        top = u.amax(0)
        # nearly every row's best pair is that close to its best bound
        gaps = (top - best).nan_to_num(nan=math.inf).sort().values
        margin = nats + gaps[int(_COVERED * (len(gaps) - 1))].clamp_min(0)
        near = (u >= top - margin).sum()
        margin, kept = torch.stack([margin.double(), near.double() / len(probe)]).tolist()
        kept = max(1.0, kept)
        screening = of_bounds(parameters, screen.size, x.dtype)
        plans.append(Plan(p, screening + kept * pair, kept, margin))
        if (kept - 1) * pair < screening:  # more coordinates cost more than they could dismiss
            break
    return min(plans, key=lambda plan: plan.cost, default=None)
