"""A step as a CUDA graph: what a GPU is told in a hundred launches it is told in one.

A step that goes ahead (`ahead`) asks the host nothing, and its rows lie where they always do, so it
can be recorded once and replayed on other parameters. A graph counts only if its first replay gives
the step's own numbers, bit for bit; where it does not, or cannot be recorded, steps are launched
one operation after the other as ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..parameters import Parameters
from .base import Method, Problem, State, Tentative

__all__ = ["Made", "StepGraph", "guessed", "recorded", "step_graph"]

# A state, a step and whether one of its guesses was wrong, all of them still on the device.
Made = tuple[State, Tentative, Tensor]
# Steps of more operations than this take longer than their launches: some ms on an H100.
_MOST = 10**10
_CAPTURES = 8  # of a fit whose answers keep changing; each costs as much as some steps


def guessed(method: Method, problem: Problem, state: State) -> Made:
    """One step that looks at nothing."""
    with problem.answers.guessing(state.parameters.means.device) as guess:
        after, step = method.step(state, problem)
        assert isinstance(step, Tentative)
    return after, step, guess.wrong()


def step_graph(method: Any, problem: Problem, state: State) -> StepGraph | None:
    """The graph for steps from this state; None where they are to be launched one by one."""
    if not _wanted(method, problem, state):
        return None
    held, key = problem.graphs, (problem.answers.given, state.rescues)
    if key not in held:
        if len(held) >= _CAPTURES:
            return None
        try:
            held[key] = StepGraph.checked(method, problem, state)
        except Exception as error:
            held[key] = None
            _tell(method, f"{type(error).__name__}: {error}")
        else:
            if held[key] is None:
                _tell(method, "its replay gives other numbers")
    return held[key]  # type: ignore[no-any-return]


def _wanted(method: Any, problem: Problem, state: State) -> bool:
    p, rows = state.parameters, problem.source.n_rows
    if method.cuda_graph == "never" or not _can_capture(p.means.device) or rows is None:
        return False
    if problem.source.on_host or problem.source.reads:
        return False  # rows come to other places on every pass
    numbers = rows * p.n_components * p.n_features**p.family.n_axes
    few: bool = method.check_every > 1 and numbers <= _MOST
    return few or method.cuda_graph == "always"


def _tell(method: Any, why: str) -> None:
    if method.cuda_graph == "always":
        warnings.warn(
            f"this step cannot be a CUDA graph ({why}): its operations are launched one by one",
            RuntimeWarning,
            stacklevel=2,
        )


class StepGraph:
    """One step, recorded with the tensors of one state and replayed with the numbers of others.

    Args:
        method: whose step.
        problem: the rows.
        state: for the shapes of its parameters.
    """

    def __init__(self, method: Method, problem: Problem, state: State) -> None:
        self._given = state.parameters.map(torch.clone)
        own = replace(state, parameters=self._given)
        self._made, self._replay = recorded(
            lambda: guessed(method, problem, own), self._given.means.device
        )

    @classmethod
    def checked(cls, method: Method, problem: Problem, state: State) -> StepGraph | None:
        """A graph whose replay was compared with the step itself; None if they differ."""
        expected = guessed(method, problem, state)  # compiles what is compiled when first used
        made = cls(method, problem, state)
        got = made(state)
        pairs = zip(_tensors(got), _tensors(expected), strict=True)
        return made if all(_same(a, b) for a, b in pairs) else None

    def __call__(self, state: State) -> Made:
        """The step from this state."""
        _copy(state.parameters, self._given)
        self._replay()
        after, step, wrong = self._made
        parameters = after.parameters.map(torch.clone)
        numbers = step.numbers.clone()
        after = replace(state, parameters=parameters, step=state.step + 1)
        return after, replace(step, numbers=numbers), wrong.clone()


def recorded(call: Callable[[], Made], device: torch.device) -> tuple[Made, Callable[[], None]]:
    """What a call gives, and what makes it give new numbers in the same tensors."""
    graph = torch.cuda.CUDAGraph()
    # other threads (that read rows of another fit) may go on allocating meanwhile
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = call()
    return made, graph.replay


def _can_capture(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.cuda is not None


def _copy(source: Parameters, into: Parameters) -> None:
    for mine, theirs in zip(_of(into), _of(source), strict=True):
        mine.copy_(theirs)


def _of(p: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    return p.logits, p.means, p.scale


def _tensors(made: Made) -> tuple[Tensor, ...]:
    after, step, wrong = made
    return (*_of(after.parameters), step.numbers, wrong)


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
