"""Loaders and data sets: what a batch may be."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import torchgmm as tg
from tests.data.common import Failing, all_rows, chunks
from torchgmm import InputError
from torchgmm.data import ArraySource, Block, DatasetSource, as_source


class Lines(IterableDataset):
    """Items of an iterable, one by one."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


# what a batch may be


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        (lambda b: b, {}),
        (lambda b: b.numpy(), {}),
        (lambda b: b.tolist(), {}),
        (lambda b: (b, torch.arange(len(b))), {}),
        (lambda b: [b], {}),
        (lambda b: ("name", torch.zeros(1), b), {"key": 2}),
        (lambda b: {"x": b}, {}),
        (lambda b: {"x": b, "y": 0}, {"key": "x"}),
        (lambda b: {"a": b[:, 0], "bc": b[:, 1:], "d": 0}, {"columns": ["a", "bc"]}),
        (lambda b: Block(b, None, 0), {}),
    ],
    ids=[
        "tensor",
        "array",
        "lists",
        "pair",
        "single",
        "place",
        "only-key",
        "key",
        "columns",
        "block",
    ],
)
def test_batches_of_many_shapes(x, batch, options):
    made = [batch(b) for b in chunks(x)]
    if isinstance(made[0], tuple) and isinstance(made[0][0], str):
        made = [list(b[1:]) for b in made]
        options = {"key": 1}
    assert torch.equal(all_rows(as_source(lambda: iter(made), **options)), x)


@pytest.mark.parametrize(
    ("batches", "options", "said"),
    [
        ([{"x": 1, "y": 2}], {}, r"batch 0 .*a batch is a dict: choose key= from x, y"),
        ([{"x": 1}], {"key": "z"}, "a batch has no 'z'; it has x"),
        ([(torch.ones(2, 2),)], {"weights": 1}, "a batch has 1 parts; there is no part 1"),
        (["text"], {}, "a batch is str, not rows"),
        ([None], {}, "a batch is NoneType, not rows"),
        ([torch.ones(2, 2, 2)], {}, r"rows must be \(N, D\), got shape \(2, 2, 2\)"),
        ([torch.ones(4)], {}, r"rows must be a table \(N, D\)"),
        ([], {}, "list_iterator gave no rows"),
        (
            [torch.ones(2, 3), torch.ones(2, 4)],
            {},
            r"batch 1 \(rows 2\.\.3\) .*its rows have shape \(4,\), those before \(3,\)",
        ),
        (
            [(torch.ones(2, 3), torch.ones(2)), (torch.ones(2, 3), -torch.ones(2))],
            {"weights": 1},
            r"batch 1 .*2 negative value",
        ),
    ],
)
def test_batches_that_are_no_rows(batches, options, said):
    with pytest.raises(InputError, match=said):
        list(as_source(iter(batches), **options).blocks())


def test_empty_batches_are_passed_over(x):
    source = as_source(lambda: iter([x[:0], x[:50], x[50:50], x[50:]]))
    assert torch.equal(all_rows(source), x)


def test_gradients_stay_outside(x):
    assert not all_rows(as_source(lambda: iter([x.requires_grad_()]))).requires_grad


def test_small_batches_are_joined(x):
    source = as_source(lambda: iter(chunks(x, 3)))
    assert [len(block.x) for block in source.blocks()] == [100]
    assert torch.equal(next(source.blocks()).numbers(), torch.arange(100))


def test_half_precision_and_integers(x):
    assert as_source(lambda: iter([x.half()])).dtype == torch.float16
    source = as_source(lambda: iter([x.mul(10).to(torch.uint8)] * 2))
    assert source.dtype == torch.uint8
    assert tg.GaussianMixture(1).fit(source, generator=0).n_steps


# loaders and data sets


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_with_its_labels(x, workers):
    loader = DataLoader(TensorDataset(x, torch.arange(100)), batch_size=30, num_workers=workers)
    source = as_source(loader)
    assert torch.equal(all_rows(source), x)
    assert torch.equal(all_rows(source), x)


def test_a_loader_that_shuffles_gives_all_rows(x):
    loader = DataLoader(TensorDataset(x), batch_size=32, shuffle=True)
    rows = all_rows(as_source(loader))
    assert torch.equal(rows[:, 0].sort().values, x[:, 0].sort().values)


def test_the_first_batch_of_a_loader_is_loaded_once(x):
    opened = []

    def made():
        opened.append(1)
        return iter(chunks(x))

    source = as_source(made)
    assert (source.first().x.shape, len(opened)) == ((7, 3), 1)
    assert torch.equal(all_rows(source), x)
    assert len(opened) == 1


def test_items_of_an_iterable_data_set_are_collated(x):
    assert torch.equal(all_rows(as_source(Lines(list(x)))), x)
    assert torch.equal(all_rows(as_source(Lines(chunks(x)))), x)  # tables already


def test_a_tensor_data_set_is_its_tensors(x):
    w = torch.arange(100.0)
    source = as_source(TensorDataset(w, x), 0, key=1)
    assert isinstance(source, ArraySource)
    assert torch.equal(source.blocks().__next__().w, w.double())
    with pytest.raises(InputError, match="has 2 tensors; there is no 2"):
        as_source(TensorDataset(w, x), 2, key=1)


def test_weights_of_a_data_set_from_an_array(x):
    source = as_source(Failing(x[:50]), torch.arange(50.0))
    batch = next(source.batches(20, seed=0, epoch=0))
    assert batch.w.tolist() == batch.numbers().tolist()
    with pytest.raises(InputError, match="weights of batches come with them"):
        as_source(lambda: iter([x]), torch.ones(100))


def test_a_batched_fetch_is_used(x):
    class Batched(Failing):
        def __getitems__(self, numbers):
            return [self.x[i] for i in numbers]

    assert torch.equal(all_rows(as_source(Batched(x))), x)


def test_data_sets_without_rows():
    with pytest.raises(InputError, match="TensorDataset is empty"):
        DatasetSource(TensorDataset(torch.ones(0, 2)))

    class Endless(Dataset):
        def __getitem__(self, i):
            return torch.ones(2)

    with pytest.raises(InputError, match=r"Endless has no len\(\): make it an IterableDataset"):
        as_source(Endless())


def test_a_stream_of_hugging_face(x):
    class Streaming:
        column_names = None

        def with_format(self, name):
            assert name == "torch"
            return self

        def iter(self, batch_size):
            return iter({"x": part} for part in x.split(batch_size))

    assert torch.equal(all_rows(as_source(Streaming(), key="x")), x)
