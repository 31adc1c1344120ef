"""`partial_fit`: one pass of online EM whose state is kept from call to call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..collective import alone
from ..data import Source
from ..fitting import FitResult, OnlineEM, OnlineState, Problem, fit
from ..mixture import GaussianMixture
from ..parameters import Parameters

__all__ = ["after_fit", "learn"]


def learn(
    mixture: GaussianMixture,
    source: Source,
    method: OnlineEM,
    state: OnlineState | None,
    start: dict[str, Any],
) -> tuple[OnlineState, FitResult]:
    """One pass over these rows, from a kept state or, at first, from a start drawn from them.

    Args:
        mixture: to learn.
        source: the rows.
        method: of one step.
        state: of the passes before.
        start: `init` and `generator`, where there is no state.
    """
    going = start if state is None else {"state": state, "generator": 0}
    with alone():
        result = fit(mixture, source, method, **going)
    assert isinstance(result.state, OnlineState)
    return result.state, result


def after_fit(
    parameters: Parameters, method: OnlineEM, source: Source, rows: float, row_weight: float
) -> OnlineState:
    """The state of an online fit that has seen the rows of a batch fit: it trusts them as much.

    Args:
        parameters: that the batch fit found.
        method: that goes on.
        source: some rows; not read.
        rows: of the batch fit, 0 where nobody knows.
        row_weight: their mean weight.
    """
    state = method.init(parameters, Problem(source, torch.Generator().manual_seed(0)))
    seen = parameters.log_weights.exp() * rows
    return replace(state, seen=seen, rows_seen=rows, row_weight=row_weight)
