"""The door: what is taken for rows, and what is said of what is none."""

import numpy as np
import pytest
import torch

from tests.data.common import all_rows, chunks
from torchgmm import InputError
from torchgmm.data import ArraySource, as_source


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "no data were given"),
        ({"x": [1.0]}, "a dict holds no rows: give one table, or a list of batches"),
        (torch.nn.Linear(2, 2), "a Linear holds no rows: a network is an encoder"),
        ([], "rows must be a table"),
        (3, "rows must be a table"),
        (["a.npy", "b.npy"], "a.npy does not exist"),
        (object(), "rows must be numbers"),
    ],
)
def test_things_that_hold_no_rows(data, said):
    with pytest.raises(InputError, match=said):
        as_source(data)


def test_lists_of_numbers_and_of_rows_are_tables_and_of_tables_are_batches(x):
    assert as_source([[1, 2], [3, 4]]).n_rows == 2
    assert as_source(list(x)).n_rows == 100
    assert torch.equal(all_rows(as_source(chunks(x))), x)
    assert torch.equal(all_rows(as_source([c.numpy() for c in chunks(x)])), x)
    pairs = [(c, torch.arange(1.0, 1 + len(c))) for c in chunks(x)]  # of rows and their weights
    assert torch.equal(all_rows(as_source(pairs)), x)
    assert next(as_source(pairs, 1).blocks()).w[:5].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("data", "option"),
    [
        (np.ones((2, 2)), {"columns": [0]}),
        (np.ones((2, 2)), {"name": "x"}),
        (lambda: iter([np.ones((2, 2))]), {"name": "x"}),
        ("x.npy", {"key": 0}),
        (ArraySource(np.ones((2, 2))), {"key": 0}),
    ],
)
def test_options_that_do_not_belong_are_refused(data, option):
    (name,) = option
    with pytest.raises(InputError, match=f"{name}= does not belong to data of type"):
        as_source(data, **option)


def test_a_source_has_its_weights_already(x):
    source = ArraySource(x)
    assert as_source(source) is source
    with pytest.raises(InputError, match="weights go into the source"):
        as_source(source, torch.ones(100))
