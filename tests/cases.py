"""Tables of data: the float32 grid of the contract, easy blobs, and parameters drawn at random."""

import dataclasses
import math
from dataclasses import dataclass

import torch

from tests.definition import STRUCTURES
from torchgmm import Parameters, families

FAMILIES = families()
FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Case:
    """Rows of a Gaussian mixture; every covariance has eigenvalues from 1 down to 1 / condition.

    Attributes:
        name: as a test id.
        d: features.
        offset: added to every feature of every row.
        separation: distance of the means from their centre, in the largest standard deviation.
        condition: of the covariances.
        k: components.
        n: rows.
        common: the components share the axes of their covariances, which are theirs in another
            order each.
    """

    name: str
    d: int
    offset: float
    separation: float
    condition: float
    k: int = 4
    n: int = 2000
    common: bool = False

    def __str__(self):
        return self.name

    def of(self, family):
        """The case for a family: unrelated axes have no best common ones, only many good ones."""
        return dataclasses.replace(self, common=family == "common_axes")

    def rows(self, dtype=torch.float64, seed=0):
        """`(n, d)`, drawn in float64 and rounded once."""
        g = torch.Generator().manual_seed(seed)
        means, factors = self._truth(g)
        labels = torch.randint(self.k, (self.n,), generator=g)
        noise = torch.randn(self.n, self.d, generator=g, dtype=torch.float64)
        return (means[labels] + (factors[labels] @ noise[..., None]).squeeze(-1)).to(dtype)

    def start(self, family, seed=0):
        """Parameters half a standard deviation off, twice as wide: what a first step may see."""
        means, factors = self._truth(torch.Generator().manual_seed(seed))
        g = torch.Generator().manual_seed(seed + 1)
        noise = torch.randn(self.k, self.d, generator=g, dtype=torch.float64)
        means = means + 0.5 * (factors @ noise[..., None]).squeeze(-1) / math.sqrt(self.d)
        public = STRUCTURES[family].estimate(2 * factors @ factors.mT, means.new_ones(self.k))
        weights = torch.full((self.k,), 1 / self.k, dtype=torch.float64)
        return Parameters.from_covariances(weights, means, public, family)

    def _truth(self, g):
        spread = torch.logspace(0, -math.log10(self.condition) / 2, self.d, dtype=torch.float64)
        frames = torch.randn(self.k, self.d, self.d, generator=g, dtype=torch.float64)
        if self.common:
            order = torch.rand(self.k, self.d, generator=g).argsort(-1)
            frames, spread = frames[:1], spread[order].unsqueeze(-2)
        factors = torch.linalg.qr(frames).Q * spread
        way = torch.randn(self.k, self.d, generator=g, dtype=torch.float64)
        way = way / way.norm(dim=-1, keepdim=True)
        return self.offset + self.separation * way, factors


# numerics.md, section 1: the cases on which the usual forms of EM lose every digit in float32
GRID = (
    Case("offset1e3-cond1e4", 8, 1e3, 3, 1e4),
    Case("cond1e6", 16, 10, 10, 1e6),
    Case("separation1e3", 16, 0, 1000, 1e2),
    Case("offset3e3", 4, 3e3, 3, 1),
    Case("offset3e4", 4, 3e4, 3, 1),
)
EASY = (Case("unit-blobs", 3, 0, 6, 1, k=3, n=500), Case("overlap", 2, 0, 1.5, 4, k=3, n=400))
CASES = (*EASY, *GRID)


def blobs(n=300, d=2, k=3, separation=6.0, dtype=torch.float64, seed=0):
    """`k` round blobs of unit variance on the corners of a simplex-like pattern."""
    return Case("blobs", d, 0, separation, 1, k, n).rows(dtype, seed)


def drawn(family, k, d, batch=(), seed=0, condition=100.0):
    """Valid parameters of any family, drawn at random, float64 `(*batch, ...)`."""
    g = torch.Generator().manual_seed(seed)
    if batch:
        count = math.prod(batch)
        each = [drawn(family, k, d, seed=1000 * (seed + 1) + i) for i in range(count)]
        stacked = [
            torch.stack([getattr(p, name) for p in each]).unflatten(0, batch)
            for name in ("logits", "means", "scale")
        ]
        return Parameters(*stacked, each[0].family)
    weights = torch.rand(k, generator=g, dtype=torch.float64) + 0.2
    means = 2 * torch.randn(k, d, generator=g, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(k, d, d, generator=g, dtype=torch.float64)).Q
    values = condition ** (torch.rand(k, 1, d, generator=g, dtype=torch.float64) - 0.5)
    public = STRUCTURES[family].estimate((basis * values) @ basis.mT, means.new_ones(k))
    return Parameters.from_covariances(weights / weights.sum(), means, public, family)


def one_of(parameters, index):
    """One mixture out of a batch."""
    return Parameters(
        parameters.logits[index],
        parameters.means[index],
        parameters.scale[index],
        parameters.family,
    )
