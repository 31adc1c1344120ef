"""Files that are opened together: as wide as each other, and what their weights are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import open_table
from .tables import Choice, Table

__all__ = ["are_paths", "is_column", "open_all"]


def open_all(files: Sequence[Path], choice: Choice) -> list[Table]:
    """The tables, all of the width of the first, their columns in its order."""
    tables: list[Table] = []
    for path in files:
        table = open_table(path, choice)
        first = tables[0] if tables else table
        flat = len(table.shape) < 2 and len(first.shape) < 2
        if table.n_features != first.n_features or (table.shape != first.shape and not flat):
            raise InputError(
                f"{table.path} has rows of {_width(table)}, but {first.path} of {_width(first)}: "
                "choose columns=, or leave it out"
            )
        if table.names and first.names and table.names != first.names:
            table = open_table(path, replace(choice, columns=first.names))
        tables.append(table)
    return tables


def _width(table: Table) -> str:
    return f"{table.n_features} columns" if len(table.shape) == 1 else f"shape {table.shape}"


def is_column(weights: Any, files: Sequence[Path], choice: Choice) -> bool:
    """Whether weights are a column of the files."""
    if isinstance(weights, int) and not isinstance(weights, bool):
        return True
    if not isinstance(weights, str):
        return False
    names = open_table(files[0], Choice(name=choice.name)).names
    return weights in names


def are_paths(weights: Any) -> bool:
    """Whether weights lie in files of their own."""
    if isinstance(weights, (list, tuple)):
        return bool(weights) and are_paths(weights[0])
    return isinstance(weights, str) or hasattr(weights, "__fspath__")
