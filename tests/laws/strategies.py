"""Problems drawn by hypothesis: rows, weights, a start; small, but of every shape and family."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from tests.cases import FAMILIES
from tests.definition import STRUCTURES
from torchgmm import EM, GaussianMixture, Parameters, Tolerance

seeds = st.integers(0, 2**31)


@dataclass(frozen=True)
class Drawn:
    """Rows and where a fit of them starts, float64."""

    x: torch.Tensor  # (N, D)
    start: Parameters

    def __repr__(self):
        k, d = self.start.means.shape
        return f"{self.start.family.name} N={len(self.x)} K={k} D={d} {self.x.tolist()}"

    def fit(self, x=None, start=None, steps=5, floor=0.0, weights=None):
        """The result of so many plain EM steps, none left out."""
        start = self.start if start is None else start
        mixture = GaussianMixture(start.n_components, covariance=start.family, dtype=torch.float64)
        rows = self.x if x is None else x
        method = EM(max_iter=steps, reg_covar=floor)
        return mixture.fit(rows, method, init=start, stop=Tolerance(0), weights=weights)


@st.composite
def problems(draw, families=FAMILIES, least_rows=12, most_rows=60):
    """Overlapping clouds, anywhere and of any size, with enough rows for every covariance."""
    family = draw(st.sampled_from(families))
    k, d = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n = draw(st.integers(least_rows, most_rows)) * k
    g = torch.Generator().manual_seed(draw(seeds))
    offset, size = draw(st.sampled_from([0.0, 1.0, -30.0])), draw(st.sampled_from([0.1, 1.0, 20.0]))
    x = offset + size * (
        torch.randn(n, d, generator=g, dtype=torch.float64)
        + torch.randint(3, (n, 1), generator=g).double()
    )
    means = x[torch.randperm(n, generator=g)[:k]]
    dense = (x.var(0).mean() * torch.eye(d).double()).expand(k, d, d)
    public = STRUCTURES[family].estimate(dense, x.new_ones(k))
    weights = 0.2 + torch.rand(k, generator=g, dtype=torch.float64)
    start = Parameters.from_covariances(weights / weights.sum(), means, public, family)
    return Drawn(x, start)


def permuted(parameters, order):
    """The same mixture with its components in another order."""
    scale = parameters.scale if parameters.family.tied else parameters.scale[order]
    return Parameters(parameters.logits[order], parameters.means[order], scale, parameters.family)


def assert_close(got, expected, tolerance):
    """Weights, means and covariances agree, relative to the largest entry of each."""
    for form in (
        lambda p: p.log_weights.exp(),
        lambda p: p.means,
        lambda p: p.family.covariances(p.scale),
    ):
        a, b = form(got), form(expected)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max() + 1e-300))
