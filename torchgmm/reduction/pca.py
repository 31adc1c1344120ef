"""`PCA`: principal components of any source, from the moments of one pass."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from .. import checks
from ..collective import current, together
from ..covariance import as_family
from ..data import Checked, as_source, spread
from ..errors import InputError
from ..kernels import weighted_sums
from .projection import Projection

__all__ = ["PCA"]


class PCA(Projection):
    """Principal component analysis, in one pass over rows wherever they are.

    The words are scikit-learn's. The sums are those of a mixture of one component, in float64 about
    a row, so the answer is that of the rows in memory to rounding. Fitted, it is a module from rows
    to their principal components: an `encoder=` for `fit`, and the front of a `Reduced`.

    Args:
        n_components: how many to keep; a number below 1 keeps that share of the variance; all if
            not given.
        whiten: scale the components to unit variance.

    Attributes:
        mean: of the rows, `(D,)`.
        components: the principal axes, `(m, D)`, orthonormal; in every one the largest entry is
            positive.
        axes: these, divided by the standard deviations if whitened.
        explained_variance: variance along the axes, `(m,)`, unbiased, in squared units of the rows.
        explained_variance_ratio: the same as shares of that of all features.
        noise_variance: mean variance along the axes that were left out, a scalar; 0 if none were.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(500, 3) @ torch.tensor([[5.0, 0, 0], [0, 1, 0], [0, 0, 0.01]])
        >>> pca = tg.PCA(0.99, whiten=True).fit(x)
        >>> pca(x).shape, bool((pca.inverse(pca(x)) - x).abs().max() < 0.1)
        (torch.Size([500, 2]), True)
        >>> mixture = tg.GaussianMixture(2)
        >>> result = mixture.fit(x, encoder=pca)
    """

    explained_variance: Tensor
    explained_variance_ratio: Tensor
    noise_variance: Tensor
    _TENSORS = (
        *Projection._TENSORS,
        "explained_variance",
        "explained_variance_ratio",
        "noise_variance",
    )

    def __init__(self, n_components: int | float | None = None, *, whiten: bool = False) -> None:
        super().__init__()
        self.n_components, self.whiten = n_components, whiten
        if isinstance(n_components, float):
            if not 0 < n_components < 1:
                raise InputError(
                    "n_components must be a number of components, or a share of the variance "
                    f"between 0 and 1, got {n_components}"
                )
        elif n_components is not None:
            checks.check_count("n_components", n_components)

    @property
    def components(self) -> Tensor:
        """The principal axes, `(m, D)`, orthonormal."""
        self._require_axes("components")
        return self.axes * self._spread().unsqueeze(-1)

    @together
    @torch.no_grad()
    def fit(self, data: Any, weights: Any = None) -> Self:
        """Learn the axes from rows, in one pass.

        Args:
            data: rows `(N, D)`, whatever `torchgmm.fit` takes; a stream may be read only once.
            weights: of the rows, as there: a row of weight 2 counts as two.

        Raises:
            InputError: data that cannot be used, fewer than two rows, more components than
                features, components without variance that were to be whitened.
        """
        source = spread(as_source(data, weights), current())
        first = source.first().x
        checks.check_device(first.device)
        dtype = checks.compute_dtype(source.dtype, torch.float32)
        checked = Checked(source, dtype, first.device)
        family = as_family("full")
        # about a row, so that a common offset costs no digits; of weight 0 it may be anything
        frame = first[:1].double()
        frame = torch.where(frame.abs() < checks.largest_allowed(dtype), frame, 0)
        frame = source.group.of_first(frame)
        sums = weighted_sums(
            checked.blocks(),
            frame,
            family,
            lambda block: torch.ones(1, len(block.x), dtype=torch.float64),
        )
        moments = sums.over(source.group).moments()
        n = float(moments.weight)
        if not n > 1:
            raise InputError(f"{n:g} row(s) have no variance: at least two are needed")
        values, vectors = torch.linalg.eigh(family.within(moments)[0] / (n - 1))
        values, axes = values.flip(0).clamp_min(0), vectors.mT.flip(0)
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        m = self._kept(values)
        self._hold(
            mean=(moments.frame + moments.first / n)[0],
            explained_variance=values[:m],
            explained_variance_ratio=values[:m] / values.sum().clamp_min(1e-300),
            noise_variance=values[m:].mean() if m < len(values) else values.new_zeros(()),
            **self._axes((axes * largest.sign())[:m], values[:m]),
        )
        return self

    # inside -------------------------------------------------------------------------------------

    def _kept(self, values: Tensor) -> int:
        wanted, d = self.n_components, len(values)
        if wanted is None:
            return d
        if isinstance(wanted, int):
            if wanted > d:
                raise InputError(f"n_components={wanted} is more than the {d} features")
            return wanted
        share = values.cumsum(0) / values.sum().clamp_min(1e-300)
        return min(d, int((share < float(wanted) * (1 - 1e-12)).sum()) + 1)

    def _axes(self, components: Tensor, variance: Tensor) -> dict[str, Tensor]:
        if not self.whiten:
            return {"axes": components, "back": components.mT.contiguous()}
        # below this a variance is what rounding left of none
        least = len(components) * torch.finfo(torch.float64).eps * float(variance[0])
        if not bool((variance > least).all()):
            raise InputError(
                f"only {int((variance > least).sum())} of {len(variance)} components have "
                "variance: keep no more to whiten them"
            )
        spread = variance.sqrt().unsqueeze(-1)
        return {"axes": components / spread, "back": (components * spread).mT.contiguous()}

    def _spread(self) -> Tensor:
        """What the components were divided by, `(m,)`."""
        lengths: Tensor = self.axes.norm(dim=-1)
        return lengths.reciprocal()

    def extra_repr(self) -> str:
        """Shapes and settings, for `repr`."""
        own = f"n_components={self.n_components}, whiten={self.whiten}"
        return f"{own}, {super().extra_repr()}"
