"""Where rows live: sources that yield weighted blocks and know nothing of mixtures."""

from __future__ import annotations

from .arrays import ArraySource
from .base import Indexed, Source
from .block import Block
from .checked import Checked
from .datasets import DatasetSource
from .door import as_source
from .encoder import Encoded
from .files import read_table, table_suffixes
from .grouping import as_groups
from .groups import Groups, SharedGroups
from .loaders import LoaderSource
from .numbers import scrambled, uniform
from .recipes import Bundled, Files, ImagePatches, Recipe, read_grey
from .shards import ShardSource
from .spread import OwnRows, spread
from .wrapped import Wrapped

__all__ = [
    "ArraySource",
    "Block",
    "Bundled",
    "Checked",
    "DatasetSource",
    "Encoded",
    "Files",
    "Groups",
    "ImagePatches",
    "Indexed",
    "LoaderSource",
    "OwnRows",
    "Recipe",
    "ShardSource",
    "SharedGroups",
    "Source",
    "Wrapped",
    "as_groups",
    "as_source",
    "read_grey",
    "read_table",
    "scrambled",
    "spread",
    "table_suffixes",
    "uniform",
]
