"""From words of `torchgmm plot` to a scene: rows, their labels, names and numbers of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data import Block, Source, as_source, read_table
from ..errors import InputError
from ..mixture import GaussianMixture
from ..reduction import discriminant
from . import UsageError
from .parsing import as_recipe
from .pictures import PICTURES, Scene, Subject, choose

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["COMPONENTS", "listed", "numbers", "refuse", "scene_of"]

COMPONENTS = "components"  # the word for: the likeliest component of every row
# the options that say something about a picture, and what of it they are; one must be heeded
_OPTIONS = {
    "data": ("rows", "shape"),
    "labels": ("labels",),
    "features": ("features",),
    "plane": ("plane",),
    "components": ("components",),
    "shape": ("shape",),
}


def scene_of(
    mixture: GaussianMixture, parser: ArgumentParser, options: Namespace, picture: str
) -> tuple[str, Scene, list[tuple[str, str]]]:
    """The picture (`auto` resolved), what it shows, and what is said about it."""
    d = int(mixture.means.shape[-1])
    source, subject = _opened(parser, options, d)
    features = _features(options.features, subject)
    if picture == "auto":
        picture = _automatic(subject, features)
    refuse(options, picture, PICTURES[picture].takes)
    suited = subject if features is None else Subject(len(features))
    choose(picture, suited, "choose another, or --features")
    lines = [("mixture", f"{mixture.n_components} {mixture.covariance} components, {d} features")]
    block, labels = None, None
    if source is not None and "rows" in PICTURES[picture].takes:
        block, labels = _rows(mixture, source, options.rows, options.labels)
        lines.append(("rows", f"{len(block.x):,} of {_count(source)}"))
    elif options.labels is not None or picture == "responsibilities":
        what = "--labels are" if options.labels else "responsibilities are"
        raise UsageError(f"{what} of rows: give --data")
    plane = None
    if options.plane is not None:
        if features is not None or d < 3:
            raise UsageError("--plane chooses two axes of three or more features, all of them")
        plane = discriminant(mixture) if options.plane == "discriminant" else None
    rows, weights = (None, None) if block is None else (block.x, block.w)
    scene = Scene(subject, rows, weights, labels, features, plane, options.components)
    return picture, scene, lines


def _automatic(subject: Subject, features: tuple[int, ...] | None) -> str:
    if features is not None:
        return {1: "marginals", 2: "ellipses"}.get(len(features), "pairs")
    picture = choose("auto", subject)
    if picture == "none":
        raise UsageError(f"nothing is drawn by itself of {subject.n_features} features: name one")
    return picture


def refuse(options: Namespace, picture: str, takes: frozenset[str]) -> None:
    """An option that a picture does not heed is not passed over in silence."""
    for option, parts in _OPTIONS.items():
        if options.get(option) is not None and not takes & set(parts):
            who = [name for name, kind in PICTURES.items() if kind.takes & set(parts)]
            raise UsageError(f"--{option} says nothing about {picture}, only {', '.join(who)}")


def listed(given: Any) -> list[Any] | None:
    """A list from `a,b` or from a list."""
    if isinstance(given, str):
        return [word.strip() for word in given.split(",")]
    return given if given is None or isinstance(given, list) else [given]


def numbers(option: str, given: Any, kind: type[int] | type[float]) -> tuple[Any, Any] | None:
    """Two numbers above 0 from `8,5` or a list."""
    words = listed(given)
    if words is None:
        return None
    try:
        first, second = (kind(word) for word in words)
    except ValueError as error:
        raise UsageError(f"--{option} {given}: give two numbers, as 8,5") from error
    if not (first > 0 and second > 0):
        raise UsageError(f"--{option} {given}: both numbers must be above 0")
    return first, second


def _opened(
    parser: ArgumentParser, options: Namespace, n_features: int
) -> tuple[Source | None, Subject]:
    """The rows, if any, and what is known of the features."""
    source = None
    names: Sequence[str] | None = listed(options.names)
    shape = numbers("shape", options.shape, int)
    if options.data is not None:
        recipe = as_recipe(parser.instantiate(options).data, None)
        source = as_source(recipe)
        if source.n_features != n_features:
            raise InputError(
                f"--data has {source.n_features} features, the mixture has {n_features}"
            )
        names = names or source.names or None
        shape = shape or recipe.image_shape
    if names is not None and len(names) != n_features:
        raise UsageError(f"--names gives {len(names)} names for {n_features} features")
    if shape is not None and shape[0] * shape[1] != n_features:
        raise UsageError(f"--shape {shape[0]},{shape[1]} is no image of {n_features} pixels")
    return source, Subject(n_features, shape, None if names is None else tuple(names))


def _features(given: Any, subject: Subject) -> tuple[int, ...] | None:
    """Numbers of features from numbers and names."""
    words = listed(given)
    return None if words is None else tuple(_feature(word, subject) for word in words)


def _feature(word: int | str, subject: Subject) -> int:
    names = subject.names or ()
    if isinstance(word, str) and word in names:
        return names.index(word)
    number = int(word) if str(word).isdigit() else -1
    if not 0 <= number < subject.n_features:
        known = f", or of {', '.join(names)}" if names else ""
        last = subject.n_features - 1
        raise UsageError(f"--features: {word!r} is none; give numbers from 0 to {last}{known}")
    return number


def _rows(
    mixture: GaussianMixture, source: Source, most: int, labels: str | None
) -> tuple[Block, np.ndarray | None]:
    """Some of the rows and their labels."""
    block = source.sample(most, torch.Generator().manual_seed(0))
    if labels is None:
        return block, None
    if labels == COMPONENTS:
        return block, mixture.predict(block.x).numpy()
    every = np.asarray(read_table(labels))
    if every.size != len(every) or len(every) != source.n_rows:
        raise InputError(
            f"--labels {labels} holds numbers of shape {every.shape}, --data has "
            f"{_count(source)} rows: give one for each"
        )
    taken = every.reshape(-1)[block.numbers().numpy()]
    whole = np.issubdtype(taken.dtype, np.floating) and bool((taken == np.round(taken)).all())
    return block, taken.astype(np.int64) if whole else taken


def _count(source: Source | None) -> str:
    return "?" if source is None or source.n_rows is None else f"{source.n_rows:,}"
