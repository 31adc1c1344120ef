"""Steps made before anybody looks at their numbers: a GPU is waited for once for all of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from .base import Method, Problem, State, Step
from .graphs import guessed, step_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["how_many", "tentative"]

# Seconds of a step that gains nothing by going ahead, and of which observers hear while it runs.
_LONG = 0.1


def how_many(
    method: Method, problem: Problem, state: State, history: Sequence[Step]
) -> tuple[bool, int]:
    """Whether steps may go ahead at all, and how many now; 0: the next one looks."""
    source = problem.source
    if not method.looks_ahead or problem.group.size > 1 or not source.stable:
        return False, 0
    there = _waited_for(state.parameters.means.device) and not source.on_host
    if method.check_every == 1 and not there:
        return False, 0  # nobody is waited for, or reading the rows takes longer
    if not problem.answers.known or not history or history[-1].rescued:
        return True, 0
    if method.check_every == 1 and history[-1].seconds > _LONG:
        return True, 0
    return True, min(method.check_every, method.max_iter - len(history))


def _waited_for(device: torch.device) -> bool:
    return device.type != "cpu"


def tentative(
    method: Method, problem: Problem, state: State, count: int
) -> list[tuple[State, Step]]:
    """As many of `count` steps as were right to go ahead, as if every one had looked.

    None at all where the first was wrong: it must be made again, looking.
    """
    made, numbers = [], []
    began = time.perf_counter()
    graph = step_graph(method, problem, state)
    for _ in range(count):
        try:
            state, step, wrong = graph(state) if graph else guessed(method, problem, state)
        except Exception:  # of a wrong guess: otherwise the step that looks raises it again
            problem.answers.forget()
            break
        numbers.append(torch.cat([step.numbers, wrong.to(step.numbers).reshape(1)]))
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
