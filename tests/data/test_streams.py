"""Loaders that fail, and iterators that can be read only once."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import torchgmm as tg
from tests.data.common import Failing, all_rows, chunks
from torchgmm import InputError
from torchgmm.data import Checked, LoaderSource, as_source

# what fails


def test_a_loader_that_raises_names_batch_and_rows(x):
    source = as_source(DataLoader(Failing(x), batch_size=10))
    said = r"batch 5 \(rows 50\.\.59\) of DataLoader could not be loaded: OSError: the disk is gone"
    with pytest.raises(InputError, match=said) as caught:
        all_rows(source)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_data_set_that_raises_names_the_rows(x):
    source = as_source(Failing(x))
    with pytest.raises(InputError, match=r"rows 0\.\.99 of Failing .*the disk is gone"):
        all_rows(source)
    with pytest.raises(InputError, match="rows 3, 57 of Failing could not be loaded"):
        source.take(torch.tensor([3, 57]))


def test_a_function_that_raises(x):
    def broken():
        yield x[:40]
        raise RuntimeError("no more")

    with pytest.raises(InputError, match=r"batch 1 \(rows 40\.\.79\) of broken .*no more"):
        all_rows(as_source(broken))
    with pytest.raises(InputError, match="could not be opened: TypeError"):
        as_source(lambda argument: iter([x]))


def test_a_fit_can_be_repeated_after_an_error(x):
    fail = [True]

    def sometimes():
        yield x[:50]
        if fail:
            raise OSError("later")
        yield x[50:]

    source, mixture = as_source(sometimes), tg.GaussianMixture(2)
    with pytest.raises(InputError, match="later"):
        mixture.fit(source, generator=0)
    fail.clear()
    assert mixture.fit(source, generator=0).n_steps


# one pass


def test_an_iterator_can_be_read_once(x):
    source = as_source(iter(chunks(x)))
    assert not source.replayable
    assert source.n_features == 3
    assert torch.equal(all_rows(source), x)
    said = r"can be read only once, and they were: exact EM .*Give a function that makes"
    with pytest.raises(InputError, match=said):
        all_rows(source)
    with pytest.raises(InputError, match="read only once"):
        source.sample(1, torch.Generator())


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_a_sample_of_a_stream_is_its_beginning_and_loses_nothing(x, size):
    w = torch.ones(100)
    w[:10] = 0
    parts = zip(chunks(x), chunks(w), strict=True)
    source = as_source(parts, 1)
    sample = source.sample(size, torch.Generator().manual_seed(0))
    assert len(sample.x) == min(size, 90)
    assert torch.equal(sample.x, x[sample.numbers()])
    assert bool((sample.w > 0).all())
    assert torch.equal(all_rows(source), x)


def test_batches_of_a_stream_mix_its_rows(x):
    batches = list(as_source(iter(chunks(x))).batches(30, seed=0, epoch=0))
    numbers = torch.cat([b.numbers() for b in batches])
    assert [len(b.x) for b in batches] == [30, 30, 30, 10]
    assert not torch.equal(numbers, torch.arange(100))
    assert torch.equal(numbers.sort().values, torch.arange(100))


def test_an_iterator_in_disguise_is_found_out(x):
    once = iter(chunks(x))
    source = as_source(lambda: once)
    all_rows(source)
    with pytest.raises(InputError, match="gave no rows this time, though it did before: if it"):
        all_rows(source)


def test_an_endless_stream(x):
    def endless():
        while True:
            yield x

    batches = LoaderSource(endless).batches(64, seed=0, epoch=0)
    assert [len(next(batches).x) for _ in range(20)] == [64] * 20


# another order on every pass


@pytest.mark.parametrize(
    ("options", "stable"),
    [
        ({"batch_size": 10}, True),
        ({"batch_size": 10, "shuffle": True}, False),
        ({"batch_size": 10, "sampler": WeightedRandomSampler([1.0] * 100, 100)}, False),
        ({"batch_sampler": BatchSampler(RandomSampler(range(100)), 10, False)}, False),
        ({"batch_sampler": BatchSampler(SequentialSampler(range(100)), 10, False)}, True),
        ({"batch_size": None}, True),
    ],
)
def test_a_loader_that_shuffles_is_known(x, options, stable):
    data = TensorDataset(x) if options.get("batch_size", 1) else [x[:50], x[50:]]
    source = as_source(DataLoader(data, **options))
    assert source.stable is stable
    assert Checked(source, torch.float64, torch.device("cpu")).stable is stable
    assert as_source(DataLoader(data, **options), encoder=lambda rows: rows).stable is stable


@pytest.mark.parametrize("method", [tg.IncrementalEM(), tg.VarianceReducedEM()])
def test_methods_that_need_the_same_blocks_refuse_it(x, method):
    loader = DataLoader(TensorDataset(x), batch_size=10, shuffle=True)
    said = r"reads the same blocks at every step, but this loader draws another order .*shuffle=Fal"
    with pytest.raises(InputError, match=said):
        tg.GaussianMixture(2).fit(loader, method, generator=0)
    tg.GaussianMixture(2).fit(loader, tg.OnlineEM(max_iter=1), generator=0, stop=tg.Tolerance(1e9))
