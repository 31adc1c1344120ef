"""Is the density right? Rows as independent uniforms, a test of that, and surprising features.

Under the right density the coordinates `u_d = F(x_d | x_1, ..., x_(d-1))` of every row are
independent and uniform on [0, 1] (Rosenblatt 1952; the probability-integral transform of Dawid
1984). Of a mixture they are in closed form, as its conditionals are mixtures of normals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import checks, linalg
from .algebra.chunks import by_chunk
from .algebra.common import Mixture, exact
from .collective import together
from .errors import InputError
from .kernels import full_precision, log_prob
from .mixture import GaussianMixture
from .mixture.implicit import log_diagonal, normal_below
from .mixture.reading import rows_of
from .mixture.tensors import as_tensor
from .parameters import Parameters

__all__ = ["Calibration", "calibrate", "rosenblatt", "surprise"]

# bytes of one (K, n, D) buffer; an answer holds a few of them
_BUDGET = 8 * 2**20
# counters of uniforms: per feature as many as all features leave, so that they take 32 MiB at most
_COUNTERS, _FEWEST, _MOST = 2**22, 2**10, 2**16


def rosenblatt(mixture: Mixture, x: Any) -> Tensor:
    """The uniforms of every row: `F(x_d | x_1, ..., x_(d-1))` for every feature, `(*B, N, D)`.

    Rows of the mixture become independent uniforms; so the first column is the probability of a
    smaller first feature, the second that of a smaller second one given the first, and so on. The
    features are taken in their order; for another take `tg.marginal(mixture, order)` and
    `x[:, order]`. Differentiable in x and in the parameters; memory is that of a chunk of rows.

    Source: Rosenblatt, Annals of Mathematical Statistics 23 (1952).

    Args:
        mixture: a `GaussianMixture` or `Parameters`.
        x: rows `(N, D)` or `(*B, N, D)`.

    Raises:
        InputError: rows that cannot be used.

    Example:
        >>> import torchgmm as tg
        >>> mixture = tg.GaussianMixture.from_covariances(
        ...     [0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [1.0, 1.0], "spherical")
        >>> tg.rosenblatt(mixture, [[0.0, 0.0], [3.0, 1.0]]).round(decimals=4).tolist()
        [[0.5, 0.5], [0.75, 0.8413]]
    """
    return _of_rows(_uniforms, mixture, x)


def surprise(mixture: Mixture, x: Any) -> Tensor:
    """`-log p(x_d | all other features)` of every entry, `(*B, N, D)`, in nats.

    What each feature adds to the surprise at a row when all others are known: entries that break a
    correlation show, even where each alone is common. Differentiable; memory is that of a chunk.

    With the precision `P_k` and `q = P_k (x - mean_k)`, leaving feature d out changes the
    log-density of a component by `q_d^2 / 2 P_dd - log(P_dd / 2 pi) / 2`: no matrix is factored
    anew.

    Args:
        mixture: a `GaussianMixture` or `Parameters`.
        x: rows `(N, D)` or `(*B, N, D)`.

    Raises:
        InputError: rows that cannot be used.

    Example:
        >>> import torchgmm as tg
        >>> mixture = tg.GaussianMixture.from_covariances(
        ...     [1.0], [[0.0, 0.0]], [[[1.0, 0.99], [0.99, 1.0]]])
        >>> tg.surprise(mixture, [[2.0, 2.0], [0.2, -0.2]]).round(decimals=1).tolist()
        [[-1.0, -1.0], [2.9, 2.9]]
    """
    return _of_rows(_surprises, mixture, x)


@dataclass(frozen=True)
class Calibration:
    """How far a mixture's uniforms are from uniform, feature by feature.

    Attributes:
        log_likelihood: mean per row, nats.
        n_rows: the rows (their weight).
        distance: Kolmogorov and Smirnov's: the largest difference between the share of rows with
            `u_d` below a value and that value, `(D,)`; at most `resolution` too low.
        p_value: the probability of at least this distance if the mixture is right, `(D,)`.
        histogram: shares of the rows with `u_d` in 20 equal parts of [0, 1], `(D, 20)`.
        resolution: of the distances.
    """

    log_likelihood: float
    n_rows: float
    distance: Tensor
    p_value: Tensor
    histogram: Tensor
    resolution: float

    @property
    def p_value_of_all(self) -> float:
        """The probability of at least one p-value as small as the least (Šidák 1967)."""
        least = float(self.p_value.min())
        return -math.expm1(len(self.p_value) * math.log1p(-min(least, 1 - 1e-16)))

    def to_markdown(self) -> str:
        """A table with a line for every feature."""
        lines = ["| feature | distance | p-value |", "|--:|--:|--:|"]
        pairs = zip(self.distance.tolist(), self.p_value.tolist(), strict=True)
        lines += [f"| {j} | {far:.4f} | {p:.2g} |" for j, (far, p) in enumerate(pairs)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """The same at a prompt; what it holds is in the attributes."""
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        """The verdict in a line."""
        worst = int(self.distance.argmax())
        return (
            f"{self.n_rows:g} rows, {self.log_likelihood:.6f} nats per row; uniforms at most "
            f"{float(self.distance[worst]):.4f} off (feature {worst}), "
            f"p = {self.p_value_of_all:.2g}"
        )

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


@together
@torch.no_grad()
def calibrate(mixture: GaussianMixture, data: Any, weights: Any = None) -> Calibration:
    """Test whether rows come from a mixture's density, by the uniforms that they then are.

    The rows should be others than those of the fit: these lie closer to the mixture than rows do,
    and the p-values are then too high. One pass; memory does not grow with the rows.

    Distances are of counts in many small parts of [0, 1] (`resolution`); the p-values are the
    asymptotic ones with Stephens' correction (1970, JRSS-B 32), good from about 5 rows on. A
    weight counts as so many independent rows.

    Args:
        mixture: a fitted one.
        data: rows `(N, D)`, whatever `fit` takes.
        weights: of the rows, as in `fit`.

    Raises:
        InputError: data that cannot be used.

    Example:
        >>> import torch, torchgmm as tg
        >>> truth = torch.distributions.Exponential(torch.ones(2000, 1))
        >>> one, two = (tg.GaussianMixture(k) for k in (1, 8))
        >>> results = [m.fit(truth.sample(), tg.OnlineEM(), generator=0) for m in (one, two)]
        >>> tests = [tg.calibrate(m, truth.sample()) for m in (one, two)]
        >>> bool(tests[0].p_value < 1e-6), bool(tests[1].distance < tests[0].distance / 2)
        (True, True)
    """
    checks.check_device(mixture.device)
    source = rows_of(mixture, data, weights)
    p, d = mixture.as_parameters(), source.n_features
    parts = max(_FEWEST, min(_MOST, _COUNTERS // d))
    counts = torch.zeros(d * parts, dtype=torch.float64, device=mixture.device)
    first = parts * torch.arange(d, device=mixture.device)
    level = n_rows = 0.0
    for block in source.blocks():
        w = torch.ones(len(block.x), dtype=torch.float64, device=mixture.device)
        w = w if block.w is None else block.w.double()
        with full_precision(mixture.device):
            level += float(log_prob(block.x, p).double() @ w)
            u = rosenblatt(mixture, block.x)
        place = (u * parts).long().clamp_(0, parts - 1) + first
        shared = w.unsqueeze(-1).expand(place.shape)
        counts += torch.bincount(place.flatten(), shared.flatten(), minlength=d * parts)
        n_rows += float(w.sum())
    (counts,) = source.group.sum((counts,))
    level, n_rows = source.group.total(level, n_rows)
    if not n_rows:
        raise InputError("the source gave no rows of positive weight")
    share = counts.view(d, parts) / n_rows
    edges = torch.arange(1, parts + 1, dtype=torch.float64, device=share.device) / parts
    distance = (share.cumsum(-1) - edges).abs().amax(-1)
    histogram = torch.stack([part.sum(-1) for part in share.tensor_split(20, -1)], -1)
    tail = _kolmogorov(distance, n_rows)
    return Calibration(level / n_rows, n_rows, distance, tail, histogram, 1 / parts)


def _kolmogorov(distance: Tensor, n: float) -> Tensor:
    """The probability of a larger distance between n uniforms and their law."""
    # an argument below 0.2 has a probability of 1 - 1e-12 or more
    s = (distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))).clamp_min(0.2).unsqueeze(-1)
    j = torch.arange(1, 21, dtype=torch.float64, device=distance.device)
    # two forms of one theta function: each is good where the other needs many terms
    far = 2 * ((-1) ** (j - 1) * (-2 * (j * s) ** 2).exp()).sum(-1)
    bell = (-(((2 * j - 1) * math.pi / s) ** 2) / 8).exp()
    near = 1 - math.sqrt(2 * math.pi) / s.squeeze(-1) * bell.sum(-1)
    return torch.where(s.squeeze(-1) < 1, near, far).clamp(0, 1)


# row by row -------------------------------------------------------------------------------------


def _of_rows(answer: Any, mixture: Mixture, x: Any) -> Tensor:
    """`answer(x, parameters) (*B, n, D)` in float64, chunk by chunk, in the dtype of the rows."""
    p, rows = exact(mixture), as_tensor(x)
    checks.check_rows(tuple(rows.shape), p.n_features, len(p.batch_shape))
    if rows.device != p.means.device and rows.device.type != "cpu":
        raise InputError(f"rows are on {rows.device}, the mixture on {p.means.device}: move one")
    own = mixture.dtype if isinstance(mixture, GaussianMixture) else mixture.means.dtype
    dtype = checks.compute_dtype(rows.dtype, own)
    checks.check_finite(rows, dtype)

    def of_chunk(part: Tensor, logits: Tensor, means: Tensor, scale: Tensor) -> Tensor:
        found: Tensor = answer(part.double(), Parameters(logits, means, scale, p.family))
        return found.to(dtype)

    size = max(16, min(65_536, _BUDGET // (8 * p.logits.numel() * p.n_features)))
    with full_precision(p.means.device):
        x = rows.to(p.means.device)
        return by_chunk(of_chunk, size, _BUDGET, x, p.logits, p.means, p.scale)


def _uniforms(x: Tensor, p: Parameters) -> Tensor:
    d = x.unsqueeze(-3) - p.means.unsqueeze(-2)
    z = p.family.whiten(d, p.family.whitener(p.scale), None, None)  # (*B, K, n, D)
    stretch = log_diagonal(p, p.scale).unsqueeze(-2)  # (*B, H, 1, D)
    term = -_squares(z) / 2 - stretch
    before = torch.nn.functional.pad(term[..., :-1].cumsum(-1), (1, 0))
    # the memberships given the features before
    r = (p.log_weights[..., None, None] + before).softmax(-3)
    return (r * normal_below(z)).sum(-3)


def _surprises(x: Tensor, p: Parameters) -> Tensor:
    k, d = p.means.shape[-2:]
    whitener = linalg.inverse_tril(p.family.dense_tril(p.scale, k, d))  # (*B, K, D, D)
    z = (x.unsqueeze(-3) - p.means.unsqueeze(-2)) @ whitener.mT  # (*B, K, n, D)
    half_log_det = whitener.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_norm = p.log_weights + half_log_det - d * math.log(2 * math.pi) / 2
    joint = log_norm.unsqueeze(-1) - _squares(z).sum(-1) / 2  # (*B, K, n)
    precision = whitener.square().sum(-2).unsqueeze(-2)  # (*B, K, 1, D): the diagonal of P
    without = (z @ whitener).square() / (2 * precision) - (precision / (2 * math.pi)).log() / 2
    rest = (joint.unsqueeze(-1) + without).logsumexp(-3)  # (*B, n, D)
    return rest - joint.logsumexp(-2).unsqueeze(-1)


def _squares(z: Tensor) -> Tensor:
    """Squares whose sums stay finite: a row at an absurd distance from all must not make a NaN."""
    limit = torch.finfo(z.dtype).max / (8 * z.shape[-1])
    return z.square().clamp(max=limit)
