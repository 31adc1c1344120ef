"""Data sets of Hugging Face, read with the real package where it is installed."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import torchgmm as tg
from torchgmm import InputError
from torchgmm.data import DatasetSource, LoaderSource, as_source

datasets = pytest.importorskip("datasets")

X = np.random.default_rng(0).normal(size=(500, 3)).astype("float32")
W = np.random.default_rng(1).integers(0, 3, 500).astype("float64")


@pytest.fixture
def data():
    """A column of rows, one of weights, and one that is no number."""
    return datasets.Dataset.from_dict({"row": list(X), "weight": W, "text": ["t"] * len(X)})


def all_rows(source):
    blocks = list(source.blocks())
    w = torch.cat([block.w for block in blocks]) if blocks[0].w is not None else None
    return torch.cat([block.x for block in blocks]), w


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_a_column_of_rows(data, form):
    source = as_source(data.with_format(form), "weight", key="row")
    assert isinstance(source, DatasetSource)
    assert (source.n_rows, source.n_features, source.dtype) == (500, 3, torch.float32)
    x, w = all_rows(source)
    assert torch.equal(x, torch.from_numpy(X))
    assert torch.equal(w, torch.from_numpy(W))


def test_a_column_per_feature():
    columns = {f"c{j}": X[:, j] for j in range(3)} | {"weight": W}
    data = datasets.Dataset.from_dict(columns)
    x, w = all_rows(as_source(data, "weight", columns=["c0", "c1", "c2"]))
    assert torch.equal(x, torch.from_numpy(X))
    assert torch.equal(w, torch.from_numpy(W))


def test_rows_that_are_left_after_a_filter(data):
    source = as_source(data.filter(lambda item: item["weight"] > 0), key="row")
    assert torch.equal(all_rows(source)[0], torch.from_numpy(X[W > 0]))


def test_a_stream_of_shards(data):
    source = as_source(data.to_iterable_dataset(num_shards=4), "weight", key="row")
    assert isinstance(source, LoaderSource)
    assert (source.n_rows, source.n_features, source.replayable) == (None, 3, True)
    for _ in range(2):  # and again
        x, w = all_rows(source)
        assert torch.equal(x, torch.from_numpy(X))
        assert torch.equal(w, torch.from_numpy(W))


def test_a_loader_of_it(data):
    loader = DataLoader(data.with_format("torch"), batch_size=64)
    x, _ = all_rows(as_source(loader, "weight", key="row"))
    assert torch.equal(x, torch.from_numpy(X))


def test_images_for_an_encoder():
    images = np.random.default_rng(0).random((50, 4, 4)).astype("float32")
    data = datasets.Dataset.from_dict({"image": images.tolist(), "label": range(50)})
    source = as_source(data, key="image", encoder=torch.nn.Flatten())
    assert torch.equal(all_rows(source)[0], torch.from_numpy(images.reshape(50, 16)))


@pytest.mark.parametrize("method", [tg.EM(max_iter=3), tg.OnlineEM(max_iter=3), tg.IncrementalEM()])
def test_fits_are_those_of_the_array(data, method):
    fits = [
        tg.fit(tg.GaussianMixture(2), rows, method, generator=0, stop=tg.Tolerance(1e9, patience=2))
        for rows in (as_source(data, "weight", key="row"), as_source(X, W))
    ]
    levels = [fit.log_likelihood for fit in fits]
    assert levels[0] == pytest.approx(levels[1], abs=0.02)  # batches are drawn in another way


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, r"a batch is a dict: choose key= from row, weight, text"),
        ("line", "a batch has no 'line'; it has row, weight, text"),
        ("text", "rows must be numbers"),
    ],
)
def test_what_is_no_column_of_rows_is_said(data, key, said):
    with pytest.raises(InputError, match=said):
        as_source(data, key=key)


def test_a_dictionary_of_splits_is_no_rows(data):
    with pytest.raises(InputError, match="DatasetDict"):
        as_source(datasets.DatasetDict({"train": data}), key="row")
