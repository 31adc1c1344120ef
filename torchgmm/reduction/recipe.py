"""`Principal`: a config's way to put a PCA before a mixture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..data import Encoded, Files, Recipe, Source
from .files import load_pca
from .pca import PCA

__all__ = ["Principal", "PrincipalRows"]

# rows that are projected at a time
_ROWS = 8192


class PrincipalRows(Encoded):
    """Principal components of the rows of a source.

    Attributes:
        front: the fitted PCA.
    """

    def __init__(self, source: Source, front: PCA) -> None:
        super().__init__(source, front, rows=_ROWS)
        self.front = front
        self.names = tuple(f"principal component {i}" for i in range(1, self.n_features + 1))


@dataclass(frozen=True)
class Principal(Recipe):
    """Principal components of other rows; the axes are learnt in one pass before the first fit.

    A fit leaves them as `pca.safetensors` beside the mixture. Other rows are seen along the same
    axes by `axes`.

    Args:
        rows: a file (pattern, folder) or a recipe.
        n_components: how many to keep; below 1 the share of the variance to keep.
        whiten: scale the components to unit variance.
        axes: a `pca.safetensors` of an earlier fit, in place of learning; the two settings above
            then are the file's.
    """

    rows: Recipe | str
    n_components: int | float | None = None
    whiten: bool = False
    axes: str | None = None

    def source(self) -> Source:
        rows = self._recipe().source()
        if self.axes is not None:
            return PrincipalRows(rows, load_pca(self.axes))
        return PrincipalRows(rows, PCA(self.n_components, whiten=self.whiten).fit(rows))

    def located(self, beside: Path | None = None) -> Principal:
        axes = self.axes
        if axes is not None and beside is not None and not Path(axes).exists():
            axes = str(beside / axes)
        axes = None if axes is None else str(Path(axes).absolute())
        return replace(self, rows=self._recipe().located(beside), axes=axes)

    def _recipe(self) -> Recipe:
        return Files(self.rows) if isinstance(self.rows, str) else self.rows
