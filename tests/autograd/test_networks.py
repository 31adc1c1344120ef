"""A mixture inside networks: autocast, training, DDP, memory."""

import copy

import pytest
import torch

from tests.autograd.common import NAMES
from tests.test_memory import measured
from torchgmm import GaussianMixture


def test_under_autocast_the_mixture_stays_in_float32():
    encoder, mixture = torch.nn.Linear(6, 4), GaussianMixture(3, 4)
    x = torch.randn(50, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = encoder(x)
        assert z.dtype == torch.bfloat16
        answers = [q(z) for q in (mixture.log_prob, mixture.log_joint, mixture.responsibilities)]
        (-answers[0].mean()).backward()
        with torch.no_grad():
            answers.append(mixture.log_joint(z))
    got = [t.grad.clone() for t in mixture.parameters()]
    assert encoder.weight.grad is not None
    mixture.zero_grad()
    z = z.detach().float()
    expected = [q(z) for q in (mixture.log_prob, mixture.log_joint, mixture.responsibilities)]
    (-expected[0].mean()).backward()
    for one, other in zip(answers, [*expected, expected[1]], strict=True):
        assert one.dtype == torch.float32
        # another kernel may have computed it; bfloat16 would be wrong by 1e-2
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
    for one, tensor in zip(got, mixture.parameters(), strict=True):
        torch.testing.assert_close(one, tensor.grad)


def test_a_loss_trains_encoder_and_mixture():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=g)
    x[200:] += 4
    encoder, mixture = torch.nn.Linear(6, 2, bias=False), GaussianMixture(2, 2, generator=g)
    torch.nn.init.orthogonal_(encoder.weight)  # and stays so: else rows shrink to a point
    torch.nn.utils.parametrizations.orthogonal(encoder)
    before = {n: t.detach().clone() for n, t in [*encoder.named_parameters()]}
    optimizer = torch.optim.Adam([*encoder.parameters(), *mixture.parameters()], lr=0.05)
    history = []
    for _ in range(60):
        loss = -mixture.log_prob(encoder(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < history[0] - 0.5
    assert any(not torch.equal(before[n], t) for n, t in encoder.named_parameters())


def test_a_frozen_mixture_stays_as_it_is():
    encoder, mixture = torch.nn.Linear(6, 2), GaussianMixture(2, 2).requires_grad_(False)
    before = copy.deepcopy(mixture.state_dict())
    optimizer = torch.optim.SGD([*encoder.parameters(), *mixture.parameters()], lr=0.1)
    (-mixture.log_prob(encoder(torch.randn(20, 6))).mean()).backward()
    optimizer.step()
    assert float(encoder.weight.grad.abs().max()) > 0
    assert all(torch.equal(before[name], t) for name, t in mixture.state_dict().items())


class Two(torch.nn.Module):
    """Two mixtures of different families on parts of the features."""

    def __init__(self):
        super().__init__()
        self.left = GaussianMixture(2, 3)
        self.right = GaussianMixture(4, 2, covariance="diagonal")

    def forward(self, x):
        return self.left(x[:, :3]) + self.right(x[:, 3:])


def test_several_mixtures_in_one_model():
    model, x = Two(), torch.randn(20, 5)
    names = [name for name, _ in model.named_parameters()]
    assert names == [f"{part}.{t}" for part in ("left", "right") for t in NAMES]
    (-model(x).mean()).backward()
    assert all(float(t.grad.abs().max()) > 0 for t in model.parameters())
    other = Two()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), model(x))


def test_it_trains_under_ddp(tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0,
                            world_size=1)  # fmt: skip
    try:
        model, x = Two(), torch.randn(20, 5)
        expected = copy.deepcopy(model)
        wrapped = DistributedDataParallel(model)
        for m in (wrapped, expected):
            optimizer = torch.optim.Adam(m.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                (-m(x).mean()).backward()
                optimizer.step()
        for one, other in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one, other)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_backward_pass_of_a_million_rows_adds_less_than_300_mb():
    found = measured(
        "mixture = tg.GaussianMixture(K, D)\n"
        "(-mixture.log_prob(x[:5000]).mean()).backward()\n"
        "def forward():\n"
        "    global loss\n"
        "    loss = -mixture.log_prob(x).mean()\n"
        "found['forward'] = extra(forward)\n"
        "found['backward'] = extra(lambda: loss.backward())\n"
        "x.requires_grad_()\n"
        "forward()\n"
        "found['of the rows too'] = extra(lambda: loss.backward())\n",
        d=32,
        k=64,
    )
    # N x K in float32 would be 256 MB, N x K x D 8 GB; the gradient of the rows itself is 128 MB
    assert max(found.values()) < 300e6, found
