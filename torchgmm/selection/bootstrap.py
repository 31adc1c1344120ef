"""K components or K + 1? The likelihood ratio beside those of rows drawn from K components.

Twice the gain in log-likelihood has no chi-squared law here: under K components the parameters of
one more are not identified. McLachlan (1987, Applied Statistics 36) draws the law instead: as many
rows from the fitted mixture of K, both fits again, and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..covariance import Family, Floor, as_family, check_floor
from ..data import Checked, as_source
from ..data.block import join
from ..errors import InputError
from ..exact import exact_device
from ..mixture import GaussianMixture
from .replicates import Fits

__all__ = ["BootstrapTest", "bootstrap_test"]


@dataclass(frozen=True)
class BootstrapTest:
    """What a bootstrap test of K against K + 1 components found.

    Attributes:
        statistic: `2 (log L_(K+1) - log L_K)` of the rows, nats.
        replicates: the same of rows drawn from the mixture of K, `(R,)`; NaN where no sound fit of
            K + 1 components was found.
        null: the mixture of K.
        alternative: the mixture of K + 1.
    """

    statistic: float
    replicates: Tensor
    null: GaussianMixture
    alternative: GaussianMixture

    @property
    def p_value(self) -> float:
        """`(1 + number of replicates of at least the statistic) / (1 + R)`, of the sound ones."""
        sound = self.replicates[~self.replicates.isnan()]
        return (1 + int((sound >= self.statistic).sum())) / (1 + len(sound))

    def __repr__(self) -> str:
        """The same at a prompt; what it holds is in the attributes."""
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        """The verdict in a line."""
        k = self.null.n_components
        return (
            f"{k} against {k + 1} {self.null.covariance} components: likelihood ratio "
            f"{self.statistic:.4g}, p = {self.p_value:.3g} by {len(self.replicates)} replicates"
        )


@torch.no_grad()
def bootstrap_test(
    data: Any,
    n_components: int,
    covariance: str | Family = "full",
    *,
    n_replicates: int = 99,
    n_init: int = 2,
    reg_covar: Floor = 1e-6,
    tol: float = 1e-5,
    max_iter: int = 300,
    generator: torch.Generator | int | None = None,
    device: torch.device | str | None = None,
    on_replicates: Callable[[int], None] | None = None,
) -> BootstrapTest:
    """Test K components against K + 1 by the bootstrap likelihood ratio (McLachlan 1987).

    To choose K, test 1, 2, ... until a p-value is above the level (as mclust's
    `mclustBootstrapLRT`). With R replicates no p-value is below `1 / (R + 1)`.

    Both mixtures have `n_init` k-means starts and a split of the next smaller one, and those of a
    replicate the mixture that it was drawn from as well; ends with a component without spread of
    its own are left out, as in `select`. Replicates are fitted many at a time, as one batch. The
    rows are held in memory, and those of a replicate too.

    Args:
        data: rows `(N, D)`, whatever `select` takes, but in float64 and without weights.
        n_components: K of the hypothesis.
        covariance: the family of both mixtures.
        n_replicates: R.
        n_init: k-means starts of every fit.
        reg_covar: as in `EM`.
        tol: a fit ends when a step raises its log-likelihood per row by less, in nats; N times
            this should be small beside 1.
        max_iter: most steps of a fit.
        generator: a torch generator on the CPU or a seed.
        device: where to compute; the CPU, or where a tensor is, if not given.
        on_replicates: told how many replicates are done.

    Raises:
        InputError: data or settings that cannot be used; no sound fit of K or K + 1 components;
            more than half of the replicates without one.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(1))
        >>> x[150:] += 5
        >>> tests = [tg.bootstrap_test(x, k, n_replicates=19, generator=0) for k in (1, 2)]
        >>> tests[0].p_value, tests[1].p_value > 0.05
        (0.05, True)
    """
    checks.check_count("n_replicates", n_replicates)
    k = checks.check_count("n_components", n_components)
    check_floor(reg_covar)
    fits = Fits(
        as_family(covariance),
        reg_covar,
        checks.check_count("n_init", n_init),
        tol,
        checks.check_count("max_iter", max_iter),
        checks.as_generator(generator),
    )
    x = _in_memory(data, device)
    if len(x) < 2 * (k + 1):
        raise InputError(f"{len(x)} row(s) are too few for a test of {k} against {k + 1}")
    null, alternative = fits.pair(x.unsqueeze(0), k)
    for found in (null, alternative):
        found.require_sound()
    replicates = fits.replicates(null.parameters[0], len(x), n_replicates, on_replicates)
    failed = int(replicates.isnan().sum())
    if 2 * failed > n_replicates:
        raise InputError(
            f"{failed} of {n_replicates} replicates have no sound fit: give a simpler family, "
            "fewer components or a larger reg_covar"
        )
    statistic = float(2 * len(x) * (alternative.level - null.level))
    made = (GaussianMixture.from_parameters(p.parameters[0]) for p in (null, alternative))
    return BootstrapTest(statistic, replicates, *made)


def _in_memory(data: Any, device: Any) -> Tensor:
    """All rows, `(N, D)` float64."""
    source = as_source(data)
    place = exact_device(checks.place_of(data, device))
    blocks = list(Checked(source, torch.float64, place).blocks())
    if not blocks:
        raise InputError("the source gave no rows")
    if any(block.w is not None for block in blocks):
        raise InputError(
            "a bootstrap draws as many rows as there are, and weights leave that number open: "
            "give rows without weights"
        )
    return join(blocks).x
