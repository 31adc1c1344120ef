"""Which method takes rows in which form: all of them, or a refusal that says what to give."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import torchgmm as tg
from torchgmm import families

METHODS = {
    "EM": tg.EM(max_iter=3),
    "SQUAREM": tg.SQUAREM(max_iter=3),
    "IncrementalEM": tg.IncrementalEM(max_iter=2),
    "VarianceReducedEM": tg.VarianceReducedEM(max_iter=2),
    "OnlineEM": tg.OnlineEM(max_iter=1),
    "Gradient": tg.Gradient(max_iter=1, lr=0.05),
}


class Numbered(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


class Streamed(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


def on_disk(name, write):
    def form(x, folder):
        write(folder / name, x.numpy())
        return folder / name

    return form


def write_parquet(file, x):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), file)


def write_safetensors(file, x):
    pytest.importorskip("safetensors.numpy").save_file({"x": x}, file)


def data_frame(x, folder):
    return pytest.importorskip("pandas").DataFrame(x.numpy())


def memory_map(x, folder):
    np.save(folder / "rows.npy", x.numpy())
    return np.load(folder / "rows.npy", mmap_mode="r")


FORMS = {
    "tensor": lambda x, folder: x,
    "array": lambda x, folder: x.numpy(),
    "memory map": memory_map,
    "data frame": data_frame,
    ".npy": on_disk("rows.npy", np.save),
    ".npz": on_disk("rows.npz", np.savez),
    ".csv": on_disk("rows.csv", lambda file, x: np.savetxt(file, x, delimiter=",")),
    ".parquet": on_disk("rows.parquet", write_parquet),
    ".safetensors": on_disk("rows.safetensors", write_safetensors),
    "data set": lambda x, folder: Numbered(x),
    "loader": lambda x, folder: DataLoader(TensorDataset(x), batch_size=50),
    "streamed data set": lambda x, folder: DataLoader(Streamed(x), batch_size=50),
    "list of batches": lambda x, folder: list(x.split(50)),
    "function": lambda x, folder: lambda: iter(x.split(50)),
    "loader that shuffles": lambda x, folder: DataLoader(
        TensorDataset(x), batch_size=50, shuffle=True
    ),
    "iterator": lambda x, folder: iter(x.split(50)),
}
BY_BLOCK = {"IncrementalEM", "VarianceReducedEM"}
REFUSED = {
    **{(method, "loader that shuffles"): "shuffle=False" for method in BY_BLOCK},
    **{
        (method, "iterator"): "can be read only once: give something that can be read again"
        for method in BY_BLOCK | {"EM", "SQUAREM"}
    },
}


@pytest.fixture(scope="module")
def x():
    rows = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    rows[::2] += 6
    return rows


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_rows_in_every_form_or_says_why_not(method, form, x, tmp_path):
    mixture = tg.GaussianMixture(2)
    data = FORMS[form](x, tmp_path)
    if (method, form) in REFUSED:
        with pytest.raises(tg.InputError, match=REFUSED[method, form]):
            mixture.fit(data, METHODS[method], generator=0)
        return
    result = mixture.fit(data, METHODS[method], generator=0)
    assert math.isfinite(result.log_likelihood)
    assert sorted(mixture.means[:, 0].round().tolist()) == [0, 6]


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_every_family_with_weights(method, family, x):
    mixture = tg.GaussianMixture(2, covariance=family)
    weights = 1.0 + torch.arange(len(x)) % 2
    result = mixture.fit(x, METHODS[method], weights=weights, n_init=2, generator=0)
    assert math.isfinite(result.log_likelihood)
    assert float(mixture.weights.detach().max()) == pytest.approx(2 / 3, abs=0.05)
