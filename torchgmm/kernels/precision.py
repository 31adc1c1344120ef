"""Products of float32 with all its digits, whatever the surrounding program allows its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

__all__ = ["full_precision"]

_EXACT = ("none", "ieee")


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which mixed precision and TF32 are off: they have no digits for a distance.

    Reduced products (TF32 on a GPU, bfloat16 on some CPUs) are a switch of the whole program
    (`torch.set_float32_matmul_precision`), meant for networks; here they are asked for by the name
    of a kernel or not at all. The switch stands as it was on leaving. A graph being compiled
    follows the program's switch where it holds the definition itself rather than an operator.
    """
    autocast = torch.autocast(device.type, enabled=False)
    return autocast if torch.compiler.is_compiling() else _exact(autocast)


@contextmanager
def _exact(autocast: torch.autocast) -> Iterator[None]:
    before = _switches()
    try:
        _set(dict.fromkeys(before, "ieee"))
        with autocast:
            yield
    finally:
        _set(before)


def _switches() -> dict[str, str]:
    """Those that allow less than float32, and how they stand."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
        word = torch.get_float32_matmul_precision()
        return {} if word == "highest" else {"all": word}
    rooms = {"cuda": torch.backends.cuda.matmul, "mkldnn": torch.backends.mkldnn.matmul}  # type: ignore[attr-defined]
    found = {name: room.fp32_precision for name, room in rooms.items()}
    return {name: word for name, word in found.items() if word not in _EXACT}


def _set(words: dict[str, str]) -> None:
    for name, word in words.items():
        if name == "all":
            torch.set_float32_matmul_precision("highest" if word == "ieee" else word)
        elif name == "cuda":
            torch.backends.cuda.matmul.fp32_precision = word
        else:
            torch.backends.mkldnn.matmul.fp32_precision = word  # type: ignore[attr-defined]
