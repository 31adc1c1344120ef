"""Yes-or-no questions about numbers on a device: looked up, or taken as before and checked later.

To read a number the host waits until the device has computed all that comes before it, and a
small fit then waits longer than it computes. What a step asks about its sums (are they finite? is
a covariance singular?) has the answers of the step before, nearly always. So steps may take them
for granted: whether that was right stays on the device, and one look tells it for several steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

__all__ = ["Answers", "Guess", "answer", "guessing", "holds"]


class Guess:
    """What one step was told when it asked, and whether that was right.

    Args:
        known: the answers of an earlier step, in the order of its questions; none to look.
        device: whose numbers nobody looks at.
    """

    def __init__(self, known: tuple[bool, ...] = (), device: torch.device | None = None) -> None:
        self._known, self._device = known, device
        self.given: list[bool] = []
        self._wrong: list[Tensor] = []

    def answer(self, numbers: Tensor, judge: Callable[..., Any] | None) -> bool:
        """The answer for `numbers`: a condition, or what `judge` makes of them."""
        place = len(self.given)
        if place < len(self._known) and numbers.device == self._device:
            found = self._known[place]
            self._wrong.append((numbers if judge is None else judge(*numbers.unbind())) != found)
        else:
            found = _looked_up(numbers, judge)
        self.given.append(found)
        return found

    def wrong(self) -> Tensor:
        """Whether an answer turned out to be wrong, on the device, `()`."""
        if not self._wrong:
            return torch.zeros((), dtype=torch.bool, device=self._device)
        return torch.stack(self._wrong).any()


_now: ContextVar[Guess | None] = ContextVar("guess", default=None)


def holds(condition: Tensor) -> bool:
    """Whether a condition `()` holds."""
    now = _now.get()
    return bool(condition) if now is None else now.answer(condition, None)


def answer(numbers: Tensor, judge: Callable[..., Any]) -> bool:
    """What `judge` says of the entries of `numbers (n,)`, given as numbers or as tensors `()`."""
    now = _now.get()
    return _looked_up(numbers, judge) if now is None else now.answer(numbers, judge)


def guessing() -> bool:
    """Whether answers are taken for granted, so that what comes of them is no news yet."""
    now = _now.get()
    return now is not None and bool(now._known)


def _looked_up(numbers: Tensor, judge: Callable[..., Any] | None) -> bool:
    return bool(numbers) if judge is None else bool(judge(*numbers.tolist()))


class Answers:
    """Those of the last step that looked, for the steps after it."""

    def __init__(self) -> None:
        self._known: tuple[bool, ...] = ()

    @property
    def known(self) -> bool:
        """Whether a step has looked since the last mistake."""
        return bool(self._known)

    @property
    def given(self) -> tuple[bool, ...]:
        """The answers, in the order of asking."""
        return self._known

    def forget(self) -> None:
        """The next step must look again."""
        self._known = ()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """A step that looks, for those that will not."""
        with _asked(Guess()) as now:
            yield
        self._known = tuple(now.given)

    @contextmanager
    def guessing(self, device: torch.device) -> Iterator[Guess]:
        """A step that looks at no number on this device."""
        with _asked(Guess(self._known, device)) as now:
            yield now


@contextmanager
def _asked(guess: Guess) -> Iterator[Guess]:
    token = _now.set(guess)
    try:
        yield guess
    finally:
        _now.reset(token)
