"""A mixture seen in a plane or along a line: the projection of every component is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..algebra import affine
from ..errors import InputError
from ..mixture import GaussianMixture
from ..mixture.tensors import as_tensor
from .common import features, name_of, rows_of, sign, some, variances

__all__ = ["View", "line_view", "plane_view", "principal_axes"]

_F64 = torch.float64


@dataclass(frozen=True)
class View:
    """A mixture of one or two features, and how rows get there.

    Attributes:
        mixture: of `A x - centre`, on the CPU, float64.
        matrix: A, `(m, D)`.
        centre: `(m,)`.
        labels: of the axes.
    """

    mixture: GaussianMixture
    matrix: Tensor
    centre: Tensor
    labels: tuple[str, ...]

    @property
    def means(self) -> np.ndarray:
        """`(K, m)`."""
        return self.mixture.means.detach().numpy()

    @property
    def covariances(self) -> Tensor:
        """Of every component, `(K, m, m)`."""
        factor = self.mixture.scale_tril.detach()
        return factor @ factor.mT

    def dots(self, rows: Any, most: int, weights: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """At most so many of the rows, `(n, m)`, and their numbers; none where there are none.

        Rows of weight 0 are absent.
        """
        if rows is None:
            return np.zeros((0, len(self.matrix))), np.zeros(0, np.int64)
        rows = rows if hasattr(rows, "shape") else np.asarray(rows)
        if weights is None:
            chosen = some(len(rows), most)
        else:
            present = checks.check_weights(weights, len(rows)).nonzero().squeeze(-1).cpu().numpy()
            chosen = present[some(len(present), most)]
        taken = rows_of(rows, self.matrix.shape[1], chosen)
        return (taken @ self.matrix.mT - self.centre).numpy(), chosen

    def window(self, dots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where there is something to see: the rows, two standard deviations of components."""
        spread = variances(self.mixture).sqrt().detach().numpy()
        low = np.concatenate([self.means - 2 * spread, dots]).min(0)
        high = np.concatenate([self.means + 2 * spread, dots]).max(0)
        margin = 0.06 * np.maximum(high - low, np.finfo(np.float64).tiny)
        return low - margin, high + margin


def plane_view(
    mixture: GaussianMixture, plane: Any = None, names: Sequence[str] | None = None
) -> View:
    """The mixture in a plane.

    Args:
        mixture: of at least two features.
        plane: two numbers of features, a matrix `(2, D)`, or a projection onto two `axes`; the
            mixture's two features, or the leading principal axes of more, if not given.
        names: of the features.
    """
    d = features(mixture)
    if d < 2:
        raise InputError("a plane needs at least two features: draw marginal(mixture, ax)")
    if plane is None and d > 2:
        axes = principal_axes(mixture, 2)
        centre = axes @ (mixture.weights.double() @ mixture.means.double())
        return _view(mixture, axes, centre, ("1st principal axis", "2nd principal axis"))
    if hasattr(plane, "axes"):
        axes = as_tensor(plane.axes).to(device=mixture.device, dtype=_F64)
        if tuple(axes.shape) != (2, d):
            raise InputError(f"a plane has axes of shape {(2, d)}, got {tuple(axes.shape)}")
        centre = axes @ as_tensor(plane.mean).to(axes)
        return _view(mixture, axes, centre, ("1st axis", "2nd axis"))
    return _chosen(mixture, (0, 1) if plane is None else plane, 2, names)


def line_view(
    mixture: GaussianMixture, feature: Any = 0, names: Sequence[str] | None = None
) -> View:
    """The mixture along a line: a feature's number, or a direction `(D,)`."""
    features(mixture)
    given = as_tensor(feature)
    return _chosen(mixture, given.unsqueeze(0), 1, names)


def principal_axes(mixture: GaussianMixture, count: int) -> Tensor:
    """Unit vectors `(count, D)` along which the mixture as a whole varies most."""
    vectors: Tensor = torch.linalg.eigh(_total_covariance(mixture)).eigenvectors.mT.flip(-2)[:count]
    return vectors * sign(vectors).unsqueeze(-1)


def _chosen(mixture: GaussianMixture, given: Any, m: int, names: Sequence[str] | None) -> View:
    """The view of m features by number, or of m directions."""
    d = features(mixture)
    wanted = as_tensor(given)
    if tuple(wanted.shape) == (m, d):
        labels = tuple(f"direction {i + 1}" for i in range(m)) if m > 1 else ("direction",)
        return _view(mixture, wanted.to(_F64).to(mixture.device), None, labels)
    if tuple(wanted.shape) != (m,) or wanted.is_floating_point():
        raise InputError(
            f"give {_COUNT[m]}, or directions of shape {(m, d)}, got shape {tuple(wanted.shape)}"
        )
    numbers = [checks.check_count("feature", int(f), least=0) for f in wanted]
    if max(numbers) >= d or len(set(numbers)) < m:
        raise InputError(f"features {numbers} are not {m} different ones of 0 to {d - 1}")
    labels = tuple(name_of(names, f, d) for f in numbers)
    return _view(mixture, torch.eye(d, dtype=_F64, device=mixture.device)[numbers], None, labels)


_COUNT = {1: "the number of a feature", 2: "the numbers of two features"}


def _view(
    mixture: GaussianMixture, matrix: Tensor, centre: Tensor | None, labels: tuple[str, ...]
) -> View:
    centre = matrix.new_zeros(len(matrix)) if centre is None else centre
    seen = affine(mixture.as_parameters(_F64).map(Tensor.detach), matrix, -centre)
    flat = GaussianMixture.from_parameters(seen.to(device=torch.device("cpu")))
    return View(flat, matrix.cpu(), centre.cpu(), labels)


def _total_covariance(mixture: GaussianMixture) -> Tensor:
    """`(D, D)`: within the components and between them."""
    weights, means = mixture.weights.double(), mixture.means.double()
    if mixture.family.n_axes == 2:
        factor = mixture.scale_tril.double()
        within = torch.einsum("k,kij,klj->il", weights, factor, factor)
    else:
        within = torch.diag(weights @ variances(mixture))
    apart = means - weights @ means
    return within + (weights.unsqueeze(-1) * apart).mT @ apart
