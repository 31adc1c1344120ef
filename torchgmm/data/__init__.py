"""Where rows live: sources that yield weighted blocks and know nothing of mixtures."""

from __future__ import annotations

from .arrays import ArraySource
from .base import Block, Checked, Source
from .door import as_source
from .files import read_table
from .recipes import Bundled, Files, ImagePatches, Recipe

__all__ = [
    "ArraySource",
    "Block",
    "Bundled",
    "Checked",
    "Files",
    "ImagePatches",
    "Recipe",
    "Source",
    "as_source",
    "read_table",
]
