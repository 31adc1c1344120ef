"""Scores and criteria of rows wherever they are: in memory, in files, in loaders."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.cases import FAMILIES
from torchgmm import GaussianMixture, InputError
from torchgmm.data import ArraySource

ASKED = ("score", "bic", "aic", "icl")


@pytest.fixture
def rows():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=g, dtype=torch.float64)
    x[200:] += 2
    return x


def mixture_of(rows, family="full"):
    mixture = GaussianMixture(3, covariance=family, dtype=torch.float64)
    mixture.fit(rows, generator=0)
    return mixture


def sources(x, folder):
    np.save(folder / "x.npy", x.numpy())
    return {
        "file": str(folder / "x.npy"),
        "files": [folder / "x.npy"],
        "memmap": np.load(folder / "x.npy", mmap_mode="r"),
        "loader": DataLoader(TensorDataset(x), batch_size=64),
        "source": ArraySource(x, block_rows=70),
        "generator": lambda: iter(x.split(33)),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_is_judged_as_its_rows_are(rows, family, tmp_path):
    mixture = mixture_of(rows, family)
    for kind, source in sources(rows, tmp_path).items():
        for asked in ASKED:
            in_memory, read = (getattr(mixture, asked)(x) for x in (rows, source))
            torch.testing.assert_close(read, in_memory, rtol=1e-12, atol=0, msg=f"{kind} {asked}")


@pytest.mark.parametrize("asked", ASKED)
def test_weights_count_as_rows_wherever_they_are(rows, asked, tmp_path):
    mixture = mixture_of(rows)
    w = torch.arange(len(rows)) % 4
    expected = getattr(mixture, asked)(rows.repeat_interleave(w, 0))
    np.save(tmp_path / "x.npy", rows.numpy())
    for given in (rows, str(tmp_path / "x.npy")):
        torch.testing.assert_close(getattr(mixture, asked)(given, w), expected, rtol=1e-10, atol=0)


def test_the_definitions(rows):
    mixture = mixture_of(rows)
    level = mixture.log_prob(rows).sum()
    r = mixture.responsibilities(rows)
    p, n = mixture.n_parameters, torch.tensor(float(len(rows)), dtype=torch.float64)
    torch.testing.assert_close(mixture.score(rows), level / n)
    torch.testing.assert_close(mixture.aic(rows), 2 * p - 2 * level)
    torch.testing.assert_close(mixture.bic(rows), p * n.log() - 2 * level)
    entropy = -(r * r.log()).nan_to_num().sum()
    torch.testing.assert_close(mixture.icl(rows), p * n.log() - 2 * level + 2 * entropy)


def test_the_score_is_in_the_dtype_of_the_computation(rows, tmp_path):
    mixture = mixture_of(rows).float()
    np.save(tmp_path / "x.npy", rows.float().numpy())
    for given in (rows.float(), str(tmp_path / "x.npy")):
        assert mixture.score(given).dtype == torch.float32
        assert mixture.bic(given).dtype == torch.float64


def test_a_batch_reads_no_source(rows, tmp_path):
    np.save(tmp_path / "x.npy", rows.numpy())
    mixture = GaussianMixture(2, 3, batch_shape=(2,))
    with pytest.raises(InputError, match="one mixture is needed"):
        mixture.score(str(tmp_path / "x.npy"))
