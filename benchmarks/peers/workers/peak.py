"""The machine's own peaks: `torch.mm` of square matrices, the best of many calls.

python peak.py OUT.json [DEVICE]

On a GPU also its memory's bandwidth (a copy; bytes read and written both count) and that of the way
there from page-locked memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

SIZE, CALLS = 1536, 10
GPU_SIZE, BYTES = 8192, 2**30


def peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """Floating-point operations per second; an addition and a multiplication are two."""
    size = SIZE if device == "cpu" else GPU_SIZE
    a, b = torch.randn(2, size, size, dtype=dtype, device=device)
    out = torch.empty_like(a)
    return 2 * size**3 / best(lambda: torch.mm(a, b, out=out), device)


def best(call: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of many calls."""
    call()
    times = []
    for _ in range(CALLS):
        if device == "cpu":
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
            continue
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return min(times)


def on_gpu(device: str) -> dict[str, float]:
    """Bytes per second, and operations of reduced products, which are nobody's float32."""
    here = torch.empty(BYTES, dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    host = torch.empty(BYTES, dtype=torch.uint8, pin_memory=True)
    torch.set_float32_matmul_precision("high")
    reduced = peak(torch.float32, device)
    torch.set_float32_matmul_precision("highest")
    return {
        "memory": 2 * BYTES / best(lambda: there.copy_(here), device),
        "host": BYTES / best(lambda: here.copy_(host, non_blocking=True), device),
        "tf32": reduced,
        "bfloat16": peak(torch.bfloat16, device),
    }


if __name__ == "__main__":
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    found = {"float32": peak(torch.float32, device), "float64": peak(torch.float64, device)}
    if device != "cpu":
        found |= on_gpu(device)
    Path(sys.argv[1]).write_text(json.dumps({"flops": found, "threads": torch.get_num_threads()}))
