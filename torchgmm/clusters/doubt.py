"""The doubt about memberships that are joined step by step, by two criteria."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..data import Block, Checked
from ..errors import InputError
from ..exact import exact, exact_device
from ..kernels import as_kernel
from ..mixture import GaussianMixture
from ..mixture.reading import check_replay

__all__ = ["CRITERIA", "Doubt", "Memberships"]

_Chunk = tuple[Tensor, Tensor]  # memberships (K, n), weights (n,)
# numbers of memberships that are kept between two passes, 32 MiB in float64; more are made anew
_KEPT = 2**22


class Memberships:
    """The responsibilities of all rows, chunk by chunk, as often as they are asked for."""

    def __init__(self, mixture: GaussianMixture, source: Checked) -> None:
        self.source, self._parameters = source, mixture.as_parameters()
        few = source.n_rows is not None and source.n_rows * mixture.n_components <= _KEPT
        self._kept = list(self._made()) if few else None

    def __iter__(self) -> Iterator[_Chunk]:
        return self._made() if self._kept is None else iter(self._kept)

    def zeros(self, n_axes: int) -> Tensor:
        """Sums of nothing: `(K,)` or `(K, K)`."""
        means = self._parameters.means
        shape = [len(means)] * n_axes
        return torch.zeros(shape, dtype=torch.float64, device=exact_device(means.device))

    def total(self, weight: float) -> float:
        """The weight of the rows of all processes, if there are any."""
        (total,) = self.source.group.total(weight)
        if not total:
            raise InputError("the source gave no rows of positive weight")
        return total

    def _made(self) -> Iterator[_Chunk]:
        kernel = as_kernel("auto")
        for block in self.source.blocks():
            of_chunk = functools.partial(_memberships, block)
            yield from kernel.each(block.x, self._parameters, of_chunk)


def _memberships(block: Block, part: slice, joint: Tensor) -> _Chunk:
    r = exact(joint.softmax(-2))
    return r, torch.ones_like(r[0]) if block.w is None else exact(block.w[part])


class Doubt(Protocol):
    """The entropy of memberships that are joined step by step, and what joining would gain."""

    rows: float

    def entropy(self) -> float: ...

    def gain(self) -> Tensor: ...

    def join(self, one: int, other: int) -> None: ...


class _Shannon:
    """`-sum t log t`; after a step the sums of the joined cluster with every other are new."""

    def __init__(self, rows: Memberships) -> None:
        check_replay(rows.source, "the entropy is summed again after every step (the criterion "
                     "'quadratic' reads them once)")  # fmt: skip
        self._all = rows
        self._own, self._both = rows.zeros(1), rows.zeros(2)
        self._place = torch.arange(len(self._own), device=self._own.device)
        total = 0.0
        for r, w in rows:
            total += float(w.sum())
            self._own += _xlogx(r) @ w
            for i in range(len(r)):
                self._both[i] += _xlogx(r[i] + r) @ w
        self._own, self._both = rows.source.group.sum((self._own, self._both))
        self.rows = rows.total(total)

    def entropy(self) -> float:
        # sums of many terms that are 0 or less: rounding must not make a negative entropy
        return max(0.0, -float(self._own.sum()) / self.rows)

    def gain(self) -> Tensor:
        return self._both - self._own - self._own[:, None]

    def join(self, one: int, other: int) -> None:
        self._place[self._place == other] = one
        self._own[one], self._own[other] = self._both[one, other].clone(), 0.0
        if len(set(self._place.tolist())) < 3:  # nothing is left to choose
            return
        new = torch.zeros_like(self._own)
        for r, w in self._all:
            t = one_hot(self._place, len(r)).mT.double() @ r
            new += _xlogx(t[one] + t) @ w
        (new,) = self._all.source.group.sum((new,))
        self._both[one], self._both[:, one] = new, new


class _Quadratic:
    """`1 - sum t^2`: the sums of products of memberships add when clusters are joined."""

    def __init__(self, rows: Memberships) -> None:
        self._products, total = rows.zeros(2), 0.0
        for r, w in rows:
            total += float(w.sum())
            self._products += (r * w) @ r.mT
        (self._products,) = rows.source.group.sum((self._products,))
        self.rows = rows.total(total)

    def entropy(self) -> float:
        return max(0.0, 1 - float(self._products.diagonal().sum()) / self.rows)

    def gain(self) -> Tensor:
        return 2 * self._products

    def join(self, one: int, other: int) -> None:
        self._products[one] += self._products[other]
        self._products[:, one] += self._products[:, other]
        self._products[other], self._products[:, other] = 0.0, 0.0


CRITERIA: dict[str, type[_Shannon] | type[_Quadratic]] = {
    "entropy": _Shannon,
    "quadratic": _Quadratic,
}


def _xlogx(t: Tensor) -> Tensor:
    return torch.xlogy(t, t)
