"""Rows and the common start of a case, written once as .npy files that every system reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .cases import Case

__all__ = ["make"]

_FLOOR = 1e-6  # the reg_covar that every system is given


def make(case: Case, folder: Path) -> tuple[Path, Path]:
    """The file of the rows (float32) and the folder of the start (float64), made if missing."""
    rows = folder / f"{case.data}-{case.n}x{case.d}-{case.k}.npy"
    start = folder / f"{case.data}-{case.n}x{case.d}-{case.k}-{case.family}"
    folder.mkdir(parents=True, exist_ok=True)
    if not rows.exists():
        np.save(rows, _ROWS[case.data](case).astype(np.float32))
    if not start.exists():
        start.mkdir()
        x = np.load(rows)
        names = ("weights", "means", "covariances")
        for name, array in zip(names, _start(x, case), strict=True):
            np.save(start / f"{name}.npy", array)
    return rows, start


def _blobs(case: Case) -> np.ndarray:
    """K clusters about 3·randn whose covariances have condition numbers from 1 to 100."""
    shape, rows = np.random.default_rng(0), np.random.default_rng(1)  # N changes no cluster
    means = 3 * shape.standard_normal((case.k, case.d))
    shares = shape.dirichlet(np.full(case.k, 5.0))
    labels = rows.choice(case.k, size=case.n, p=shares)
    x = rows.standard_normal((case.n, case.d))
    for k in range(case.k):
        turn = np.linalg.qr(shape.standard_normal((case.d, case.d)))[0]
        # deviations from 10^-1/2 to 10^1/2 at most
        spread = 10 ** (0.5 * shape.uniform() * shape.uniform(-1, 1, size=case.d))
        mine = labels == k
        x[mine] = means[k] + (x[mine] * spread) @ turn.T
    return x


def _patches(case: Case) -> np.ndarray:
    """8x8 patches of a photograph that scikit-learn ships, as configs/patches.yaml has them."""
    import torch

    from torchgmm.data import ImagePatches

    generator = torch.Generator().manual_seed(0)
    return ImagePatches("china.jpg").source().sample(case.n, generator).x.numpy()


def _digits(case: Case) -> np.ndarray:
    """The handwritten digits of scikit-learn on their first principal axes."""
    from sklearn.datasets import load_digits

    x = load_digits().data
    x = x - x.mean(0)
    return x @ np.linalg.svd(x, full_matrices=False)[2][: case.d].T


_ROWS = {"blobs": _blobs, "patches": _patches, "digits": _digits}


def _start(x: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means, covariances of a few rounds of k-means on some of the rows."""
    rng = np.random.default_rng(1)
    some = rng.permutation(len(x))[: max(4096, 64 * case.k)]
    x = x[some].astype(np.float64)
    centres = _spread_out(x, case.k, rng)
    for _ in range(5):
        labels = _nearest(x, centres)
        counts = np.bincount(labels, minlength=case.k)
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, x)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    labels = _nearest(x, centres)
    counts = np.bincount(labels, minlength=case.k)
    scatter = np.zeros((case.k, case.d, case.d))
    for k in range(case.k):
        d = x[labels == k] - centres[k]
        scatter[k] = d.T @ d
    # D rows' worth of what all clusters share: no covariance is singular for want of rows
    pooled = scatter.sum(0) / len(x) + _FLOOR * np.eye(case.d)
    covariances = (scatter + case.d * pooled) / (counts + case.d)[:, None, None]
    if case.family == "diagonal":
        covariances = covariances.diagonal(axis1=1, axis2=2).copy()
    elif case.family == "spherical":
        covariances = covariances.diagonal(axis1=1, axis2=2).mean(1)
    elif case.family == "tied":
        covariances = pooled
    weights = (counts + 1) / (counts + 1).sum()
    return weights, centres, covariances


def _spread_out(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur & Vassilvitskii 2007); rows at random where that would take minutes."""
    if k > 512:
        return x[rng.choice(len(x), k, replace=False)]
    centres = [x[rng.integers(len(x))]]
    distance = np.full(len(x), np.inf)
    for _ in range(k - 1):
        distance = np.minimum(distance, np.square(x - centres[-1]).sum(1))
        centres.append(x[rng.choice(len(x), p=distance / distance.sum())])
    return np.stack(centres)


def _nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return (np.square(centres).sum(1) - 2 * x @ centres.T).argmin(1)
