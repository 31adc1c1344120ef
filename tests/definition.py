"""The mixture as the textbook has it: naive, float64, matrices of full size, one component a time.

Nothing here uses torchgmm's numerics, so that the package can be held against it. `STRUCTURES` has
one line per covariance family: what its public form means, and what part of a scatter it keeps.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.distributions import MultivariateNormal

from torchgmm import Parameters


def _eye(vector, d):
    return torch.diag_embed(vector[..., None].expand(*vector.shape, d))


def _trace(matrix):
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _diagonal(matrix):
    return matrix.diagonal(dim1=-2, dim2=-1)


# maps of the rows, drawn at random, that turn covariances of a family into such


def rotation(d, g):
    return torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q


def any_matrix(d, g):
    stretch = 0.25 + 3 * torch.rand(d, generator=g, dtype=torch.float64)
    return rotation(d, g) @ torch.diag(stretch) @ rotation(d, g)


def axes(d, g):
    stretch = 0.25 + 3 * torch.rand(d, generator=g, dtype=torch.float64)
    sign = torch.randint(2, (d,), generator=g) * 2 - 1
    return torch.diag(stretch * sign)[torch.randperm(d, generator=g)]


def similarity(d, g):
    return (0.25 + 3 * torch.rand((), generator=g, dtype=torch.float64)) * rotation(d, g)


def flury_gautschi(scatters, counts):
    """Common principal components, by the F and the G algorithm of Flury & Gautschi (1986).

    Pairs that have no axis in common take their turns together. There are several minima: the best
    end is taken, from the eigenvectors of the mean and those of every covariance.
    """
    known = scatters.numpy().tobytes(), counts.numpy().tobytes()
    if known not in _FOUND:
        _FOUND[known] = _flury_gautschi(scatters, counts)
    return _FOUND[known].clone()


_FOUND = {}


def _flury_gautschi(scatters, counts):
    s, n = (scatters / counts[:, None, None]).numpy(), (counts / counts.sum()).numpy()
    starts = np.linalg.eigh(np.concatenate([(n[:, None, None] * s).sum(0)[None], s]))[1]

    def level(q):
        return (n[:, None] * np.log(np.einsum("kii->ki", q.T @ s @ q))).sum()

    q = min((_turned(s, n, q) for q in starts), key=level)
    v = torch.from_numpy(np.einsum("kii->ki", q.T @ s @ q))
    q = torch.from_numpy(q)
    return (q * v[:, None]) @ q.T


def _turned(s, n, q):
    """Where the F algorithm gets from the orthogonal matrix q."""
    for _ in range(3000):
        largest = 0.0
        for i, j in _rounds(len(q)):
            t = q.T @ s @ q
            blocks = np.stack([t[:, i, i], t[:, i, j], t[:, j, j]])  # (3, K, P)
            angle = _angles(blocks, n[:, None])
            c, sin = np.cos(angle), np.sin(angle)
            q[:, i], q[:, j] = c * q[:, i] + sin * q[:, j], c * q[:, j] - sin * q[:, i]
            largest = max(largest, abs(sin).max(initial=0.0))
        if largest < 1e-12:
            break
    return q


def _rounds(d):
    """All pairs of d axes, in rounds of pairs that are disjoint."""
    around = list(range(d + d % 2))
    for _ in around[1:]:
        half = len(around) // 2
        pairs = zip(around[:half], around[: half - 1 : -1], strict=True)
        chosen = np.array([p for p in pairs if max(p) < d], dtype=int).reshape(-1, 2)
        yield chosen.T
        around[1:] = [around[-1], *around[1:-1]]


def _angles(blocks, n):
    """By what each pair of axes turns `(P,)`: the G algorithm on blocks of a, b, c `(3, K, P)`."""
    a, b, c = blocks
    angle = np.zeros(a.shape[-1])
    for _ in range(3):
        cos, sin = np.cos(angle), np.sin(angle)
        one = cos**2 * a + 2 * cos * sin * b + sin**2 * c
        other = sin**2 * a - 2 * cos * sin * b + cos**2 * c
        weight = n * (one - other) / (one * other)
        x, y = (weight * (a - c)).sum(0), (weight * 2 * b).sum(0)
        angle = 0.5 * np.arctan2(y, x)
    return angle


class Structure(NamedTuple):
    """What a family is, said with dense matrices `(K, D, D)`."""

    dense: Callable  # public covariances, K, D -> (K, D, D)
    estimate: Callable  # scatters (K, D, D), counts (K,) -> public covariances
    reduce: Callable  # scatters (K, D, D) -> Moments.second
    n_parameters: Callable  # K, D -> int
    moves: Callable  # D, generator -> a matrix A for which rows x A stay in the family
    digits: float = 1e-12  # to which an estimate is found, relative to the largest entry


STRUCTURES = {
    "full": Structure(
        lambda c, k, d: c,
        lambda s, n: s / n[:, None, None],
        lambda s: s,
        lambda k, d: k * d * (d + 1) // 2,
        any_matrix,
    ),
    "tied": Structure(
        lambda c, k, d: c.expand(k, d, d),
        lambda s, n: s.sum(0) / n.sum(),
        lambda s: s.sum(0, keepdim=True),
        lambda k, d: d * (d + 1) // 2,
        any_matrix,
    ),
    "diagonal": Structure(
        lambda c, k, d: torch.diag_embed(c),
        lambda s, n: _diagonal(s) / n[:, None],
        _diagonal,
        lambda k, d: k * d,
        axes,
    ),
    "spherical": Structure(
        lambda c, k, d: _eye(c, d),
        lambda s, n: _trace(s) / (n * s.shape[-1]),
        lambda s: _trace(s)[:, None],
        lambda k, d: k,
        similarity,
    ),
    "tied_diagonal": Structure(
        lambda c, k, d: torch.diag_embed(c).expand(k, d, d),
        lambda s, n: _diagonal(s).sum(0) / n.sum(),
        lambda s: _diagonal(s).sum(0, keepdim=True),
        lambda k, d: d,
        axes,
    ),
    "tied_spherical": Structure(
        lambda c, k, d: _eye(c, d).expand(k, d, d),
        lambda s, n: _trace(s).sum() / (n.sum() * s.shape[-1]),
        lambda s: _trace(s).sum().reshape(1, 1),
        lambda k, d: 1,
        similarity,
    ),
    "common_axes": Structure(
        lambda c, k, d: c,
        flury_gautschi,
        lambda s: s,
        lambda k, d: k * d + d * (d - 1) // 2,
        similarity,
        digits=1e-8,  # a search that ends where 1e-20 nats are left
    ),
}


class Naive(NamedTuple):
    """A mixture in plain form, float64."""

    weights: torch.Tensor  # (K,)
    means: torch.Tensor  # (K, D)
    covariances: torch.Tensor  # (K, D, D)


def naive(parameters: Parameters) -> Naive:
    """The plain form of one mixture; only the public shape of the covariances is trusted."""
    family, (k, d) = parameters.family, parameters.means.shape
    public = family.covariances(parameters.scale.double())
    dense = STRUCTURES[family.name].dense(public, k, d)
    return Naive(parameters.logits.double().softmax(-1), parameters.means.double(), dense)


def log_joint(x, mixture: Naive):
    """`log pi_k + log N(x_n; mu_k, Sigma_k)`, `(K, N)`."""
    normal = MultivariateNormal(mixture.means, mixture.covariances, validate_args=False)
    return normal.log_prob(x.double()[:, None]).T + mixture.weights.log()[:, None]


class Sums(NamedTuple):
    """What an E-step finds."""

    weight: torch.Tensor  # (K,)
    first: torch.Tensor  # (K, D)     about the means
    scatter: torch.Tensor  # (K, D, D)  about the means
    log_prob: torch.Tensor  # ()


def e_step(x, w, mixture: Naive) -> Sums:
    x = x.double()
    w = x.new_ones(len(x)) if w is None else w.double()
    joint = log_joint(x, mixture)
    r = joint.softmax(0) * w
    d = x - mixture.means[:, None]  # (K, N, D)
    return Sums(
        r.sum(-1),
        torch.einsum("kn,knd->kd", r, d),
        torch.einsum("kn,kni,knj->kij", r, d, d),
        (joint.logsumexp(0) * w).sum(),
    )


def em_step(x, w, parameters: Parameters, floor=0.0):
    """One EM step: weights `(K,)`, means `(K, D)`, covariances in the family's public form."""
    before, structure = naive(parameters), STRUCTURES[parameters.family.name]
    seen = e_step(x, w, before)
    shift = seen.first / seen.weight[:, None]
    central = seen.scatter - seen.weight[:, None, None] * shift[:, :, None] * shift[:, None, :]
    eye = torch.eye(x.shape[-1], dtype=torch.float64)
    central = central + floor * seen.weight[:, None, None] * eye
    weights = seen.weight / seen.weight.sum()
    return weights, before.means + shift, structure.estimate(central, seen.weight)
