"""Many mixtures at once: what one call costs beside a loop, and beside others.

python benchmarks/batch.py                                       # all but the peer
python benchmarks/batch.py --environments ~/.cache/torchgmm-peers  # gmm-gpu too, see peers/
python benchmarks/batch.py --sphinx path/to/pocketsphinx/model/en-us/en-us

Prints a Markdown table. Every figure is the best of some calls; gmm-gpu runs in an environment of
its own, in the same minutes and on the same rows. `--sphinx` is the acoustic model that the package
`pocketsphinx` brings along; without it, random mixtures of the same size stand in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import torchgmm as tg

PEER = """
import json, sys, time, warnings
import numpy as np, torch
warnings.simplefilter("ignore")
torch.set_num_threads(int(sys.argv[2]))
from gmm_gpu.gmm import GMM
x = torch.from_numpy(np.load(sys.argv[1]))
times = []
for _ in range(5):
    began = time.perf_counter()
    model = GMM(2, device="cpu", max_iter=100, tol=1e-3, reg_covar=1e-6, random_seed=1)
    model.fit(x)
    times.append(time.perf_counter() - began)
print(json.dumps([min(times), float(model.score(x).mean())]))
"""


def thousand(b: int = 1000, n: int = 400) -> np.ndarray:
    """Rows `(1000, 400, 2)` of mixtures of two Gaussians, float32."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(b, 2, 2)) * 3
    labels = rng.integers(2, size=(b, n))
    factors = rng.normal(size=(b, 2, 2, 2)) * 0.5 + np.eye(2)
    noise = (factors[np.arange(b)[:, None], labels] @ rng.normal(size=(b, n, 2, 1)))[..., 0]
    return (np.take_along_axis(means, labels[:, :, None], 1) + noise).astype(np.float32)


def best(call, runs: int = 5):
    """Least seconds of some calls, and the last answer."""
    times, answer = [], None
    for _ in range(runs):
        began = time.perf_counter()
        answer = call()
        times.append(time.perf_counter() - began)
    return min(times), answer


def of_scikit_learn(x: np.ndarray) -> tuple[float, float]:
    """A loop of scikit-learn's fits: seconds, and the mean log-likelihood.

    With one thread, which is the fastest for it.
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        began = time.perf_counter()
        fits = [GaussianMixture(2, random_state=0).fit(rows) for rows in x]
        took = time.perf_counter() - began
    return took, float(np.mean([m.score(rows) for m, rows in zip(fits, x, strict=True)]))


def of_peer(x: np.ndarray, environments: Path, threads: int) -> tuple[float, float] | None:
    """The same by gmm-gpu, in its own environment."""
    python = environments / "gmm-gpu" / "bin" / "python"
    if not python.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x)
        command = [str(python), "-c", PEER, str(Path(folder) / "x.npy"), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, score = json.loads(done.stdout.splitlines()[-1])
    return seconds, score


def thousand_fits(environments: Path | None, threads: int) -> None:
    x = thousand()
    rows = torch.from_numpy(x)
    seconds, mixture = best(lambda: fitted(2, rows, (1000,)))
    say("1,000 fits of 400 x 2 -> 2 full, float32", seconds, float(mixture.score(rows).mean()))
    theirs = None if environments is None else of_peer(x, environments, threads)
    if theirs is not None:
        say("  gmm-gpu 0.2.8, the same", *theirs, seconds)
    say("  a loop of scikit-learn, the same", *of_scikit_learn(x), seconds)
    alone, _ = best(lambda: [fitted(2, r, ()) for r in rows[:100]], 1)
    say("  a loop of torchgmm, the same (100 fits, times 10)", 10 * alone, None, seconds)


def fitted(k: int, x, shape: tuple[int, ...], covariance: str = "full", **options):
    mixture = tg.GaussianMixture(k, covariance=covariance, batch_shape=shape)
    mixture.fit(x, generator=0, **options)
    return mixture


def per_pixel() -> None:
    """PaDiM (Defard et al. 2020): a Gaussian per place of a feature map, of 56 x 56 places."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(100, 100, generator=g) / 10
    x = torch.randn(3136, 300, 100, generator=g) @ mix + torch.randn(3136, 1, 100, generator=g)
    seconds, mixture = best(lambda: fitted(1, x, (3136,)), 2)
    score = float(mixture.score(x).mean())
    say("3,136 single Gaussians of D=100, 300 rows each, float32", seconds, score)
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        some, _ = best(lambda: [GaussianMixture(1).fit(rows) for rows in x[:98].numpy()], 1)
    say("  a loop of scikit-learn (98 fits, times 32)", 32 * some, None, seconds)
    took, _ = best(lambda: [np.cov(rows.T) for rows in x.numpy()], 1)
    say("  a loop of numpy.cov (no density, no factor)", took, None, seconds)


