"""`fit`: the one loop over steps, for every method, source and family."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .. import checks
from ..collective import ALONE, Group, current, together
from ..data import Checked, as_source, spread
from ..errors import ConvergenceWarning, InputError
from ..exact import exact_device, has_float64
from ..kernels import as_kernel, by_columns, full_precision
from ..mixture import GaussianMixture
from ..parameters import Parameters
from ..seeding import Seeding, Start, as_seeding, child, near
from .base import Method, Problem, State, Status
from .batch import Batch
from .climb import Begun, Climb
from .em import EM
from .events import FitResult, Observer, Resumption
from .one_by_one import one_by_one
from .restarts import best_of, is_better, side_by_side
from .stopping import Stop, Tolerance
from .watch import Watch, Watched

__all__ = ["fit"]

CPU = torch.device("cpu")


@together
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
    encoder: Any = None,
    observers: Sequence[Observer] = (),
    resume: Resumption | None = None,
    state: State | None = None,
    groups: Any = None,
) -> FitResult:
    """Fit a mixture to data, in place, and say how it went.

    Rows are computed in torch's promotion of their dtype and the mixture's (integers and half
    precision in the mixture's), with sums in float64. Rows on the CPU are sent block by block to
    a mixture on another device. A device that has no float64 (Apple's `mps`) computes all rows in
    float32, and what is exact is made on the CPU: starts, sums over chunks of rows, and M-steps;
    `parameters` and `state` of the result are there.

    Args:
        mixture: changed in place; it learns `n_features` here if it was built without.
        data: rows `(N, D)` as a tensor, an array, a memory map, files, a data set, a loader, an
            iterator of batches, a recipe or a source: whatever `torchgmm.data.as_source` takes.
        method: how a step is made; `EM()` if not given.
        weights: one number per row, at least 0: an integer weight counts as that many equal rows,
            and a row of weight 0 as absent whatever it holds.
        init: `kmeans`, `k-means++`, `random_from_data`, `random`, `current` (go on from what the
            mixture holds), labels `(N,)`, another mixture, `Parameters`, or a `Seeding`.
        n_init: runs from different starts; the one with the highest log-likelihood is kept.
        stop: the stopping rule; `Tolerance(1e-3)`, scikit-learn's, if not given.
        generator: a torch generator on the CPU or a seed: everything random comes from it, so
            equal seeds give equal fits. torch's global generator if not given.
        encoder: maps batches of anything (images) to rows; a module runs in eval mode, without
            gradients, on its own device.
        observers: told about every step; of several processes, only in the first.
        resume: go on with a fit that was cut off, from what `read_checkpoint` gives; everything
            else must be as it was then.
        groups: for a batch of mixtures, the number of the mixture that each row belongs to; where
            the data are batches, the place of these numbers in the tuple, or their key.
        state: go on with *other* rows from the `state` of an earlier result, in place of `init`.
            `OnlineEM` keeps what it has learnt and its clock; the other methods, whose statistics
            are of the rows before, keep the parameters.

    Where several processes make this call (under torchrun, srun, or in a group of
    torch.distributed), they fit one mixture together, each on its share of the rows:
    `torchgmm.collective` says how; inside `with torchgmm.alone():` each fits its own.

    A mixture with batch axes is fitted to `(*B, N, D)`, to a list of B tables, to rows with
    `groups`, or to one table for all; weights are shaped as the rows are. Each of its mixtures ends
    as it would alone, and the result is a `BatchResult`. `EM` moves all together; other methods fit
    them one after the other.

    Returns:
        What was found and how. A fit that does not converge is no error: its status says so, and
        a `ConvergenceWarning` is issued once.

    Raises:
        InputError: data, weights or settings that cannot be used.
        PeerError: another process failed or is missing.
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

        Three at once:

        >>> many = tg.GaussianMixture(2, batch_shape=(3,))
        >>> result = tg.fit(many, torch.stack([x, 2 * x, 3 * x]), generator=0)
        >>> [one.status.name for one in result]
        ['CONVERGED', 'CONVERGED', 'CONVERGED']
        >>> many.weights.shape, many[2].weights.shape
        (torch.Size([3, 2]), torch.Size([2]))
    """
    method = EM() if method is None else method
    observers = _checked(method, stop, observers)
    checks.check_count("n_init", n_init)
    _check_kernel(method, mixture.device)
    if mixture.batch_shape:
        if state is not None:
            raise InputError("a fit of a batch of mixtures begins anew: give init= for a start")
        batch = Batch(mixture, method, stop or Tolerance(), observers)
        rows = batch.open(data, weights, groups, encoder)
        drawn = checks.as_generator(generator)
        if not method.takes_batches:
            told, settings = tuple(observers), {"stop": stop, "n_init": n_init}
            start = init if isinstance(init, str) else _seeding(init, mixture, ALONE)
            return one_by_one(fit, mixture, rows, method, start, drawn, told, settings, resume)
        seeding = _seeding(init, mixture, ALONE)
        return _told(batch.fit(rows, seeding, n_init, drawn, resume), method)
    if groups is not None:
        raise InputError("groups= says to which mixture of a batch a row belongs: this is one")
    watch = Watch()
    source = _open(mixture, data, weights, encoder, few=state is not None)
    group = source.group
    group.agree(
        **{
            "the mixture": f"{mixture.n_components} {mixture.family.name} components",
            "the method": method,
            "n_init": n_init,
            "the stopping rule": stop,
        }
    )
    drawn = group.same_generator(checks.as_generator(generator))
    problem = Problem(Watched(source, watch), drawn, watch)
    seeding = _seeding(init, mixture, group)
    observers = observers if group.leads else ()
    if n_init > 1 and (isinstance(seeding, Start) or state is not None):
        raise InputError(f"n_init={n_init} runs from one and the same start would all be equal")
    if resume is not None and state is not None:
        raise InputError("resume= goes on with the same rows, state= with other rows: give one")
    mixture.materialize(problem.source.n_features)
    kind = (mixture.n_components, mixture.family)
    if n_init > 1 and resume is None and not observers and side_by_side(source, method, *kind):
        before = drawn.get_state()
        runs = [child(drawn, first=number == 0) for number in range(n_init)]
        with full_precision(mixture.device):
            found = best_of(source, seeding, *kind, method, stop or Tolerance(), runs)
        if found is not None:
            mixture.assign(found.parameters)
            return _told(found, method)
        drawn.set_state(before)  # one of them fails: in its turn it says why
    climb = Climb(problem, method, stop or Tolerance(), observers, n_init)
    begun = Begun.of(climb, mixture, resume, state)
    for observer in observers:
        observer.on_start(problem, method, n_init)
    done: FitResult | None = None
    try:
        with full_precision(mixture.device):  # sums in bfloat16 would be none
            while begun.run <= n_init:
                if begun.state is None:
                    begun.state = climb.start(begun, seeding, mixture.n_components, mixture.family)
                begun.best = _better(begun.best, climb.to_the_end(begun))
                begun.run, begun.state, begun.history = begun.run + 1, None, []
        done = begun.best
    except BaseException as error:
        begun.keep(mixture)
        for other in climb.cut(begun):
            error.add_note(f"besides, an observer failed: {type(other).__name__}: {other}")
        raise
    begun.keep(mixture)
    assert done is not None
    if failed := climb.end(done):
        raise failed[0]  # only now, when all observers were told
    return _told(done, method) if group.leads else done


def _checked(method: Any, stop: Any, observers: Any) -> tuple[Observer, ...]:
    """The observers, when they and the rest are what they should be."""
    checks.check_kind("the method", method, Method, "EM()")
    if stop is not None:
        checks.check_kind("stop", stop, Stop, "Tolerance(1e-4)")
    if isinstance(observers, Observer) or not isinstance(observers, Iterable):
        raise InputError(f"observers must be a list of observers, got {observers!r}: write [...]")
    found = tuple(observers)
    for observer in found:
        checks.check_kind("each of the observers", observer, Observer, "Progress()")
    return found


def _check_kernel(method: Method, device: torch.device) -> None:
    kernel = as_kernel(getattr(method, "kernel", "auto"))
    if kernel.needs_float64 and not has_float64(device):
        raise InputError(
            f"kernel {kernel.name!r} computes in float64 where the rows are, and device "
            f"{device.type} has none: take 'auto', which is 'dense' there"
        )


def _told(done: FitResult, method: Method) -> FitResult:
    if done.status not in (Status.CONVERGED, Status.ENDED) and method.max_iter > 0:
        warnings.warn(f"{done}", ConvergenceWarning, stacklevel=_caller())
    return done


def _better(best: FitResult | None, result: FitResult) -> FitResult:
    runs = (*(best.runs if best else ()), result.log_likelihood)
    kept = result
    if best is not None and not is_better(result.log_likelihood, best.log_likelihood):
        kept = best
    return FitResult(kept.parameters, kept.status, kept.history, kept.state, runs)


def _open(mixture: GaussianMixture, data: Any, weights: Any, encoder: Any, *, few: bool) -> Checked:
    if isinstance(data, torch.Tensor) and data.device not in (CPU, mixture.device):
        raise InputError(f"rows are on {data.device}, the mixture on {mixture.device}: move one")
    source = spread(as_source(data, weights, encoder=encoder), current())
    if mixture.n_features is not None:
        checks.check_rows((1, source.n_features), mixture.n_features)
    if not few and source.n_rows is not None and source.n_rows < mixture.n_components:
        raise InputError(
            f"{source.n_rows} row(s) cannot be fitted with n_components={mixture.n_components}: "
            "give more rows or fewer components"
        )
    dtype = checks.compute_dtype(source.dtype, mixture.dtype, mixture.device)
    columns = by_columns(source.n_features, mixture.family) and has_float64(mixture.device)
    return Checked(source, dtype, mixture.device, by_columns=columns)


def _seeding(init: Any, mixture: GaussianMixture, group: Group) -> Seeding:
    if isinstance(init, str) and init == "current":
        held = mixture.as_parameters(torch.float64).map(torch.Tensor.detach)
        return Start(held.map(group.of_first))
    seeding = as_seeding(init.as_parameters() if isinstance(init, GaussianMixture) else init)
    if isinstance(seeding, Start):
        own = seeding.parameters.exact().to(device=exact_device(mixture.device))
        return Start(own.map(torch.Tensor.detach))
    return near(seeding, mixture.device)


def _caller() -> int:
    """Frames between the warning and the code outside this package."""
    import sys

    depth, frame = 1, sys._getframe(1)
    inside = (__name__.split(".")[0] + ".", "torch.")
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith(inside):
        depth, frame = depth + 1, frame.f_back
    return depth
