"""What sources decide by the device of rows and mixture; no GPU is needed to ask them."""

import pytest
import torch

from torchgmm.data import ArraySource, Block, Checked
from torchgmm.data.block import join

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


class OnGpu(ArraySource):
    """A source whose rows count as lying on the GPU."""

    def __init__(self, x):
        super().__init__(x)
        self.on_host = False


@pytest.mark.parametrize(
    ("kind", "device", "ahead"),
    [(ArraySource, CPU, False), (ArraySource, CUDA, True), (OnGpu, CUDA, False)],
)
def test_rows_on_their_way_to_a_gpu_are_sent_while_others_are_computed(kind, device, ahead):
    source = kind(torch.zeros(5, 2))
    assert Checked(source, torch.float32, device)._pays_ahead() == ahead


def test_numbers_of_rows_stay_on_the_cpu_wherever_the_rows_are():
    rows = Block(torch.empty(5, 2, device="meta"), None, 10)
    index = torch.tensor([3, 1])
    some = rows.take(index)
    assert some.x.device.type == "meta"
    assert some.numbers().tolist() == [13, 11]
    assert join([some, Block(torch.empty(1, 2, device="meta"), None, 20)]).numbers().tolist() == [
        13, 11, 20,
    ]  # fmt: skip


@pytest.mark.cuda
def test_rows_from_the_host_give_the_fit_of_rows_on_the_gpu():
    import torchgmm as tg

    x = torch.randn(30_000, 6, generator=torch.Generator().manual_seed(0))
    x[:10_000] += 6
    w = torch.rand(30_000, generator=torch.Generator().manual_seed(1))
    w[::7] = 0
    found = []
    for rows in (ArraySource(x, w, block_rows=1000), ArraySource(x.cuda(), w, block_rows=1000)):
        mixture = tg.GaussianMixture(2, device="cuda")
        result = mixture.fit(rows, tg.EM(max_iter=5), generator=0)
        found.append((result.log_likelihood, mixture.means.detach()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
