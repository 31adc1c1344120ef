"""A batch of mixtures for the methods whose steps move one: fits after each other, one result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..data import Groups
from ..errors import SingularCovarianceError
from ..mixture import GaussianMixture
from ..parameters import filled_up, stacked
from ..seeding import as_seeding, child
from .base import Method, State, Status
from .batch_result import BatchResult, Histories, Progress
from .events import FitResult, Observer, Resumption
from .going_on import Beside, left_of

__all__ = ["one_by_one"]


def one_by_one(
    fit: Callable[..., FitResult],
    mixture: GaussianMixture,
    rows: Groups,
    method: Method,
    init: Any,
    generator: torch.Generator,
    observers: Sequence[Observer],
    settings: dict[str, Any],
    resume: Resumption | None = None,
) -> BatchResult:
    """Fit every mixture of a batch as if it were alone, each with the generator as it is now.

    Args:
        fit: `torchgmm.fit`.
        mixture: the batch, changed in place.
        rows: of each.
        method: of the steps.
        init: as `fit` takes it, for a batch.
        generator: advanced by no fit.
        observers: told about each fit.
        settings: other arguments of `fit`.
        resume: where a fit that was cut goes on.
    """
    shape = tuple(mixture.batch_shape)
    # "current" says the same of each, and is no seeding
    seeding = None if isinstance(init, str) and init == "current" else as_seeding(init)
    mixture.materialize(rows.n_features)
    flat = mixture.as_parameters().map(torch.Tensor.detach).flat()
    batch = GaussianMixture.from_parameters(flat)
    each, left = left_of(resume, rows.n_groups, generator)
    for b, one in enumerate(batch.unstack()):
        if b < len(each):
            continue
        own = init if seeding is None else seeding.of(b, rows.n_groups)
        progress = Progress(tuple(each), generator=generator.get_state())
        mine = {
            "init": own,
            "generator": child(generator, first=True),
            "observers": [Beside(observer, progress) for observer in observers],
            "resume": left,
        }
        left = None
        try:
            result = fit(one, rows.of(b), method, **mine, **settings)
        except SingularCovarianceError:
            held = one.as_parameters(torch.float64).map(torch.Tensor.detach)
            result = FitResult(held, Status.SINGULAR, (), State(held))
        each.append(result)
    found = stacked([filled_up(r.parameters, mixture.n_components) for r in each])
    mixture.assign(found.shaped(shape))
    course = Histories(np.full(len(each), -1), each=tuple(each))
    levels = course.last_levels()
    runs = [r.runs or (r.log_likelihood,) for r in each]
    most = max(map(len, runs))
    runs = [(*own, *[float("nan")] * (most - len(own))) for own in runs]
    return BatchResult(
        found,
        max((r.status for r in each), key=lambda s: s is not Status.CONVERGED),
        tuple(step for r in each for step in r.history),
        State(found),
        statuses=tuple(r.status for r in each),
        course=course,
        levels=levels,
        levels_of_runs=torch.tensor(runs, dtype=torch.float64).T,
        shape=shape,
        states=tuple(r.state for r in each),
    )
