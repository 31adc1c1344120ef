"""Tiles that a GPU was found to do best with: measured once, when asked, and kept in a file.

Tiles decide the order of sums. Were they chosen anew in every process, equal fits would differ in
their last digits, and each would pay for compiling what it does not take. So they are tuned by a
command (`python -m benchmarks.gpu.tune --save`), and are constants from then on.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from .triton_launch import Tile

__all__ = ["Use", "path", "save", "trying", "tuned"]

# of what kernels make of their tiles: the file of another is not read
_VERSION = 1


class Use(NamedTuple):
    """What tiles are for.

    Attributes:
        kernel: what the file calls it.
        sizes: on which its tiles depend.
        dtype: of the numbers.
        precision: of products.
    """

    kernel: str
    sizes: tuple[int, ...]
    dtype: torch.dtype
    precision: str = "ieee"

    def __str__(self) -> str:
        sizes, dtype = "x".join(map(str, self.sizes)), str(self.dtype).removeprefix("torch.")
        return " ".join(filter(None, (self.kernel, sizes, dtype, self.precision)))


Tiles = tuple[Tile, ...]

_tried: dict[Use, Tiles] = {}


def tuned(use: Use, device: torch.device, usual: Tiles) -> Tiles:
    """The tiles that are known to be best on a device; if none are, the usual ones."""
    if use in _tried:
        return _tried[use]
    known = _read(path()).get(_name(device))
    found = usual if known is None else known.get(str(use), usual)
    fits = [len(t.sizes) for t in found] == [len(t.sizes) for t in usual]
    return found if fits else usual


@contextmanager
def trying(use: Use, tiles: Tiles) -> Iterator[None]:
    """Other tiles for a while, in all threads."""
    before = _tried.get(use)
    _tried[use] = tiles
    try:
        yield
    finally:
        del _tried[use]
        if before is not None:
            _tried[use] = before


def path() -> Path:
    """The file: `$TORCHGMM_TILES`, else `torchgmm/tiles.json` among the user's caches."""
    if given := os.environ.get("TORCHGMM_TILES"):
        return Path(given)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "torchgmm" / "tiles.json"


def save(device: torch.device, found: Mapping[Use, Tiles]) -> Path:
    """Add tiles to the file; those of other devices and for other uses stay."""
    file = path()
    devices: dict[str, dict[str, Tiles]] = {n: dict(each) for n, each in _read(file).items()}
    devices.setdefault(_name(device), {}).update((str(use), t) for use, t in found.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    # whole or not at all: another process may be reading
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as written:
        json.dump({"version": _VERSION, "devices": devices}, written, indent=1)
    Path(written.name).replace(file)
    _read.cache_clear()
    return file


def _name(device: torch.device) -> str:
    """What a file calls all devices of a kind: `NVIDIA H100 80GB HBM3`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@functools.cache
def _read(file: Path) -> dict[str, dict[str, Tiles]]:
    """By device, and by what it is for."""
    try:
        held = json.loads(file.read_text())
        if held["version"] != _VERSION:
            return {}
        return {
            name: {use: tuple(_tile(*tile) for tile in tiles) for use, tiles in each.items()}
            for name, each in held["devices"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        warnings.warn(
            f"{file} holds no tiles that can be read ({type(error).__name__}: {error}): kernels "
            "take their usual ones. Remove it, or tune anew",
            RuntimeWarning,
            stacklevel=4,
        )
        return {}


def _tile(sizes: list[int], warps: int, stages: int) -> Tile:
    for size in (*sizes, warps):
        if type(size) is not int or size < 1 or size & (size - 1):
            raise ValueError(f"{size!r} is no power of two")
    return Tile(tuple(sizes), warps, stages)
