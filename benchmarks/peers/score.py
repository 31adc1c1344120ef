"""The mean log-likelihood of rows in float64, by SciPy, chunk by chunk: nobody's own code."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

__all__ = ["mean_log_likelihood"]

_CHUNK = 16_384


def mean_log_likelihood(
    x: np.ndarray,  # (N, D)
    weights: np.ndarray,  # (K,)
    means: np.ndarray,  # (K, D)
    covariances: np.ndarray,  # full (K, D, D), diagonal (K, D), spherical (K,), tied (D, D)
    family: str,
) -> float:
    """Nats per row; NaN where the parameters are not those of a mixture."""
    given = (weights, means, covariances)
    if not all(np.isfinite(a).all() for a in given) or (weights < 0).any():
        return float("nan")
    weights, means, covariances = (np.asarray(a, dtype=np.float64) for a in given)
    k, d = means.shape
    if family == "spherical":
        family, covariances = "diagonal", np.repeat(covariances[:, None], d, axis=1)
    try:
        if family == "diagonal":
            if not (covariances > 0).all():
                return float("nan")
            factors = np.sqrt(covariances)
            half_log_det = np.log(factors).sum(1)
        else:
            factors = np.linalg.cholesky(covariances)
            half_log_det = np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(-1)
    except np.linalg.LinAlgError:
        return float("nan")
    with np.errstate(divide="ignore"):
        constant = np.log(weights) - half_log_det - 0.5 * d * np.log(2 * np.pi)
    total = 0.0
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK].astype(np.float64)
        joint = np.empty((k, len(part)))
        for j in range(k):
            away = part - means[j]
            if family == "diagonal":
                z = (away / factors[j]).T
            else:
                factor = factors if family == "tied" else factors[j]
                z = solve_triangular(factor, away.T, lower=True, check_finite=False)
            joint[j] = constant[j] - 0.5 * np.square(z).sum(0)
        total += logsumexp(joint, axis=0).sum()
    return float(total / len(x))
