#!/usr/bin/env bash
# What to run first on a machine with a GPU, in the root of a checkout: benchmarks/gpu/first.sh OUT
# It installs nothing. Needs torch with CUDA, pytest, hypothesis, scipy and scikit-learn.
set -uo pipefail
out="${1:?a folder for the results}"
mkdir -p "$out"
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
failed=0

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu.txt"
python3 -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)' |
    tee -a "$out/gpu.txt"

# Right before fast: the contracts of the kernels, on the device. Most of the time is compiling, which
# several processes share where pytest-xdist is there; a second run takes what the first compiled.
workers=()
python3 -c 'import xdist' 2>/dev/null && workers=(-n "$(($(nproc) < 8 ? $(nproc) : 8))")
timeout 380 python3 -m pytest -q -p no:cacheprovider --device cuda "${workers[@]}" \
    tests/kernels tests/gpu tests/fitting/test_graphs.py tests/fitting/test_ahead.py \
    tests/contracts/test_kernel.py tests/contracts/test_precision.py \
    tests/data/test_gpu.py tests/data/test_prefetch.py tests/data/test_encoder.py \
    2>&1 | tee "$out/tests.txt" | tail -25 || failed=1

# Then the smallest table, which shows whether everything runs.
timeout 130 python3 -m benchmarks.peers --out "$out/quick" --device cuda --quick || failed=1

# And a few tiles of every kernel, k-means with them, and chunks of several sizes.
timeout 80 python3 -m benchmarks.gpu.tune --features 64 --precision ieee --most 2 2>&1 |
    tee "$out/tiles.txt" || failed=1
exit "$failed"
