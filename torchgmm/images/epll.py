"""EPLL: an image all of whose patches are likely (Zoran & Weiss, ICCV 2011).

The restored image minimises `D / (2 s^2) |x - y|^2 - sum_i log p(P_i x)`, with y the noisy image, s
its noise and P_i its i-th patch of D pixels. Half-quadratic splitting gives every patch a stand-in
z_i, held to the image with a weight b that rises: given the image, every z_i is the most probable
patch of the most probable component (a Wiener filter); given these, the image is a mean,
`x = (D / s^2 y + b sum_i P_i^T z_i) / (D / s^2 + b sum_i P_i^T P_i)`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..collective import alone
from ..errors import ConvergenceWarning, InputError
from ..fitting import EM, Rescue, Tolerance, fit
from ..kernels import as_kernel, full_precision
from ..mixture import GaussianMixture
from ..mixture.tensors import as_tensor
from ..parameters import Parameters

__all__ = ["denoise"]

# patches that are held at a time
_PATCHES = 65_536


@torch.no_grad()
def denoise(
    image: Any,
    mixture: GaussianMixture,
    noise: float,
    *,
    betas: Sequence[float] = (1, 4, 8, 16, 32),
    subtract_mean: bool = True,
    adapt: int = 0,
) -> Tensor:
    """An image without its white noise, by a mixture of image patches (EPLL).

    Every overlapping patch takes part in every round. Memory is that of the image and of some ten
    thousand patches; computed where the mixture is.

    Source: Zoran & Weiss, From learning models of natural image patches to whole image restoration,
    ICCV 2011, with their schedule.

    Args:
        image: `(*B, H, W)`, grey or channel by channel; every image of `B` for itself.
        mixture: of patches as rows of `size * size` pixels, in the units of the image, such as
            `configs/patches.yaml` fits.
        noise: standard deviation of the noise, in the same units (25/255 for 25 grey levels).
        betas: the weights b of the rounds, in units of `1 / noise^2`.
        subtract_mean: whether the mixture is of patches without their mean, as `ImagePatches`
            makes them; the mean of a patch is then kept as it is.
        adapt: steps of EM that a copy of the mixture makes on the patches of the restored image,
            before that is restored once more from the noisy one; 4 brought 0.5 to 0.8 decibels
            where the mixture was of another photograph (an idea of Luo, Chan & Nguyen, IEEE TIP
            25, 2016, without their prior).

    Returns:
        `(*B, H, W)` in the dtype of the computation, on the mixture's device; not clipped.

    Raises:
        InputError: images smaller than a patch, rows that are no square patches, noise not above 0.

    Example:
        >>> import torch
        >>> import torchgmm as tg
        >>> from torchgmm.images import denoise, psnr
        >>> ramp = torch.linspace(0, 1, 64).expand(64, 64)
        >>> g = torch.Generator().manual_seed(0)
        >>> noisy = ramp + 0.1 * torch.randn(64, 64, generator=g)
        >>> patches = ramp.unfold(0, 4, 1).unfold(1, 4, 1).reshape(-1, 16)
        >>> mixture = tg.GaussianMixture(1)
        >>> result = mixture.fit(patches - patches.mean(1, keepdim=True))
        >>> bool(psnr(denoise(noisy, mixture, 0.1), ramp) > psnr(noisy, ramp) + 8)
        True
    """
    size = _side(mixture)
    x = _checked(image, size, mixture)
    if not 0 < noise < math.inf:
        raise InputError(f"noise must be above 0 and finite, got {noise}")
    if not betas or not all(0 < b < math.inf for b in betas):
        raise InputError(f"betas must be numbers above 0, got {list(betas)}")
    checks.check_count("adapt", adapt, least=0)
    weights = [b / noise**2 for b in betas]
    filters = _filters(mixture, weights)
    flat = x.reshape(-1, *x.shape[-2:])
    with full_precision(x.device):
        for number, noisy in enumerate(flat.clone()):
            flat[number] = _restored(noisy, filters, size, noise, subtract_mean)
            if adapt:
                own = _adapted(mixture, flat[number], size, subtract_mean, adapt)
                again = _filters(own, weights)
                flat[number] = _restored(noisy, again, size, noise, subtract_mean)
    return flat.reshape(x.shape)


def _filters(mixture: GaussianMixture, betas: Sequence[float]) -> list[_Filter]:
    exact = mixture.as_parameters(torch.float64)
    return [_Filter.of(exact, beta) for beta in betas]


def _adapted(
    mixture: GaussianMixture, image: Tensor, size: int, subtract_mean: bool, steps: int
) -> GaussianMixture:
    """A copy of the mixture after some steps of EM on the patches of an image."""

    def rows() -> Iterator[Tensor]:
        for _, patches in _patches(image, size):
            own = patches.reshape(-1, size * size)
            yield own - own.mean(-1, keepdim=True) if subtract_mean else own

    copy = GaussianMixture.from_parameters(mixture.as_parameters().map(Tensor.detach))
    # components that the image has no use for stay what they are
    method = EM(steps, rescue=Rescue(empty="keep", collapsed="keep"))
    with warnings.catch_warnings(), alone():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit(copy, rows, method, init="current", stop=Tolerance(0.0))
    return copy


def _restored(
    noisy: Tensor, filters: list[_Filter], size: int, noise: float, subtract_mean: bool
) -> Tensor:
    """One image `(H, W)`."""
    own = size * size / noise**2
    covered = _covered(noisy, size)
    x = noisy
    for wiener in filters:
        total = torch.zeros_like(noisy)
        for first, patches in _patches(x, size):
            rows = patches.reshape(-1, size * size)
            mean = rows.mean(-1, keepdim=True) if subtract_mean else rows.new_zeros(())
            likely = wiener(rows - mean) + mean
            _put_back(total, likely.view(patches.shape), first)
        x = (own * noisy + wiener.beta * total) / (own + wiener.beta * covered)
    return x


@dataclass(frozen=True)
class _Filter:
    """The most probable clean patch, given a noisy one, for noise of variance `1 / beta`."""

    noisy: Parameters  # of noisy patches
    gain: Tensor  # (K, D, D)  S (S + I / beta)^-1, transposed
    rest: Tensor  # (K, D)     (I - gain) mean
    beta: float

    @classmethod
    def of(cls, p: Parameters, beta: float) -> _Filter:
        factor = p.family.dense_tril(p.scale, p.n_components, p.n_features)
        clean = factor @ factor.mT
        eye = torch.eye(p.n_features, dtype=clean.dtype, device=clean.device)
        noisy = clean + eye / beta
        # (S + I / beta)^-1 S is the transpose of the gain
        gain = torch.cholesky_solve(clean, torch.linalg.cholesky(noisy))
        rest = p.means - (p.means.unsqueeze(-2) @ gain).squeeze(-2)
        weights = p.log_weights.exp()
        return cls(Parameters.from_covariances(weights, p.means, noisy), gain, rest, beta)

    def __call__(self, rows: Tensor) -> Tensor:
        """`(n, D)` for noisy patches `(n, D)`: by the component most probable of each."""
        labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        for part, likeliest in as_kernel("auto").each(rows, self.noisy, _likeliest):
            labels[part] = likeliest
        gain, rest = self.gain.to(rows.dtype), self.rest.to(rows.dtype)
        likely = torch.empty_like(rows)
        order = labels.argsort()
        start = 0
        for k, count in enumerate(labels.bincount(minlength=len(gain)).tolist()):
            mine = order[start : start + count]
            likely[mine] = torch.addmm(rest[k], rows[mine], gain[k])
            start += count
        return likely


def _likeliest(part: slice, joint: Tensor) -> tuple[slice, Tensor]:
    return part, joint.argmax(-2)


def _patches(x: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """All patches `(rows, columns, size, size)` of an image, some rows of them at a time."""
    windows = x.unfold(0, size, 1).unfold(1, size, 1)
    step = max(1, _PATCHES // windows.shape[1])
    for first in range(0, len(windows), step):
        yield first, windows[first : first + step]


def _put_back(total: Tensor, patches: Tensor, first: int) -> None:
    """Add patches, the first row of which begins at row `first`, where they come from."""
    n_rows, n_columns, size, _ = patches.shape
    for i in range(size):
        for j in range(size):
            at = total[first + i : first + i + n_rows, j : j + n_columns]
            at += patches[:, :, i, j]


def _covered(image: Tensor, size: int) -> Tensor:
    """How many patches hold each pixel."""
    total = torch.zeros_like(image)
    shape = (image.shape[0] - size + 1, image.shape[1] - size + 1, size, size)
    _put_back(total, torch.ones((), dtype=image.dtype, device=image.device).expand(shape), 0)
    return total


def _side(mixture: GaussianMixture) -> int:
    mixture.require_size("denoise")
    if mixture.batch_shape:
        raise InputError(f"one mixture is needed, not a batch of {tuple(mixture.batch_shape)}")
    n = mixture.n_features or 0
    size = math.isqrt(n)
    if size * size != n:
        raise InputError(f"the mixture has {n} features, which are no square patch of pixels")
    return size


def _checked(image: Any, size: int, mixture: GaussianMixture) -> Tensor:
    """A copy of the image where the mixture is, in the dtype of the computation."""
    checks.check_device(mixture.device)
    given = as_tensor(image)
    if given.dim() < 2 or min(given.shape[-2:]) < size:
        raise InputError(
            f"images must be (*B, H, W) and hold a patch of {size} x {size} pixels, "
            f"got shape {tuple(given.shape)}"
        )
    dtype = checks.compute_dtype(given.dtype, mixture.dtype)
    checks.check_finite(given, dtype, what="the image's rows")
    return given.to(device=mixture.device, dtype=dtype, copy=True)
