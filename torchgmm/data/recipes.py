"""Recipes: data named in a configuration file, and how to get at them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import check_count
from ..errors import InputError, MissingExtraError
from .arrays import ArraySource
from .base import Source
from .files import read_table

__all__ = ["Bundled", "Files", "ImagePatches", "Recipe"]


class Recipe(ABC):
    """Says where rows come from; `source` gets them."""

    @abstractmethod
    def source(self) -> Source:
        """The rows, ready to be read."""


@dataclass(frozen=True)
class Files(Recipe):
    """A table in a file.

    Args:
        path: a `.npy`, `.npz`, `.csv`, `.parquet` or `.safetensors` file.
        columns: names or numbers of the columns to use; all numeric ones if not given.
        name: which array of an `.npz` or `.safetensors` file.
        weights: a file with one row weight per line or entry.
    """

    path: str
    columns: list[str] | list[int] | None = None
    name: str | None = None
    weights: str | None = None

    def source(self) -> Source:
        table = read_table(self.path, columns=self.columns, name=self.name)
        return ArraySource(table, None if self.weights is None else self._weights())

    def _weights(self) -> Any:
        assert self.weights is not None
        if Path(self.weights).suffix == ".npy":
            return np.load(self.weights, allow_pickle=False).reshape(-1)
        return np.asarray(read_table(self.weights)).reshape(-1)


@dataclass(frozen=True)
class Bundled(Recipe):
    """A data set that scikit-learn ships.

    Args:
        name: `digits`, `iris`, `wine` or `breast_cancer`.
    """

    name: str

    def source(self) -> Source:
        try:
            from sklearn import datasets
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "cli", f"the data set {self.name}") from error
        known = ("digits", "iris", "wine", "breast_cancer")
        if self.name not in known:
            raise InputError(f"no data set {self.name!r}: choose from {', '.join(known)}")
        rows, _ = getattr(datasets, f"load_{self.name}")(return_X_y=True)
        return ArraySource(rows)


@dataclass(frozen=True)
class ImagePatches(Recipe):
    """All overlapping patches of a greyscale photograph, as rows (Zoran & Weiss 2011).

    Args:
        image: an image file, or `china.jpg` or `flower.jpg`, which scikit-learn ships.
        size: side of a patch in pixels; a row has `size**2` features, in [0, 1].
        subtract_mean: take each patch's mean away, so that brightness makes no components.
    """

    image: str
    size: int = 8
    subtract_mean: bool = True

    def source(self) -> Source:
        grey = _read_grey(self.image)
        check_count("size", self.size)
        if min(grey.shape) < self.size:
            raise InputError(
                f"{self.image} is {grey.shape[1]}x{grey.shape[0]} pixels, smaller than a patch of "
                f"{self.size}x{self.size}"
            )
        return ArraySource(patches(grey, self.size, subtract_mean=self.subtract_mean))


def patches(grey: np.ndarray, size: int, *, subtract_mean: bool = True) -> np.ndarray:
    """Every `size` x `size` patch of an image `(H, W)` as a row, float32."""
    windows = np.lib.stride_tricks.sliding_window_view(grey, (size, size))
    rows = windows.reshape(-1, size * size).astype(np.float32)
    if subtract_mean:
        rows -= rows.mean(axis=1, keepdims=True)
    return rows


def _read_grey(image: str) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "cli", f"reading {image}") from error
    path = Path(image)
    if not path.is_file():
        path = _shipped(image)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"), dtype=np.float32) / 255


def _shipped(image: str) -> Path:
    names: Sequence[str] = ("china.jpg", "flower.jpg")
    if image not in names:
        raise InputError(f"{image} does not exist, and scikit-learn ships only {', '.join(names)}")
    try:
        import sklearn.datasets
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "cli", f"its photograph {image}") from error
    return Path(sklearn.datasets.__file__).parent / "images" / image
