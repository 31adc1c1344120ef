"""A batch of mixtures for the methods whose steps move one: fits after each other, one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..data import Groups
from ..errors import InputError, SingularCovarianceError
from ..mixture import GaussianMixture
from ..parameters import Parameters, filled_up, stacked
from ..seeding import Seeding, Start
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
    start, shape = generator.get_state(), tuple(mixture.batch_shape)
    mixture.materialize(rows.n_features)
    flat = mixture.as_parameters().map(torch.Tensor.detach).flat()
    batch = GaussianMixture.from_parameters(flat)
    each = []
    for b, one in enumerate(batch.unstack()):
        own = torch.Generator()
        own.set_state(start)
        mine = {"init": _init_of(init, b, rows.n_groups, shape), "generator": own}
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


def _init_of(init: Any, b: int, n: int, shape: tuple[int, ...]) -> Any:
    """What `init` of a batch means for one of its mixtures."""
    if isinstance(init, Start):
        init = init.parameters
    if isinstance(init, str | Seeding):
        return init
    if isinstance(init, Parameters):
        if not init.batch_shape:
            return init
        if init.batch_shape.numel() != n:
            raise InputError(f"a start of {init.batch_shape.numel()} mixtures is none for {n}")
        return init.flat()[b]
    labels = init.reshape(-1, init.shape[-1]) if getattr(init, "ndim", 1) > 1 else init
    if len(labels) != n or getattr(labels, "ndim", 2) == 1:
        raise InputError(
            f"labels of a batch of {n} mixtures are one table or list of {n} rows of labels, got "
            f"{len(labels)}"
        )
    return labels[b]
