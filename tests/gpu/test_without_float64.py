"""A device that has no float64 (as Apple's): every door says so, before torch fails inside."""

import pytest
import torch

import torchgmm as tg
from torchgmm import checks

X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
MIXTURE = tg.GaussianMixture(2, 2, generator=torch.Generator().manual_seed(0))
TENSORS = tuple(t.detach() for t in MIXTURE.parameters())
DOORS = {
    "fit": lambda: tg.GaussianMixture(2).fit(X, generator=0),
    "fit of a batch": lambda: tg.GaussianMixture(2, batch_shape=(2,)).fit(X, generator=0),
    "stream": lambda: tg.fit(tg.GaussianMixture(2), iter([X]), tg.OnlineEM(batch_size=20)),
    "select": lambda: tg.select(X, n_components=[1, 2], generator=0),
    "log_prob": lambda: MIXTURE.log_prob(X),
    "responsibilities": lambda: MIXTURE.responsibilities(X),
    "predict": lambda: MIXTURE.predict(X),
    "score": lambda: MIXTURE.score(X),
    "bic": lambda: MIXTURE.bic(X),
    "log_prob of tensors": lambda: tg.functional.log_prob(X, *TENSORS, covariance="full"),
    "algebra": lambda: tg.marginal(MIXTURE, [0]),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_says_so(door, monkeypatch):
    DOORS[door]()
    monkeypatch.setattr(checks, "_WITHOUT_FLOAT64", {"cpu"})
    with pytest.raises(tg.InputError, match=r"device cpu has no float64.*move mixture and rows"):
        DOORS[door]()


def test_mps_is_such_a_device():
    with pytest.raises(tg.InputError, match="device mps has no float64"):
        checks.check_device(torch.device("mps"))
    for device in ("cpu", "cuda", "meta"):
        checks.check_device(torch.device(device))
