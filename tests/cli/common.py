"""What the tests of the command line share."""

import torch

LEFT = ["config.yaml", "mixture.safetensors", "picture.png", "result.json"]
K2 = ["--mixture.n_components", "2"]
PLAIN = [*K2, "--mixture.dtype", "float64", "--picture", "none"]


def same(one, other):
    """Bit for bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
