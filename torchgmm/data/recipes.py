"""Recipes: data named in a configuration file, and how to get at them."""

from __future__ import annotations

import glob
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..checks import check_count
from ..errors import InputError, MissingExtraError
from .arrays import ArraySource
from .base import Source
from .shards import open_files

__all__ = ["Bundled", "Files", "ImagePatches", "Recipe", "read_grey"]


class Recipe(ABC):
    """Says where rows come from; `source` gets them."""

    @abstractmethod
    def source(self) -> Source:
        """The rows, ready to be read."""

    def located(self, beside: Path | None = None) -> Recipe:
        """The same recipe with the paths of its files made absolute.

        A relative path is looked for in the current folder, then in `beside`.
        """
        return self

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Height and width, where a row is a greyscale image."""
        return None


@dataclass(frozen=True)
class Files(Recipe):
    """A table in one or many files.

    Args:
        path: a `.npy`, `.npz`, `.csv`, `.parquet` or `.safetensors` file, a pattern with `*`, a
            folder, or a list of these.
        columns: names or numbers of the columns to use; all numeric ones but the weights if not
            given.
        name: which array of `.npz` or `.safetensors` files.
        weights: name or number of the column that holds the row weights, or a file (pattern,
            folder) with one weight per line or entry.
    """

    path: str | list[str]
    columns: list[str] | list[int] | None = None
    name: str | None = None
    weights: str | int | None = None

    def source(self) -> Source:
        return open_files(self.path, self.weights, columns=self.columns, name=self.name)

    def located(self, beside: Path | None = None) -> Files:
        weights = _found(self.weights, beside) if isinstance(self.weights, str) else self.weights
        if isinstance(self.path, str):
            return replace(self, path=_found(self.path, beside), weights=weights)
        return replace(self, path=[_found(p, beside) for p in self.path], weights=weights)


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
        bundle = getattr(datasets, f"load_{self.name}")()
        source = ArraySource(bundle.data)
        source.names = tuple(map(str, bundle.feature_names))
        return source

    @property
    def image_shape(self) -> tuple[int, int] | None:
        return (8, 8) if self.name == "digits" else None


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
        grey = read_grey(self.image)
        check_count("size", self.size)
        if min(grey.shape) < self.size:
            raise InputError(
                f"{self.image} is {grey.shape[1]}x{grey.shape[0]} pixels, smaller than a patch of "
                f"{self.size}x{self.size}"
            )
        return ArraySource(patches(grey, self.size, subtract_mean=self.subtract_mean))

    def located(self, beside: Path | None = None) -> ImagePatches:
        return replace(self, image=_found(self.image, beside))

    @property
    def image_shape(self) -> tuple[int, int] | None:
        return (self.size, self.size)


def patches(grey: np.ndarray, size: int, *, subtract_mean: bool = True) -> np.ndarray:
    """Every `size` x `size` patch of an image `(H, W)` as a row, float32."""
    windows = np.lib.stride_tricks.sliding_window_view(grey, (size, size))
    rows = windows.reshape(-1, size * size).astype(np.float32)
    if subtract_mean:
        rows -= rows.mean(axis=1, keepdims=True)
    return rows


def _found(path: str, beside: Path | None) -> str:
    """The absolute path of what is there; `path` itself if there is nothing."""
    for folder in (Path(), beside):
        if folder is not None and path:
            place = folder / path
            if place.exists():
                return str(place.resolve())
            if "*" in path and glob.glob(str(place), recursive=True):  # noqa: PTH207
                return str(folder.resolve() / path)
    return path


def read_grey(image: str) -> np.ndarray:
    """A photograph as grey levels `(H, W)` from 0 to 1, float32.

    Args:
        image: an image file, or `china.jpg` or `flower.jpg`, which scikit-learn ships.

    Raises:
        MissingExtraError: Pillow is not installed.
        InputError: there is no such image.
    """
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
