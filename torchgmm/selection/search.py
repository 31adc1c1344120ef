"""`select`: many fits, one choice of the number of components and the covariance family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from .. import checks
from ..collective import together
from ..covariance import Family, as_family
from ..errors import InputError
from ..fitting import EM, Method, Stop, Tolerance
from .criteria import check_criterion
from .result import Candidate, Selection, best_of
from .trials import Chains, opened

__all__ = ["select"]

_FAMILIES = ("full", "tied", "diagonal", "spherical")


@together
def select(
    data: Any,
    n_components: Iterable[int] = range(1, 21),
    covariance: str | Family | Sequence[str | Family] = _FAMILIES,
    criterion: str = "bic",
    *,
    method: Method | None = None,
    n_init: int = 1,
    stop: Stop | None = None,
    weights: Any = None,
    patience: int | None = 4,
    folds: int = 5,
    generator: torch.Generator | int | None = None,
    device: torch.device | str | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
) -> Selection:
    """Choose the number of components and the covariance family.

    Every fit has two starts, and the better end counts: k-means, which runs on one sample of the
    rows for all families, and the mixture of the number before with its widest component split.
    Either alone was found to miss what the other finds. Families that have a variance for every
    feature do both in units of the standard deviations, so that units do not change the choice. A
    family is left when the criterion has not improved for `patience` numbers of components in a
    row. Fits with a component that has no spread of its own in some direction are no candidates, as
    in mclust (Fraley & Raftery 2002): their likelihood is that of the floor.

    | criterion | judges | better |
    |---|---|---|
    | `bic` | likelihood less the price `log(N) / 2` of every parameter (Schwarz 1978) | lower |
    | `aic` | the same at the price 1: more components, better densities | lower |
    | `icl` | BIC less the doubt about labels (Biernacki, Celeux & Govaert 2000) | lower |
    | `held-out` | mean log-likelihood of one fold that was not fitted, nats per row | higher |
    | `cv` | its mean over all folds | higher |

    Args:
        data: rows `(N, D)`: whatever `fit` takes that can be read more than once.
        n_components: the numbers of components to try.
        covariance: the families to try.
        criterion: what decides.
        method: how fits are made; `EM(max_iter=300)` if not given.
        n_init: how many k-means starts every fit has: the first is shared, the others are drawn
            anew.
        stop: the stopping rule; `Tolerance(1e-4)` if not given, tighter than that of `fit`: N rows
            times the tolerance should be small beside differences of the criterion.
        weights: of the rows, as in `fit`; a row of weight 2 counts as two in every criterion.
        patience: numbers of components without improvement before a family is left; None tries
            all.
        folds: parts of the rows for `held-out` and `cv`.
        generator: a torch generator on the CPU or a seed.
        device: where to compute; the CPU, or where a tensor is, if not given.
        on_candidate: told about every candidate when it is known.

    Several processes search together: each fit is one of all of them.

    Returns:
        The table and the best mixture. With `held-out` and `cv` that one is fitted once more to
        all rows.

    Raises:
        InputError: data or settings that cannot be used, or no candidate could be fitted.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
        >>> x[200:400] += 8
        >>> x[400:] -= 8
        >>> found = tg.select(x, range(1, 6), ["full", "spherical"], generator=0)
        >>> found.n_components, found.covariance
        (3, 'spherical')
        >>> found.best.means.shape
        torch.Size([3, 2])
    """
    method = EM(max_iter=300) if method is None else method
    stop = Tolerance(1e-4) if stop is None else stop
    checks.check_kind("the method", method, Method, "EM()")
    checks.check_kind("stop", stop, Stop, "Tolerance(1e-4)")
    search = opened(data, weights, device, generator)
    search = replace(
        search,
        method=method,
        stop=stop,
        n_init=checks.check_count("n_init", n_init),
        criterion=check_criterion(criterion),
        folds=checks.check_count("folds", folds, least=2),
    )
    counts = _counts(n_components)
    if patience is not None:
        checks.check_count("patience", patience)
    sample = search.sample(max(counts))
    tried: list[Candidate] = []
    for family in _as_families(covariance):
        mine: list[Candidate] = []
        chains: Chains = {}
        for k in counts:
            mine.append(search.candidate(k, family, sample, chains))
            if on_candidate is not None and search.group.leads:
                on_candidate(mine[-1])
            if patience is not None and _turned(mine, criterion, patience):
                break
        tried += mine
    return Selection(criterion, tuple(tried), search.final(best_of(tried, criterion)))


def _counts(n_components: Iterable[int]) -> list[int]:
    given = [n_components] if isinstance(n_components, int) else list(n_components)
    counts = sorted({checks.check_count("n_components", k) for k in given})
    if not counts:
        raise InputError("n_components is empty: give the numbers to try, such as range(1, 21)")
    return counts


def _as_families(covariance: Any) -> list[Family]:
    given = [covariance] if isinstance(covariance, (str, Family)) else list(covariance)
    if not given:
        raise InputError("covariance is empty: give the families to try, such as ['full', 'tied']")
    return list(dict.fromkeys(as_family(one) for one in given))


def _turned(tried: list[Candidate], criterion: str, patience: int) -> bool:
    """Whether the last `patience` candidates are all worse than the best one before them."""
    sound = [c for c in tried if not c.note]
    if len(sound) <= patience:
        return False
    best = best_of(sound, criterion)
    return all(c is not best for c in sound[-patience:])
