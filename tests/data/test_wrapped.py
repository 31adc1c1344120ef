"""A source made of another one says of its rows what that one says, but for what it changes."""

import pytest
import torch

from torchgmm.collective import Group
from torchgmm.data import ArraySource, Block, Checked, OwnRows, SharedGroups, Source
from torchgmm.data.spread import Spread
from torchgmm.fitting.watch import Watch, Watched
from torchgmm.seeding.near import _GroupsOfRows, _Rows
from torchgmm.selection.parts import Part

CPU = torch.device("cpu")


class Peculiar(Source):
    """Nothing that it says is what a source says that says nothing."""

    n_features, n_rows, dtype = 3, 5, torch.float64
    replayable = stable = on_host = False
    reads = decodes = own = numbered = True
    names = ("length", "width", "depth")
    group = Group()

    def blocks(self, *, skip=0):
        yield Block(torch.zeros(5, 3, dtype=torch.float64), None, 0)


class Whole(Spread):
    """All of a source is one process's."""

    def blocks(self, *, skip=0):
        return self._source.blocks(skip=skip)


ELSEWHERE = Group()
# of each: how it is made, and what it says otherwise
WRAPPERS = {
    "checked": (lambda s: Checked(s, torch.float32, CPU), {"dtype": torch.float32}),
    "watched": (lambda s: Watched(s, Watch()), {}),
    "own rows": (OwnRows, {}),
    "spread": (lambda s: Whole(s, ELSEWHERE), {"group": ELSEWHERE}),
    "rows for a start": (_Rows, {}),
    "part": (lambda s: Part(s, 0, 2, inside=True, seed=0), {"n_rows": None}),
    "groups": (lambda s: SharedGroups(s, 2), {}),
    "weighed groups": (lambda s: SharedGroups(s, 2, torch.ones(2, 5)).of(1), {}),
    "groups for a start": (lambda s: _GroupsOfRows(SharedGroups(s, 2)), {}),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_says_what_the_other_says(name):
    make, otherwise = WRAPPERS[name]
    inner = Peculiar()
    found = make(inner)
    assert found.row_bytes == inner.row_bytes
    for what in Source.__annotations__:
        expected = otherwise.get(what, getattr(inner, what))
        assert getattr(found, what) is expected, what


def test_nothing_it_says_is_the_default():
    for what in set(Source.__annotations__) - {"n_features", "n_rows", "dtype"}:
        assert getattr(Peculiar, what) is not getattr(Source, what), what


def test_groups_are_never_the_same_on_every_pass():
    assert not SharedGroups(ArraySource(torch.zeros(5, 3)), 2).stable


def test_a_process_may_have_no_rows():
    nothing = OwnRows(None)
    assert (nothing.n_rows, nothing.own, list(nothing.blocks())) == (0, True, [])
    assert not list(nothing.batches(4, seed=0, epoch=0))
    assert not list(nothing.ordered_batches(4))
    with pytest.raises(ValueError, match="no rows of positive weight"):
        nothing.sample(3, torch.Generator())
