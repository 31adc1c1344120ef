"""A batch of mixtures for the methods whose steps move one: fits after each other, one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..data import Groups
from ..errors import SingularCovarianceError
from ..mixture import GaussianMixture
from ..parameters import filled_up, stacked
from ..seeding import as_seeding, child
from .base import Method, State, Status
from .events import BatchResult, FitResult, Histories

__all__ = ["one_by_one"]


def one_by_one(
    fit: Callable[..., FitResult],
    mixture: GaussianMixture,
    rows: Groups,
    method: Method,
    init: Any,
    generator: torch.Generator,
    settings: dict[str, Any],
) -> BatchResult:
    """Fit every mixture of a batch as if it were alone, each with the generator as it is now.

    Args:
        fit: `torchgmm.fit`.
        mixture: the batch, changed in place.
        rows: of each.
        method: of the steps.
        init: as `fit` takes it, for a batch.
        generator: advanced by no fit.
        settings: other arguments of `fit`.
    """
    shape = tuple(mixture.batch_shape)
    # "current" says the same of each, and is no seeding
    seeding = None if isinstance(init, str) and init == "current" else as_seeding(init)
    mixture.materialize(rows.n_features)
    flat = mixture.as_parameters().map(torch.Tensor.detach).flat()
    batch = GaussianMixture.from_parameters(flat)
    each = []
    for b, one in enumerate(batch.unstack()):
        own = init if seeding is None else seeding.of(b, rows.n_groups)
        mine = {"init": own, "generator": child(generator, first=True)}
        try:
            result = fit(one, rows.of(b), method, **mine, **settings)
        except SingularCovarianceError:
            held = one.as_parameters(torch.float64).map(torch.Tensor.detach)
            result = FitResult(held, Status.SINGULAR, (), State(held))
        each.append(result)
    found = stacked([filled_up(r.parameters, mixture.n_components) for r in each])
    mixture.assign(found.shaped(shape))
    course = Histories(each)
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
