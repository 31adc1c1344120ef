"""Which step sizes should online EM have? Its defaults come from the table that this prints.

python benchmarks/online_defaults.py --quick

For several data sets, from one k-means start each: the mean log-likelihood (nats per row, of all
rows) after two passes of online EM, minus that after ten passes of exact EM. Above 0 is good.
`online_defaults.md` says what was found.
"""

from __future__ import annotations

import argparse
import itertools
import warnings

import numpy as np
import torch

import torchgmm as tg
from torchgmm.data import ImagePatches


def patches(image: str, size: int, rows: int) -> np.ndarray:
    """Some patches of a photograph, in random order."""
    source = ImagePatches(image, size).source()
    block = source.sample(rows, torch.Generator().manual_seed(0))
    return block.x.numpy()


def blobs(rows: int, features: int, clusters: int, spread: float) -> np.ndarray:
    """Clusters with covariances of their own; `spread` is the distance of the means in sigmas."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(clusters, features)) * spread
    factors = rng.normal(size=(clusters, features, features)) / features**0.5
    labels = rng.integers(clusters, size=rows)
    noise = rng.normal(size=(rows, features, 1))
    return (means[labels] + (factors[labels] @ noise)[..., 0]).astype(np.float32)


CASES = {
    "china 8x8, K=64 full": (lambda: patches("china.jpg", 8, 100_000), 64, "full"),
    "flower 8x8, K=64 full": (lambda: patches("flower.jpg", 8, 100_000), 64, "full"),
    "flower 8x8, K=32 full": (lambda: patches("flower.jpg", 8, 50_000), 32, "full"),
    "china 4x4, K=64 full": (lambda: patches("china.jpg", 4, 100_000), 64, "full"),
    "china 8x8, K=64 diagonal": (lambda: patches("china.jpg", 8, 100_000), 64, "diagonal"),
    "blobs 8-D, spread 4, K=16 full": (lambda: blobs(50_000, 8, 16, 4.0), 16, "full"),
    "blobs 8-D, spread 1, K=16 full": (lambda: blobs(50_000, 8, 16, 1.0), 16, "full"),
    "blobs 2-D, spread 2, K=8 tied": (lambda: blobs(20_000, 2, 8, 2.0), 8, "tied"),
}
GRID = {"exponent": (0.6, 0.65, 0.7), "offset": (0.5, 1.0, 2.0), "batch_size": (None, 256, 4096)}


def gains(case: str, settings: list[dict[str, float]]) -> list[float]:
    """Nats per row over ten passes of exact EM, for every setting."""
    make, k, covariance = CASES[case]
    x = torch.from_numpy(make())
    start = tg.GaussianMixture(k, covariance=covariance)
    start.fit(x, tg.EM(max_iter=0), generator=0)
    parameters = start.as_parameters(torch.float64).map(torch.Tensor.detach).map(torch.clone)
    exact = fitted(x, parameters, tg.EM(max_iter=10))
    return [fitted(x, parameters, tg.OnlineEM(max_iter=2, **s)) - exact for s in settings]


def fitted(x: torch.Tensor, start: tg.Parameters, method: tg.EM | tg.OnlineEM) -> float:
    """Mean log-likelihood of all rows after the method's steps."""
    mixture = tg.GaussianMixture.from_parameters(start, dtype=torch.float32)
    tg.fit(mixture, x, method, init=start, stop=tg.Tolerance(0), generator=1)
    return float(mixture.score(x))


def main() -> None:
    """Print the table: a line per data set, a column per numbered setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the defaults")
    warnings.simplefilter("ignore")
    names = list(GRID)
    settings: list[dict[str, float]] = [{}]
    if not parser.parse_args().quick:
        settings += [dict(zip(names, v, strict=True)) for v in itertools.product(*GRID.values())]
    for number, setting in enumerate(settings):
        print(number, ", ".join(f"{k}={v}" for k, v in setting.items()) or "defaults")
    for case in CASES:
        print(
            case.ljust(32) + " ".join(f"{gain:+.4f}" for gain in gains(case, settings)), flush=True
        )


if __name__ == "__main__":
    main()
