"""The machine's own GEMM peak: `torch.mm` of square matrices, the best of many calls.

python peak.py OUT.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

SIZE, CALLS = 1536, 10


def peak(dtype: torch.dtype) -> float:
    """Floating-point operations per second; an addition and a multiplication are two."""
    a, b = torch.randn(2, SIZE, SIZE, dtype=dtype)
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    best = float("inf")
    for _ in range(CALLS):
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - began)
    return 2 * SIZE**3 / best


if __name__ == "__main__":
    found = {"float32": peak(torch.float32), "float64": peak(torch.float64)}
    Path(sys.argv[1]).write_text(json.dumps({"flops": found, "threads": torch.get_num_threads()}))
