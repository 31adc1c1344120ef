"""What these suites share: rows, mixtures, and how nearly answers agree."""

import torch

import torchgmm as tg
from tests.cases import Case
from tests.without_float64.apple import here

CASE = Case("blobs", 3, 0, 6, 4, k=3, n=600)
X = CASE.rows(torch.float32)
WEIGHTS = torch.rand(600, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
QUESTIONS = ["log_prob", "log_joint", "component_log_prob", "mahalanobis", "responsibilities",
             "membership_entropy", "predict", "score", "aic", "bic", "icl"]  # fmt: skip
METHODS = {
    "EM": tg.EM(max_iter=4),
    "EM, ahead": tg.EM(max_iter=4, check_every=3),
    "SQUAREM": tg.SQUAREM(max_iter=5),
    "OnlineEM": tg.OnlineEM(max_iter=2, batch_size=100),
    "IncrementalEM": tg.IncrementalEM(max_iter=2, n_blocks=4),
    "VarianceReducedEM": tg.VarianceReducedEM(max_iter=2, n_blocks=4),
    "Gradient": tg.Gradient(max_iter=3, annealing=1),
    "LBFGS": tg.Gradient(max_iter=2, optimizer="LBFGS"),
}


def mixture_of(family, batch=(), start=None):
    start = CASE.of(family).start(family) if start is None else start
    one = tg.GaussianMixture.from_parameters(start, dtype=torch.float32)
    return tg.stack([one] * batch[0]) if batch else one


def close(found, wanted, tolerance=1e-4):
    """Equal as two orders of float32 sums are."""
    options = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    torch.testing.assert_close(here(found), here(wanted), **options)


def same_fit(found, wanted, tolerance=1e-4):
    assert found.n_steps == wanted.n_steps
    assert abs(found.log_likelihood - wanted.log_likelihood) < 1e-5
    for name in ("logits", "means", "scale"):
        tensor = getattr(found.parameters, name)
        assert (tensor.dtype, tensor.device.type) == (torch.float64, "cpu")
        close(tensor, getattr(wanted.parameters, name), tolerance)
