"""Where rows live: sources that yield weighted blocks and know nothing of mixtures."""

from __future__ import annotations

from .arrays import ArraySource
from .base import Block, Indexed, Source
from .checked import Checked
from .datasets import DatasetSource
from .door import as_source
from .encoder import Encoded
from .files import read_table, table_suffixes
from .loaders import LoaderSource
from .numbers import scrambled, uniform
from .recipes import Bundled, Files, ImagePatches, Recipe
from .shards import ShardSource
from .spread import OwnRows, spread

__all__ = [
    "ArraySource",
    "Block",
    "Bundled",
    "Checked",
    "DatasetSource",
    "Encoded",
    "Files",
    "ImagePatches",
    "Indexed",
    "LoaderSource",
    "OwnRows",
    "Recipe",
    "ShardSource",
    "Source",
    "as_source",
    "read_table",
    "scrambled",
    "spread",
    "table_suffixes",
    "uniform",
]
