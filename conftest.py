"""What the doctests of the package leave out: modules that need a package which is not there."""

import importlib.util

collect_ignore_glob = []
if importlib.util.find_spec("triton") is None:
    collect_ignore_glob += ["torchgmm/kernels/triton_*.py", "torchgmm/kernels/tuned.py"]
