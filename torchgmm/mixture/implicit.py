"""Implicit reparameterisation: gradients of drawn rows in the parameters, through the choice too.

A row drawn from a mixture has no differentiable formula in the parameters, but the coordinates of

    u_d = F(x_d | x_1, ..., x_(d-1)) = sum_k rho_kd Phi(z_kd),      z_k = L_k^-1 (x - mu_k),

are independent uniforms whatever the parameters (Rosenblatt 1952), with rho_kd the responsibilities
given the earlier coordinates. Holding u while the parameters move says how x moves:
`dx = -(du/dx)^-1 du/dtheta` (Graves 2016; Figurnov, Mohamed & Mnih 2018). `du/dx` is triangular and
never built: the backward pass solves for one coordinate after the other, from the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from ..exact import reachable
from ..kernels.base import chunk_rows
from ..kernels.memory import chunk_budget, retried
from ..parameters import Parameters

__all__ = ["follow", "log_diagonal", "normal_below"]

# bytes of one (K, chunk, D) buffer; the backward pass holds about eight
_BUDGET = 8 * 2**20


def follow(x: Tensor, parameters: Parameters) -> Tensor:
    """Rows `x (*B, n, D)` drawn from a mixture, now with their gradients in its three tensors.

    The backward pass costs about as much as three passes over the rows and holds memory for a
    chunk of them. It cannot be differentiated again.
    """
    p = parameters.map(reachable).unstructured()
    moved: Tensor = _Implicit.apply(x, p.logits, p.means, p.scale, p.family)  # type: ignore[no-untyped-call]
    return moved


class _Implicit(torch.autograd.Function):
    """The identity on rows; backward is the gradient that implicit reparameterisation gives."""

    @staticmethod
    def forward(ctx, x, logits, means, scale, family):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        ctx.save_for_backward(x, logits, means, scale)
        ctx.family = family
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        x, logits, means, scale = ctx.saved_tensors
        tensors = (logits, means, scale)
        gradients = _pulled_back(x, gradient, Parameters(logits, means, scale, ctx.family))
        by = (g.to(t.device, t.dtype) for g, t in zip(gradients, tensors, strict=True))
        return None, *by, None


@dataclass(frozen=True)
class _Sums:
    """What the gradients need to know of the rows, in float64; they add over chunks."""

    choice: Tensor  # (*B, K)     adjoint of log pi
    spread: Tensor  # (*B, K, D)  adjoint of -log of the factors' diagonals
    first: Tensor  # (*B, K, D)  sum of the adjoints of z
    second: Tensor  # (*B, K, D, D) or (*B, K, D)  sum of (adjoint of z) z^T, or its diagonal

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.choice + other.choice,
            self.spread + other.spread,
            self.first + other.first,
            self.second + other.second,
        )


def _pulled_back(x: Tensor, gradient: Tensor, parameters: Parameters) -> tuple[Tensor, ...]:
    """Gradients in logits, means and scale, float64."""
    exact = parameters.map(torch.Tensor.detach).exact()
    x, gradient = reachable(x), reachable(gradient)
    whitener = exact.family.whitener(exact.scale)
    count = math.prod(exact.logits.shape)

    def summed() -> _Sums | None:
        size = chunk_rows(count, exact.n_features, x.dtype, _bytes_for(x))
        total: _Sums | None = None
        for rows, pull in zip(_pieces(x, size), _pieces(gradient, size), strict=True):
            sums = _one_chunk(rows, pull, exact, whitener)
            total = sums if total is None else total + sums
        return total

    total = retried(_bytes_for, x, summed)
    if total is None:
        return tuple(torch.zeros_like(t) for t in (exact.logits, exact.means, exact.scale))
    return _gradients(total, exact, whitener)


def _bytes_for(x: Tensor) -> int:
    return chunk_budget(_BUDGET, 0, x.device)


def _pieces(x: Tensor, size: int) -> list[Tensor]:
    return [x[..., i : i + size, :] for i in range(0, x.shape[-2], size)]


def _one_chunk(x: Tensor, gradient: Tensor, p: Parameters, whitener: Tensor) -> _Sums:
    """Solve `J^T v = gradient` for every row, coordinate by coordinate, and sum what follows."""
    matrix = p.family.n_axes == 2
    inward = whitener.to(x.dtype)
    d = (x.unsqueeze(-3) - p.means.unsqueeze(-2)).to(x.dtype)
    # one coordinate after the other is wanted: (*B, D, K, n)
    z = p.family.whiten(d, inward, None, None).movedim(-1, -3).contiguous()
    stretch = log_diagonal(p, p.scale).to(x.dtype).mT.unsqueeze(-1)  # (*B, D, H, 1)
    by_choice, by_place = _slopes(z, stretch, p.log_weights.to(x.dtype))
    steep = (-stretch).exp()
    adjoint = torch.zeros_like(z)
    choice = torch.zeros_like(z[..., 0, :, :])  # adjoint of the log-weights, up to here
    spread = []
    for i in reversed(range(p.n_features)):
        at, w = (..., i, slice(None), slice(None)), steep[..., i, :, :]
        rest = gradient[..., i] + (choice * z[at] * w).sum(-2)
        if matrix and i + 1 < p.n_features:
            rest = rest - _pull_of_later(adjoint[..., i + 1 :, :, :], inward[..., i, i + 1 :])
        density = (by_place[at] * w).sum(-2)
        known = density.abs() > torch.finfo(x.dtype).tiny
        v = torch.where(known, rest / torch.where(known, density, 1), 0).unsqueeze(-2)
        adjoint[at] = v * by_place[at] - choice * z[at]
        spread.append(choice.sum(-1))
        choice = choice + v * by_choice[at]
    second = adjoint.transpose(-3, -2) @ z.movedim(-3, -1) if matrix else (adjoint * z).sum(-1).mT
    sums = (choice.sum(-1), torch.stack(spread[::-1], -1), adjoint.sum(-1).mT, second)
    return _Sums(*(t.double() for t in sums))


def _pull_of_later(adjoint: Tensor, inward: Tensor) -> Tensor:
    """What the later coordinates' `z (*B, m, K, n)` pull through the factors `(*B, H, m)`."""
    w = inward.mT.expand(adjoint.shape[:-1])  # (*B, m, K)
    return (w.flatten(-2).unsqueeze(-2) @ adjoint.flatten(-3, -2)).squeeze(-2)


