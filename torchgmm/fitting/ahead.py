"""Steps made before anybody looks at their numbers: a GPU is waited for once for all of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from .base import Method, Problem, State, Step, Tentative

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["how_many", "tentative"]


def how_many(
    method: Method, problem: Problem, state: State, history: Sequence[Step]
) -> tuple[bool, int]:
    """Whether steps may go ahead at all, and how many now; 0: the next one looks."""
    source = problem.source
    if not method.looks_ahead or problem.group.size > 1 or not source.stable:
        return False, 0
    there = state.parameters.means.device.type != "cpu" and not source.on_host
    if method.check_every == 1 and not there:
        return False, 0  # nobody is waited for, or reading the rows takes longer
    if not problem.answers.known or (history and history[-1].rescued):
        return True, 0
    return True, min(method.check_every, method.max_iter - len(history))


def tentative(
    method: Method, problem: Problem, state: State, count: int
) -> list[tuple[State, Step]]:
    """As many of `count` steps as were right to go ahead, as if every one had looked.

    None where the first was wrong: it must be made again, looking.
    """
    made, numbers = [], []
    began = time.perf_counter()
    for _ in range(count):
        try:
            with problem.answers.guessing(state.parameters.means.device) as guess:
                state, step = method.step(state, problem)
                assert isinstance(step, Tentative)
        except Exception:  # of a wrong guess: otherwise the step that looks raises it again
            problem.answers.forget()
            break
        numbers.append(torch.cat([step.numbers, guess.wrong().to(step.numbers).reshape(1)]))
        made.append((state, step))
    if not made:
        return []
    read = torch.stack(numbers).tolist()  # here the device is waited for
    seconds, right = (time.perf_counter() - began) / len(made), []
    for (state, step), (*of_step, wrong) in zip(made, read, strict=True):
        if wrong:
            problem.answers.forget()
            break
        right.append((state, step.looked_at(of_step, seconds)))
    return right
