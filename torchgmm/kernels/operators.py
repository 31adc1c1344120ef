"""The arithmetic behind `log_prob` and its gradient: functions, and operators for compiled graphs.

By Fisher's identity the gradient of `sum_n g_n log p(x_n)` is that of the expected complete
log-likelihood, whose sufficient statistics are the moments under the weights `g r`: what EM sums
up for its next step. So backward is one more `accumulate`.

The operators are opaque to `torch.compile` and `torch.export`. Eager code calls the functions: the
first call of an operator imports the compiler, which takes seconds.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..covariance import Family, as_family
from ..exact import exact
from ..moments import Moments
from ..parameters import Parameters
from .base import as_kernel, soft_assign
from .dense import Dense, _joint, prepare, whitened_sums
from .memory import retried
from .precision import full_precision
from .turns import mixtures_at_once, turns

__all__ = ["backward_of", "backward_op", "log_prob_of", "log_prob_op", "score"]


def score(moments: Moments, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the log-likelihood behind `moments`, by Fisher's identity, in float64.

    Args:
        moments: about the means of `parameters`, responsibilities under them.
        parameters: where the gradient is taken.

    Returns:
        By the logits, the means and the unconstrained scale, in their shapes.
    """
    exact = parameters.exact()
    family = exact.family
    inverse, transposed = _inverses(family, family.whitener(exact.scale))
    by_logits = moments.weight - exact.log_weights.exp() * moments.rows.unsqueeze(-1)
    by_means = family.colour(family.colour(moments.first, inverse), transposed)
    # In whitened coordinates: S - n I, which is zero where the covariance fits the rows.
    excess = family.colour_second(moments.second, inverse)
    excess = excess - family.unit_second(moments.weight, exact.n_features)
    return by_logits, by_means, family.by_scale(excess, exact.scale)


def log_prob_of(x: Tensor, logits: Tensor, means: Tensor, scale: Tensor, family: str) -> Tensor:
    """Log-density of every row `(*B, N)`, nats, chunk by chunk."""
    p = Parameters(logits, means, scale, as_family(family))
    with full_precision(x.device):
        kernel = as_kernel("auto")
        parts = [kernel.log_prob(rows, some) for _, some, rows, _ in turns(p, x)]
    return parts[0] if len(parts) == 1 else torch.cat(parts).view(*p.batch_shape, -1)


log_prob_op = torch.library.custom_op(
    "torchgmm::mixture_log_prob",
    log_prob_of,
    mutates_args=(),
    schema="(Tensor x, Tensor logits, Tensor means, Tensor scale, str family) -> Tensor",
)


@log_prob_op.register_fake
def _(x: Tensor, logits: Tensor, means: Tensor, scale: Tensor, family: str) -> Tensor:
    return x.new_empty(*means.shape[:-2], x.shape[-2])


