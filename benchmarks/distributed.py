"""Exact EM by several processes: seconds per step, what is sent, and what that says of a cluster.

    python benchmarks/distributed.py
    python benchmarks/distributed.py --processes 1 2 4 --rows 2000000
    python benchmarks/distributed.py --model

One thread for each process, on one machine, over gloo; rounds alternate between the numbers of
processes, so that a machine that changes its mind does so for all. The start is the same for all.
`--model` prints the cost model on paper alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

# of one all-reduce: what arrives at each process, bytes per second, and seconds until it begins
LINKS = {"InfiniBand 400 Gb/s": (40e9, 20e-6), "Ethernet 100 Gb/s": (10e9, 50e-6)}
FLOPS = 40e12  # of an E-step on one GPU, float32: assumed, what a plain product reaches
CUBIC = 50e9  # K D^3 per second of the M-step there, float64: assumed; a CPU core has 4 to 16e9
SHAPES = ((32, 32), (64, 64), (1024, 64), (1024, 128), (256, 512))  # K x D


def main():
    options = parsed()
    if options.model:
        print(model(options.rows_per_gpu))
        return
    if options.worker:
        worker(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        make(file, options.rows, options.features)
        found = {count: [] for count in options.processes}
        for _ in range(options.rounds):
            for count in options.processes:
                found[count].append(job(count, file, options))
    print(table(found, options))


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rows", type=int, default=1_000_000)
    add("--features", type=int, default=32)
    add("--components", type=int, default=32)
    add("--covariance", default="full")
    add("--kernel", default="auto")
    add("--processes", type=int, nargs="+", default=[1, 2])
    add("--steps", type=int, default=4, help="timed steps; one more comes before them")
    add("--rounds", type=int, default=3)
    add("--model", action="store_true", help="the cost model on paper")
    add("--rows-per-gpu", type=int, default=1_000_000, help="of the cost model")
    add("--worker", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def make(file, n, d):
    """Rows of 32 overlapping blobs, float32."""
    generator = np.random.default_rng(0)
    means = 2 * generator.normal(size=(32, d))
    x = means[generator.integers(32, size=n)] + generator.normal(size=(n, d))
    np.save(file, x.astype(np.float32))


def job(count, file, options):
    """Medians of a job: seconds of a step and of its sum over processes; bytes of a step."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    words = ["--worker", str(file), "--components", options.components, "--steps", options.steps]
    words += ["--covariance", options.covariance, "--kernel", options.kernel]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, __file__, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def worker(options):
    import torch

    import torchgmm as tg
    from torchgmm.collective import Group, current, together
    from torchgmm.data import OwnRows

    warnings.simplefilter("ignore", tg.ConvergenceWarning)
    torch.set_num_threads(1)
    x = np.load(options.worker, mmap_mode="r")
    k, d = options.components, x.shape[1]
    generator = torch.Generator().manual_seed(1)
    means = torch.from_numpy(np.array(x[:: len(x) // k][:k]))
    means += 0.1 * torch.randn(k, d, generator=generator)
    eye = torch.eye(d).expand(k, d, d)
    start = tg.Parameters.from_covariances(torch.full((k,), 1 / k), means, eye)
    start = tg.GaussianMixture.from_parameters(start).as_parameters().map(torch.Tensor.detach)

    @together
    def fit():
        # this process's rows in its own memory: what is measured is no reading
        group: Group = current()
        first, last = group.share(len(x))
        own = OwnRows(torch.from_numpy(np.array(x[first:last])))
        mixture = tg.GaussianMixture(k, covariance=options.covariance)
        method = tg.EM(options.steps + 1, kernel=options.kernel)
        init = start if options.covariance == "full" else "random_from_data"
        spent = timed(group) if group.size > 1 else [0.0]
        result = mixture.fit(own, method, init=init, stop=tg.Tolerance(0), generator=0)
        return group, result, spent

    group, result, spent = fit()
    if group.leads:
        steps = result.history[1:]
        told = {
            "seconds": statistics.median(step.seconds for step in steps),
            "waiting": statistics.median(spent[-len(steps) :]),
            "n_bytes": steps[-1].n_bytes,
            "kernel": steps[-1].kernel,
            "log_likelihood": result.log_likelihood,
        }
        print(json.dumps(told))


def timed(group):
    """Seconds of every sum over processes, the wait for the slowest of them included."""
    spent, inner = [], group._summed

    def summed(flat):
        began = time.perf_counter()
        found = inner(flat)
        spent.append(time.perf_counter() - began)
        return found

    group._summed = summed
    return spent


def table(found, options):
    """Markdown."""
    n, d, k = options.rows, options.features, options.components
    lines = [
        f"{n:,} x {d} -> {k} {options.covariance}, float32, one thread for each process "
        f"({os.cpu_count()} cores), median of {options.rounds} rounds of {options.steps} steps; "
        f"load {os.getloadavg()[0]:.1f}",
        "",
        "| processes | s per step | in the sum, waiting included | bytes | efficiency | kernel |",
        "|---|---|---|---|---|---|",
    ]
    fewest = min(found)
    base = statistics.median(one["seconds"] for one in found[fewest])
    for count, rounds in sorted(found.items()):
        middle = statistics.median(one["seconds"] for one in rounds)
        waiting = statistics.median(one["waiting"] for one in rounds)
        lines.append(
            f"| {count} | {middle:.3f} | {waiting:.4f} | {rounds[-1]['n_bytes']:,} | "
            f"{base * fewest / (middle * count):.0%} | {rounds[-1]['kernel']} |"
        )
    levels = {round(one["log_likelihood"], 9) for rounds in found.values() for one in rounds}
    lines.append(f"\nlog-likelihood at the end, nats per row: {', '.join(map(str, levels))}")
    return "\n".join(lines)


def packed_bytes(k, d):
    """What each process gives in a step of full covariances; `Step.n_bytes` says the same."""
    return 8 * (k * (1 + d + d * (d + 1) // 2) + 6)


def model(rows):
    """The cost of a step on paper, Markdown: E-step, sum, M-step; and what sharing that brings.

    A ring sends `2 (W - 1) / W` times the bytes from each process and takes as many stages; a tree
    takes `2 log2 W`, which is what NCCL does where latency counts.
    """
    lines = [
        f"{rows:,} float32 rows on each GPU, full covariances. E-step `4 N K D^2` at "
        f"{FLOPS / 1e12:g} TFLOP/s, M-step `K D^3` at {CUBIC / 1e9:g} G/s (float64). Milliseconds.",
        "",
        "| K x D | bytes | E-step | M-step | link | sum at 8, 64, 1,024 GPUs | efficiency there | "
        "M-step shared by 8 | by 1,024 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for k, d in SHAPES:
        size, e, m = packed_bytes(k, d), 4 * rows * k * d**2 / FLOPS, k * d**3 / CUBIC
        for link, (bandwidth, latency) in LINKS.items():
            sums = [reduced(size, w, bandwidth, latency) for w in (8, 64, 1024)]
            best = [(e + m) / (e + m + s) for s in sums]
            factors = 8 * k * (d * (d + 1) // 2 + 1)
            shared = [m / w + reduced(factors, w, bandwidth, latency) for w in (8, 1024)]
            lines.append(
                f"| {k} x {d} | {size:,} | {e * 1e3:.3g} | {m * 1e3:.3g} | {link} | "
                f"{', '.join(f'{s * 1e3:.3g}' for s in sums)} | "
                f"{', '.join(f'{b:.0%}' for b in best)} | "
                + " | ".join(f"{s * 1e3:.3g}{' (pays)' if s < m else ''}" for s in shared)
                + " |"
            )
    return "\n".join(lines)


def reduced(size, world, bandwidth, latency):
    """Seconds of one sum over `world` processes."""
    return 2 * (world - 1) / world * size / bandwidth + 2 * np.log2(world) * latency


if __name__ == "__main__":
    main()