def _slopes(z: Tensor, stretch: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of `u_d` in the log-weights given the earlier coordinates, and in `z_kd`.

    Both `(*B, D, K, n)`. Where u is above one half, 1 - u is followed instead, from the other
    tail: the same rows follow from it, and its digits are not lost beside the one.
    """
    term = -0.5 * z * z - stretch
    before = pad(term[..., :-1, :, :].cumsum(-3), (0, 0, 0, 0, 1, 0))
    rho = (log_weights[..., None, :, None] + before).softmax(-2)
    above = (rho * normal_below(z)).sum(-2, keepdim=True) > 0.5
    side = torch.where(above, -1.0, 1.0).to(z.dtype)
    below = normal_below(side * z)
    u = (rho * below).sum(-2, keepdim=True)
    bell = (-0.5 * z * z).exp() / math.sqrt(2 * math.pi)
    return rho * (below - u), side * rho * bell


def normal_below(z: Tensor) -> Tensor:
    """Phi with its digits in the lower tail, where torch.special.ndtr makes it of 1 + erf."""
    upper: Tensor = torch.special.erfc(z * -math.sqrt(0.5))
    return upper / 2


def _gradients(sums: _Sums, p: Parameters, whitener: Tensor) -> tuple[Tensor, ...]:
    """From the sums to the three tensors: `z = L^-1 (x - mu)`, hence `dz = -L^-1 (dmu + dL z)`."""
    if p.family.n_axes == 2:
        on_means = (whitener @ sums.first.unsqueeze(-1)).squeeze(-1)
        on_factor = whitener @ sums.second
    else:
        inverse = whitener.squeeze(-2)
        on_means, on_factor = sums.first * inverse, sums.second * inverse
    with torch.enable_grad():
        scale = p.scale.requires_grad_()
        value = (on_factor * p.family.factor(scale)).sum()
        value = value + (sums.spread * log_diagonal(p, scale)).sum()
        (on_scale,) = torch.autograd.grad(value, scale)
    # choice sums to zero over k, so the normaliser of the weights has no part in it
    return -sums.choice, on_means, on_scale


def log_diagonal(p: Parameters, scale: Tensor) -> Tensor:
    """Logs of the factors' diagonals, `(*B, H, D)`."""
    if p.family.n_axes == 2:
        return scale.diagonal(dim1=-2, dim2=-1)
    return scale.expand(*scale.shape[:-1], p.n_features)
