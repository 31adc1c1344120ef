"""`fit`: the one loop over steps, for every method, source and family."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from .. import checks
from ..data import Checked, as_source
from ..errors import ConvergenceWarning, InputError
from ..mixture import GaussianMixture
from ..parameters import Parameters
from ..seeding import Seeding, Start, as_seeding
from .base import Event, FitResult, Method, Observer, Problem, State, Status, Step
from .em import EM
from .stopping import Stop, Tolerance

__all__ = ["fit"]

CPU = torch.device("cpu")
# Exact EM falls only by rounding; a method that has not risen for so long will not rise.
_STALL = 50


@torch.no_grad()
def fit(
    mixture: GaussianMixture,
    data: Any,
    method: Method | None = None,
    *,
    weights: Any = None,
    init: str | Seeding | Parameters | Any = "kmeans",
    n_init: int = 1,
    stop: Stop | None = None,
    generator: torch.Generator | int | None = None,
    observers: Sequence[Observer] = (),
) -> FitResult:
    """Fit a mixture to data, in place, and say how it went.

    Rows are computed in torch's promotion of their dtype and the mixture's (integers and half
    precision in the mixture's), with sums in float64. Rows on the CPU are sent block by block to
    a mixture on another device.

    Args:
        mixture: changed in place; it learns `n_features` here if it was built without.
        data: rows `(N, D)` as a tensor, an array, a memory map, a file, a recipe or a source.
        method: how a step is made; `EM()` if not given.
        weights: one number per row, at least 0: an integer weight counts as that many equal rows,
            and a row of weight 0 as absent whatever it holds.
        init: `kmeans`, `k-means++`, `random_from_data`, `random`, `current` (go on from what the
            mixture holds), labels `(N,)`, `Parameters`, or a `Seeding`.
        n_init: runs from different starts; the one with the highest log-likelihood is kept.
        stop: the stopping rule; `Tolerance(1e-3)`, scikit-learn's, if not given.
        generator: a torch generator on the CPU or a seed: everything random comes from it, so
            equal seeds give equal fits. torch's global generator if not given.
        observers: told about every step.

    Returns:
        What was found and how. A fit that does not converge is no error: its status says so, and
        a `ConvergenceWarning` is issued once.

    Raises:
        InputError: data, weights or settings that cannot be used.
        SingularCovarianceError: a covariance without spread and no floor. As at every error and
            at Ctrl-C, the mixture then holds the best that was found until then.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> x[200:] += 8
        >>> mixture = tg.GaussianMixture(2)
        >>> result = tg.fit(mixture, x, tg.EM(max_iter=20), generator=0)
        >>> result.status.name, result.n_steps < 10
        ('CONVERGED', True)
    """
    method = EM() if method is None else method
    stop = Tolerance() if stop is None else stop
    generator = _as_generator(generator)
    checks.check_count("n_init", n_init)
    problem = Problem(_open(mixture, data, weights), generator)
    seeding = _seeding(init, mixture)
    if n_init > 1 and isinstance(seeding, Start):
        raise InputError(f"n_init={n_init} runs from one and the same start would all be equal")
    mixture.materialize(problem.source.n_features)
    for observer in observers:
        observer.on_start(problem, method, n_init)
    best: FitResult | None = None
    try:
        for run in range(n_init):
            start = seeding(
                problem.source, mixture.n_components, mixture.family, method.reg_covar, generator
            )
            result = _run(mixture, problem, method, stop, start, observers, (run + 1, n_init), best)
            best = _better(best, result)
    finally:
        if best is not None:
            mixture.assign(best.parameters)
        for observer in observers:
            observer.on_end(best)
    assert best is not None
    if best.status not in (Status.CONVERGED, Status.ENDED) and method.max_iter > 0:
        warnings.warn(f"{best}", ConvergenceWarning, stacklevel=_caller())
    return best


def _run(
    mixture: GaussianMixture,
    problem: Problem,
    method: Method,
    stop: Stop,
    start: Parameters,
    observers: Sequence[Observer],
    run: tuple[int, int],
    best: FitResult | None,
) -> FitResult:
    """Steps from one start until the rule is met or the budget spent."""
    state = method.init(start, problem)
    history: list[Step] = []
    status = Status.BUDGET_SPENT
    peak, peak_at, at_peak = -math.inf, 0, state
    try:
        while len(history) < method.max_iter:
            entered, began = state, time.perf_counter()
            state, step = method.step(state, problem)
            if not math.isfinite(step.log_likelihood):
                state, status = entered, Status.DIVERGED
                break
            history.append(_timed(step, time.perf_counter() - began))
            if step.log_likelihood > peak:
                peak, peak_at, at_peak = step.log_likelihood, len(history), entered
            _tell(observers, history, method, problem, run, state)
            levels = [s.log_likelihood for s in history]
            if step.rescued == 0 and stop.met(levels):
                status = Status.CONVERGED
                break
            if step.last:
                status = Status.ENDED
                break
            if len(history) - peak_at >= _STALL:
                state, status = at_peak, Status.STALLED
                break
    except BaseException:
        if best is None:  # keep what was computed
            mixture.assign(state.parameters)
        raise
    return FitResult(state.parameters, status, tuple(history), state)


def _tell(
    observers: Sequence[Observer],
    history: list[Step],
    method: Method,
    problem: Problem,
    run: tuple[int, int],
    state: State,
) -> None:
    if not observers:
        return
    last = history[-1]
    change = last.log_likelihood - history[-2].log_likelihood if len(history) > 1 else math.inf
    event = Event(last, len(history), method.max_iter, change, last.rows, *run, state)
    for observer in observers:
        observer.on_step(event)


def _timed(step: Step, seconds: float) -> Step:
    return dataclasses.replace(step, seconds=seconds)


def _better(best: FitResult | None, result: FitResult) -> FitResult:
    runs = (*(best.runs if best else ()), result.log_likelihood)
    kept = result
    if best is not None and not result.log_likelihood > best.log_likelihood:
        kept = best
    return FitResult(kept.parameters, kept.status, kept.history, kept.state, runs)


def _open(mixture: GaussianMixture, data: Any, weights: Any) -> Checked:
    if mixture.batch_shape:
        raise InputError(
            f"a fit is of one mixture, this one is a batch of shape {tuple(mixture.batch_shape)}: "
            "fit them one by one and join their parameters"
        )
    if isinstance(data, torch.Tensor) and data.device not in (CPU, mixture.device):
        raise InputError(f"rows are on {data.device}, the mixture on {mixture.device}: move one")
    source = as_source(data, weights)
    if mixture.n_features is not None:
        checks.check_rows((1, source.n_features), mixture.n_features)
    if source.n_rows is not None and source.n_rows < mixture.n_components:
        raise InputError(
            f"{source.n_rows} row(s) cannot be fitted with n_components={mixture.n_components}: "
            "give more rows or fewer components"
        )
    return Checked(source, checks.compute_dtype(source.dtype, mixture.dtype), mixture.device)


def _seeding(init: Any, mixture: GaussianMixture) -> Seeding:
    if isinstance(init, str) and init == "current":
        return Start(mixture.as_parameters(torch.float64).map(torch.Tensor.detach))
    seeding = as_seeding(init)
    if isinstance(seeding, Start):
        own = seeding.parameters.to(torch.float64, mixture.device)
        return Start(own.map(torch.Tensor.detach))
    return seeding


def _as_generator(generator: torch.Generator | int | None) -> torch.Generator:
    if isinstance(generator, torch.Generator):
        return generator
    made = torch.Generator()
    if generator is None:
        generator = int(torch.randint(2**62, ()))
    made.manual_seed(checks.check_count("generator", generator, least=0))
    return made


def _caller() -> int:
    """Frames between the warning and the code outside this package."""
    import sys

    depth, frame = 1, sys._getframe(1)
    package = __name__.split(".")[0]
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(
        (package, "torch.")
    ):
        depth, frame = depth + 1, frame.f_back
    return depth
