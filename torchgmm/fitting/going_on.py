"""Where the fit of a batch of mixtures goes on that was cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..data import Groups
from ..errors import InputError
from ..exact import exact_device
from ..mixture import GaussianMixture
from .base import Method, Problem
from .batch_result import BatchResult, Ends, Progress
from .climb import check_resumed, on_device
from .events import Event, FitResult, Observer, Resumption, RowsEvent

__all__ = ["Beside", "ends_of", "gone_on", "left_of"]


def ends_of(resume: Resumption) -> Ends:
    """The place of every mixture of a batch that climbs together."""
    ends = None if resume.progress is None else resume.progress.ends
    if ends is None:
        raise InputError(
            "the fit to resume is none of a batch of mixtures that climb together: give the "
            "mixture and the method of the fit that was cut"
        )
    return ends


def gone_on(
    resume: Resumption | None,
    mixture: GaussianMixture,
    method: Method,
    rows: Groups,
    parts: Sequence[Tensor],
    generator: torch.Generator,
) -> tuple[list[BatchResult], BatchResult | None, Resumption | None]:
    """What is done already, the best of the runs before, and where the one under way stands.

    Args:
        resume: from a checkpoint, None at the beginning.
        mixture: the batch.
        method: of the fit.
        rows: of each mixture.
        parts: numbers of the mixtures that climb together.
        generator: set to what it was.

    Raises:
        InputError: the fit that was cut is another one.
    """
    if resume is None:
        return [], None, None
    ends = ends_of(resume)
    assert resume.progress is not None
    done = [one for one in resume.progress.done if isinstance(one, BatchResult)]
    sizes = [*(len(one) for one in done), len(ends.status)]
    if sizes != [len(part) for part in parts[: len(sizes)]]:
        raise InputError(
            f"the fit to resume is of {sum(sizes)} mixtures or more, {sizes[-1]} at a time; this "
            f"one of {rows.n_groups}, {len(parts[0])} at a time"
        )
    check_resumed(method, resume.state, ends.found, mixture, rows.n_features)
    generator.set_state(resume.generator)
    place, best = exact_device(mixture.device), resume.best
    assert best is None or isinstance(best, BatchResult)
    ends = replace(ends, found=on_device(ends.found, place))
    state = on_device(resume.state, place)
    left = replace(resume, state=state, progress=Progress(ends=ends))
    return [_moved(one, place) for one in done], best and _moved(best, place), left


def _moved(result: BatchResult, device: torch.device) -> BatchResult:
    """Its parameters on a device; what is known of each mixture stays on the CPU."""
    found, state = (on_device(value, device) for value in (result.parameters, result.state))
    return replace(result, parameters=found, state=state)


def left_of(
    resume: Resumption | None, n_mixtures: int, generator: torch.Generator
) -> tuple[list[FitResult], Resumption | None]:
    """Of mixtures that are fitted one after the other: results so far, and the one under way.

    Args:
        resume: from a checkpoint, None at the beginning.
        n_mixtures: B.
        generator: set to what it was when the first of them began.

    Raises:
        InputError: the fit that was cut is another one.
    """
    if resume is None:
        return [], None
    progress = resume.progress
    if progress is None or progress.generator is None or len(progress.done) >= n_mixtures:
        raise InputError(
            f"the fit to resume is none of a batch of {n_mixtures} mixtures that are fitted one "
            "after the other: give the mixture and the method of the fit that was cut"
        )
    generator.set_state(progress.generator)
    return list(progress.done), replace(resume, progress=None)


class Beside(Observer):
    """Tells an observer, beside what happens to one mixture, how far the batch has come.

    Args:
        observer: to be told.
        progress: of the batch.
    """

    def __init__(self, observer: Observer, progress: Progress) -> None:
        self._observer, self._progress = observer, progress

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        self._observer.on_start(problem, method, n_init)

    def on_step(self, event: Event) -> None:
        self._observer.on_step(replace(event, progress=self._progress))

    def on_rows(self, event: RowsEvent) -> None:
        self._observer.on_rows(replace(event, progress=self._progress))

    def on_end(self, result: FitResult | None) -> None:
        self._observer.on_end(result)