def acoustic(folder: Path | None) -> None:
    """42 phones, 128 diagonal components each in 39 dimensions: refitted from their own samples."""
    truth = stand_in() if folder is None else sphinx(folder)
    name = "random" if folder is None else "pocketsphinx en-us"
    b, k, d = truth.means.shape
    x = truth.sample((6000,), torch.Generator().manual_seed(0)).movedim(0, 1).contiguous()
    method = tg.EM(max_iter=10)
    seconds, mixture = best(lambda: fitted(k, x, (b,), "diagonal", method=method), 1)
    text = f"{b} diagonal mixtures of K={k}, D={d} ({name}), 6,000 rows each, 10 steps"
    say(text, seconds, float(mixture.score(x).mean()))
    say("  log-density of the truth on the same rows", None, float(truth.score(x).mean()))
    alone, _ = best(lambda: [fitted(k, rows, (), "diagonal", method=method) for rows in x[:4]], 1)
    say(f"  a loop of torchgmm (4 fits, times {b / 4:g})", alone * b / 4, None, seconds)


def sphinx(folder: Path) -> tg.GaussianMixture:
    """The codebooks of a Sphinx acoustic model as diagonal mixtures of equal weights.

    Streams (cepstra, their first and second differences) are independent there; component j of
    the mixture is component j of every stream.
    """
    means, variances = (np.concatenate(streams(folder / n), -1) for n in ("means", "variances"))
    b, k, _ = means.shape
    weights = np.full((b, k), 1 / k)
    variances = np.maximum(variances, 1e-4)  # the floor with which Sphinx reads them
    return tg.GaussianMixture.from_covariances(weights, means, variances, "diagonal")


def streams(file: Path) -> list[np.ndarray]:
    """The arrays `(codebooks, densities, length)` of one file in the format s3, one per stream."""
    content = file.read_bytes()
    start = content.index(b"endhdr\n") + len(b"endhdr\n")
    order = "<" if content[start : start + 4] == b"\x44\x33\x22\x11" else ">"
    books, count, densities = np.frombuffer(content, order + "i4", 3, start + 4)
    lengths = np.frombuffer(content, order + "i4", count, start + 16)
    place = start + 16 + 4 * count
    total = int(np.frombuffer(content, order + "i4", 1, place)[0])
    numbers = np.frombuffer(content, order + "f4", total, place + 4).astype(np.float64)
    found = numbers.reshape(books, densities * int(lengths.sum()))
    parts = np.split(found, np.cumsum(lengths * densities)[:-1], axis=1)
    return [p.reshape(books, densities, n) for p, n in zip(parts, lengths, strict=True)]


def stand_in() -> tg.GaussianMixture:
    g = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(42, 128, 39, generator=g, dtype=torch.float64)
    weights = torch.full((42, 128), 1 / 128).double()
    return tg.GaussianMixture.from_covariances(weights, means, torch.ones_like(means), "diagonal")


def restarts() -> None:
    g = torch.Generator().manual_seed(0)
    centres = 2.5 * torch.randn(5, 4, generator=g)
    x = centres[torch.randint(5, (5000,), generator=g)] + torch.randn(5000, 4, generator=g)

    def seconds(n_init: int, seed: int) -> float:
        mixture = tg.GaussianMixture(5)
        began = time.perf_counter()
        mixture.fit(x, n_init=n_init, generator=seed)
        return time.perf_counter() - began

    def both() -> tuple[float, float]:
        """Turn and turn about, as the speed of a shared machine changes within seconds."""
        one, many = [], []
        for seed in range(12):
            one += [seconds(1, 4 * seed + n) for n in range(4)]
            many.append(seconds(16, seed))
        return statistics.fmean(one), statistics.fmean(many)

    both()
    passes = sorted((both() for _ in range(5)), key=lambda found: found[1] / found[0])
    one, many = passes[2]
    say("one fit of 5,000 x 4 -> 5 full, float32 (mean of 48 starts; the median of 5 passes)", one)
    say("  n_init=16 (mean of 12)", many, None, one)


def ragged() -> None:
    g = torch.Generator().manual_seed(0)
    counts = torch.randint(20, 2000, (2000,), generator=g)
    of = torch.arange(2000).repeat_interleave(counts)
    centres = 6 * torch.randint(2, (len(of), 1), generator=g)
    x = torch.randn(len(of), 3, generator=g) + centres
    order = torch.randperm(len(of), generator=g)
    x, of = x[order], of[order]
    seconds, mixture = best(lambda: fitted(2, x, (2000,), groups=of), 3)
    say(f"2,000 groups of 20 to 2,000 rows ({len(of):,} in all), D=3 -> 2", seconds)
    del mixture


def say(what: str, seconds: float | None, score: float | None = None, own: float | None = None):
    ratio = "" if own is None or seconds is None else f"{seconds / own:.1f}"
    took = "" if seconds is None else f"{seconds:.3g}"
    level = "" if score is None else f"{score:.4f}"
    print(f"| {what} | {took} | {ratio} | {level} |", flush=True)


CASES = ("thousand", "restarts", "pixels", "acoustic", "ragged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=Path, help="folder of the peers' environments")
    parser.add_argument(
        "--sphinx", type=Path, help="folder of an acoustic model (means, variances)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {given.threads} threads, python {sys.version.split()[0]}\n")
    print("| case | seconds | ratio to the first line | mean log-density |\n|:--|--:|--:|--:|")
    calls = {
        "thousand": lambda: thousand_fits(given.environments, given.threads),
        "restarts": restarts,
        "pixels": per_pixel,
        "acoustic": lambda: acoustic(given.sphinx),
        "ragged": ragged,
    }
    for name in given.only:
        calls[name]()


if __name__ == "__main__":
    main()
