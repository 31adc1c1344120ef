"""Tiles of the kernels that subtract and whiten: usual ones by the sizes, others where tuned."""

from __future__ import annotations

import torch
from torch import Tensor

from .triton_launch import Tile, interpreted, power_of_two
from .triton_tuned import Use, tuned

__all__ = ["INTERPRETED_ROWS", "axes_tiles", "matrix_tiles", "tiles", "use_of"]

# Of a tile and a slab in the interpreter: there an operation costs the same for many rows as for
# one. Slabs are still several in the larger cases.
INTERPRETED_ROWS = 1024
# None of these spills more than a few registers on an H100, by the report of its assembler.
_MATRIX_TILES = {
    16: (Tile((128, 16, 16)), Tile((64, 16, 16))),
    32: (Tile((128, 16, 32)), Tile((64, 16, 32))),
    64: (Tile((128, 16, 64), 8), Tile((32, 16, 64), 8)),
    128: (Tile((64, 16, 128), 8), Tile((32, 16, 128), 8)),
}


def tiles(k: int, d: int, like: Tensor, precision: str, *, is_matrix: bool) -> tuple[Tile, ...]:
    """Of the pass that finds log-densities, and of the sums."""
    use = use_of(k, d, like.dtype, precision, is_matrix=is_matrix)
    usual = matrix_tiles(d, like.dtype) if is_matrix else axes_tiles(k, d)
    return tuned(use, like.device, usual)


def use_of(k: int, d: int, dtype: torch.dtype, precision: str, *, is_matrix: bool) -> Use:
    """What tiles are kept under."""
    if is_matrix:
        return Use("matrix", (_width(d),), dtype, precision)
    return Use("axes", _least_tile(k, d), dtype)


def matrix_tiles(d: int, dtype: torch.dtype) -> tuple[Tile, Tile]:
    """For covariances that are matrices: rows, features of a product, features in all."""
    width = _width(d)
    if interpreted():
        tile = Tile((INTERPRETED_ROWS, width, width))
        return tile, tile
    if dtype == torch.float64:
        warps = 8 if width > 32 else 4
        return Tile((32, 16, width), warps), Tile((32 if width < 128 else 16, 16, width), warps)
    return _MATRIX_TILES[width]


def axes_tiles(k: int, d: int) -> tuple[Tile, Tile]:
    """For covariances along the axes: rows, components, features."""
    components, features = _least_tile(k, d)
    if interpreted():
        tile = Tile((INTERPRETED_ROWS, components, min(8, features)))
        return tile, tile
    return Tile((64, components, 1)), Tile((1 if features > 8 else 8, components, features))


def _width(d: int) -> int:
    return max(16, power_of_two(d))


def _least_tile(k: int, d: int) -> tuple[int, int]:
    """Components and features of a tile that holds all, or as many as it should."""
    return min(32, power_of_two(k)), min(64, power_of_two(d))