def backward_of(
    g: Tensor,  # (*B, N), of any sign
    x: Tensor,
    logits: Tensor,
    means: Tensor,
    scale: Tensor,
    family: str,
    of_rows: bool,
    of_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient of `sum g log p` by rows, logits, means and scale; empty what is not wanted."""
    p = Parameters(logits, means, scale, as_family(family))
    if p.batch_shape.numel() > mixtures_at_once(p, x.shape[-2], x.dtype):
        return _in_turns(g, x, p, of_rows=of_rows, of_parameters=of_parameters)
    by_rows, moments = x.new_empty(0), None
    with full_precision(x.device):
        if not of_rows:
            moments = _one_sign(g, x, p)
        if moments is None:
            any_sign = functools.partial(_any_sign, g, x, p, of_rows, of_parameters)
            by_rows, moments = retried(Dense().bytes_for, x, any_sign)
        if moments is None:
            return by_rows, logits.new_empty(0), means.new_empty(0), scale.new_empty(0)
        gradients = score(moments, p)
    pairs = zip(gradients, (logits, means, scale), strict=True)
    by = [t.to(like.device, like.dtype).contiguous() for t, like in pairs]
    return by_rows, by[0], by[1], by[2]


def _in_turns(
    g: Tensor, x: Tensor, p: Parameters, *, of_rows: bool, of_parameters: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`backward_of` for a batch whose buffers would be large: some mixtures after the others."""
    by = []
    for _, some, own_x, (own_g,) in turns(p, x, g):
        assert own_g is not None
        tensors = (some.logits, some.means, some.scale)
        found = backward_of(own_g, own_x, *tensors, p.family.name, of_rows, of_parameters)
        by.append(found)
    by_rows = x.new_empty(0)
    if of_rows and x.dim() == 2:
        by_rows = torch.stack([b[0] for b in by]).sum(0)
    elif of_rows:
        by_rows = torch.cat([b[0] for b in by]).view(x.shape)
    own = (p.logits, p.means, p.scale)
    rest = [torch.cat([b[i + 1] for b in by]) for i in range(3)]
    if of_parameters:
        rest = [t.view(like.shape) for t, like in zip(rest, own, strict=True)]
    return by_rows, rest[0], rest[1], rest[2]


backward_op = torch.library.custom_op(
    "torchgmm::mixture_log_prob_backward",
    backward_of,
    mutates_args=(),
    schema=(
        "(Tensor g, Tensor x, Tensor logits, Tensor means, Tensor scale, str family, "
        "bool of_rows, bool of_parameters) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
)


@backward_op.register_fake
def _(
    g: Tensor,
    x: Tensor,
    logits: Tensor,
    means: Tensor,
    scale: Tensor,
    family: str,
    of_rows: bool,
    of_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    by_rows = x.new_empty(x.shape) if of_rows else x.new_empty(0)
    own = (logits, means, scale)
    by = [t.new_empty(t.shape) if of_parameters else t.new_empty(0) for t in own]
    return by_rows, by[0], by[1], by[2]


def _one_sign(g: Tensor, x: Tensor, p: Parameters) -> Moments | None:
    """Moments by the best kernel; None where the weights are of both signs, or not finite.

    A kernel may look at its sums (for emptied components, for cancellation), which are sums over
    rows only where weights are at least 0 and near 1.
    """
    low, high = (float(v) for v in torch.aminmax(g))
    largest = max(-low, high)
    if not (low >= 0 or high <= 0) or not 0 < largest < float("inf"):
        return None
    sign = 1.0 if low >= 0 else -1.0
    w = (g / largest) * sign
    return as_kernel("auto").accumulate(x, w, p) * (sign * largest)


def _any_sign(
    g: Tensor, x: Tensor, p: Parameters, of_rows: bool, of_parameters: bool
) -> tuple[Tensor, Moments | None]:
    """One pass of the definition: the gradient of the rows, and moments under weights `g r`.

    Rows: `-g_n sum_k r_nk L_k^-T z_nk`, in the shape of `x`.
    """
    family, prepared = p.family, prepare(p, x)
    # as `whiten` takes it, which multiplies rows from the right
    back = (prepared.whitener.mT if family.n_axes == 2 else prepared.whitener).contiguous()
    over = tuple(range(len(p.batch_shape) + 1)) if x.dim() == 2 else (-3,)
    by_rows = x.new_empty(x.shape) if of_rows else x.new_empty(0)
    sums: list[Tensor] = []
    for rows, seen, buffer in Dense()._chunks(x, p, prepared):
        r, _ = soft_assign(_joint(seen, prepared.log_norm, out=buffer))
        r.mul_(g[..., rows].unsqueeze(-2))
        if of_parameters:
            part = whitened_sums(seen, r, family)
            sums = [a.add_(b) for a, b in zip(sums, part, strict=True)] if sums else part
        if of_rows:
            pulled = seen.z.mul_(r.unsqueeze(-1))
            if family.tied:
                pulled = family.whiten(pulled.sum(-3, keepdim=True), back, None, None)
            else:
                pulled = family.whiten(pulled, back, None, seen.squares)
            by_rows[..., rows, :] = pulled.sum(over).neg_()
    if not of_parameters:
        return by_rows, None
    weight, first, second = sums
    own = p.exact()
    factor = family.factor(own.scale)
    first, second = family.colour(first, factor), family.colour_second(second, factor)
    total = exact(g).sum(-1)
    nothing = torch.zeros_like(total)
    return by_rows, Moments(weight, first, second, nothing, total, own.means)


def _inverses(family: Family, whitener: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse factors as `colour` takes them, and their transposes."""
    if family.n_axes == 1:
        inverse = whitener.squeeze(-2)
        return inverse, inverse
    return whitener.mT, whitener
