"""Encoders: a network between the data and the mixture."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchgmm as tg
from torchgmm import InputError
from torchgmm.data import Encoded, as_source


class Network(nn.Module):
    """Images (n, 1, 4, 4) to rows (n, 3); says how it was called."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(8, 3)
        )
        self.calls = []

    def forward(self, images):
        self.calls.append((len(images), self.training, torch.is_grad_enabled()))
        return self.layers(images)


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def images():
    return torch.randn(300, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def latent(network, images):
    network.eval()
    with torch.no_grad():
        rows = network(images)
    network.train()
    network.calls.clear()
    return rows


def all_rows(source):
    return torch.cat([block.x for block in source.blocks()])


def as_files(images, tmp_path):
    np.save(tmp_path / "1.npy", images[:100].numpy())
    np.save(tmp_path / "2.npy", images[100:].numpy())
    return tmp_path


IMAGES = {
    "tensor": lambda images, folder: images,
    "float64-array": lambda images, folder: images.double().numpy(),
    "files": as_files,
    "tensors": lambda images, folder: TensorDataset(images, torch.arange(300)),
    "loader": lambda images, folder: DataLoader(TensorDataset(images), batch_size=32),
    "function": lambda images, folder: lambda: iter(images.split(50)),
    "stream": lambda images, folder: iter(images.split(50)),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_rows_are_those_of_the_network_in_eval_mode(kind, network, images, tmp_path):
    wanted = latent(network, images)
    source = as_source(IMAGES[kind](images, tmp_path), encoder=network)
    assert (source.n_features, source.dtype) == (3, torch.float32)
    # the same sums in batches of other sizes, float32
    torch.testing.assert_close(all_rows(source), wanted, rtol=1e-5, atol=1e-6)
    assert all(call[1:] == (False, False) and call[0] <= 256 for call in network.calls)


@pytest.mark.parametrize("kind", IMAGES)
def test_a_sample_is_of_latent_rows(kind, network, images, tmp_path):
    wanted = latent(network, images)
    source = as_source(IMAGES[kind](images, tmp_path), encoder=network)
    sample = source.sample(40, torch.Generator().manual_seed(0))
    assert len(sample.x) == 40
    torch.testing.assert_close(sample.x, wanted[sample.numbers()], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(all_rows(source), wanted, rtol=1e-5, atol=1e-6)


def test_modes_are_restored_part_by_part(network, images):
    network.layers[1].eval()  # a frozen normalisation in a network that is being trained
    before = [module.training for module in network.modules()]
    all_rows(as_source(images, encoder=network))
    assert [module.training for module in network.modules()] == before
    with pytest.raises(InputError, match="encoder failed"):
        as_source(images[:, :, :2], encoder=network)
    assert [module.training for module in network.modules()] == before


def test_functions_are_encoders_too(images):
    source = as_source(images, encoder=lambda batch: batch.flatten(1)[:, :2])
    assert torch.equal(all_rows(source), images.flatten(1)[:, :2])


def test_an_encoder_of_tables(images):
    rows = images.flatten(1)
    linear = nn.Linear(16, 2)
    source = as_source(rows, torch.arange(300.0), encoder=linear)
    torch.testing.assert_close(all_rows(source), linear(rows).detach())
    assert torch.cat([block.w for block in source.blocks()]).tolist() == list(range(300))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (nn.Identity(), r"shape \(1, 1, 4, 4\) for 1 rows: a table \(1, D\) .*\.flatten\(1\)"),
        (lambda b: (b, b), r"it gave a tuple: let it give the rows alone"),
        (lambda b: b.flatten(1).long(), r"it gave torch\.int64"),
        (lambda b: b.flatten(1).repeat(2, 1), r"shape \(2, 16\) for 1 rows"),
        (nn.Linear(5, 5), r"the encoder failed on rows 0\.\.0: RuntimeError"),
    ],
)
def test_what_is_no_table_is_refused(images, encoder, said):
    with pytest.raises(InputError, match=said):
        as_source(images, encoder=encoder)


def test_an_encoder_that_fails_later_names_the_rows(images):
    def encoder(batch):
        if len(batch) == 300 - 256:
            raise MemoryError("too much")
        return batch.flatten(1)

    with pytest.raises(InputError, match=r"rows 256\.\.299: MemoryError: too much"):
        all_rows(as_source(images, encoder=encoder))


def test_the_encoder_is_given_few_rows_at_a_time(network, images):
    source = Encoded(as_source(images, encoder=nn.Flatten()), nn.Linear(16, 2), rows=10)
    assert len(all_rows(source)) == 300
    with pytest.raises(InputError, match="rows must be at least 1"):
        Encoded(source, nn.Identity(), rows=0)


def test_fitting_a_latent_space_is_one_call(network, images):
    loader = DataLoader(TensorDataset(images, torch.arange(300)), batch_size=64)
    mixture = tg.GaussianMixture(2)
    tg.fit(mixture, as_source(loader, encoder=network), tg.EM(max_iter=3), generator=0)
    other = tg.GaussianMixture(2)
    tg.fit(other, latent(network, images), tg.EM(max_iter=3), generator=0)
    # float32 rows, encoded in batches of other sizes
    torch.testing.assert_close(mixture.means, other.means, rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", IMAGES)
def test_on_the_device_of_the_network(kind, network, images, tmp_path):
    wanted = latent(network, images)
    source = as_source(IMAGES[kind](images, tmp_path), encoder=network.cuda())
    rows = all_rows(source)
    assert rows.is_cuda
    torch.testing.assert_close(rows.cpu(), wanted, rtol=1e-3, atol=1e-4)  # TF32 convolutions
    assert tg.GaussianMixture(2, device="cuda").fit(
        as_source(IMAGES[kind](images, tmp_path), encoder=network) if kind != "stream" else rows,
        generator=0,
    )
