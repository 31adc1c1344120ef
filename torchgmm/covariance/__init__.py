"""The families of covariances: one small class each, one registry."""

from __future__ import annotations

from .axis_aligned import Diagonal, Spherical, TiedDiagonal, TiedSpherical
from .base import Family, as_family, families
from .common_axes import CommonAxes
from .floor import Floor, RelativeFloor, absolute, check_floor, floor_of
from .full import Full, Tied

__all__ = [
    "CommonAxes",
    "Diagonal",
    "Family",
    "Floor",
    "Full",
    "RelativeFloor",
    "Spherical",
    "Tied",
    "TiedDiagonal",
    "TiedSpherical",
    "absolute",
    "as_family",
    "check_floor",
    "families",
    "floor_of",
]
