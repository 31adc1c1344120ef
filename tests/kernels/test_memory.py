"""Budgets of chunks by device, and what happens when a device runs out of memory."""

import weakref

import pytest
import torch

from tests.cases import EASY
from torchgmm.errors import MemoryWarning
from torchgmm.kernels import Dense, Quadratic, base, dense, memory

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
MIB = 2**20
ROWS = torch.empty(1)


@pytest.fixture(autouse=True)
def _nothing_is_learnt(monkeypatch):
    monkeypatch.setattr(memory, "_borne", {})


@pytest.fixture
def free(monkeypatch):
    """Says how many bytes are free on the device, without one."""

    def set_to(size):
        monkeypatch.setattr(memory, "free", lambda device: size)

    return set_to


@pytest.mark.parametrize(
    ("size", "budget"),
    [(80 * 2**30, 128), (2**30, 128), (400 * MIB, 64), (40 * MIB, 8), (2 * MIB, 1), (0, 1)],
)
def test_a_gpu_gives_a_share_of_what_is_free(free, size, budget):
    free(size)
    assert memory.chunk_budget(None, 16 * MIB, CUDA) == budget * MIB


def test_other_budgets_are_kept(free):
    free(2**40)
    assert memory.chunk_budget(None, 16 * MIB, CPU) == 16 * MIB
    assert memory.chunk_budget(12345, 16 * MIB, CUDA) == 12345


def test_what_is_free_counts_torchs_own_reserve(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert memory.free(CUDA) == 130


def fails_above(size, monkeypatch, kernel):
    """Make allocations of a chunk's buffers fail where they are larger than `size`."""
    usual, sizes = kernel.bytes_for, []

    def bytes_for(x):
        sizes.append(usual(x))
        return sizes[-1]

    def chunk_rows(*arguments):
        if arguments[-1] > size:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return base.chunk_rows(*arguments)

    monkeypatch.setattr(kernel, "bytes_for", bytes_for)
    monkeypatch.setattr(dense, "chunk_rows", chunk_rows)
    return sizes


def test_out_of_memory_halves_the_chunk_retries_and_says_so(monkeypatch):
    x, p = EASY[0].rows(), EASY[0].start("full")
    expected = Dense().accumulate(x, None, p)
    kernel = Dense(budget=16 * MIB)
    fails_above(5 * MIB, monkeypatch, kernel)
    with pytest.warns(MemoryWarning, match=r"out of memory on cpu: chunks have \d+ MiB") as said:
        got = kernel.accumulate(x, None, p)
    assert [str(w.message).split()[7] for w in said] == ["16", "8"]
    torch.testing.assert_close(got.second, expected.second)
    assert memory._borne == {CPU: 4 * MIB}
    kernel.accumulate(x, None, p)  # starts where it ended: no warning, which would be an error
    assert kernel.bytes_for(x) == 4 * MIB


def test_a_device_that_bears_nothing_says_so_in_the_end(monkeypatch):
    x, p = EASY[0].rows(), EASY[0].start("full")
    kernel = Dense(budget=4 * MIB)
    fails_above(0, monkeypatch, kernel)
    with pytest.warns(MemoryWarning), pytest.raises(torch.OutOfMemoryError):
        kernel.accumulate(x, None, p)
    assert not memory._borne  # something else is too large: chunks need not be small for good


def test_other_errors_are_not_taken_for_it(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("something else")

    monkeypatch.setattr(dense, "chunk_rows", broken)
    with pytest.raises(RuntimeError, match="something else"):
        Dense().accumulate(EASY[0].rows(), None, EASY[0].start("full"))


def test_a_given_budget_is_the_most_that_is_borne():
    memory._borne[CPU] = MIB
    assert Quadratic(8 * MIB).bytes_for(torch.empty(1)) == MIB
    assert Quadratic(1000).bytes_for(torch.empty(1)) == 1000


def test_what_a_failed_call_held_does_not_count_as_taken(monkeypatch):
    """Else little is free when it is asked what that is, and chunks have far less than half."""
    held, seen = [], []

    def call():
        if memory._borne:
            return 1
        chunk = torch.empty(1000)
        held.append(weakref.ref(chunk))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def bytes_for(x):
        seen.append(held[-1]() is None)
        return memory.chunk_budget(None, 8 * MIB, x.device)

    with pytest.warns(MemoryWarning):
        assert memory.retried(bytes_for, ROWS, call) == 1
    assert seen == [True]


def test_a_call_within_a_call_is_left_to_the_outer_one():
    outer, inner = [], []

    def within():
        inner.append(memory.chunk_budget(None, 8 * MIB, CPU))
        if len(inner) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def call():
        outer.append(memory.chunk_budget(None, 8 * MIB, CPU))
        memory.retried(lambda x: 8 * MIB, ROWS, within)

    with pytest.warns(MemoryWarning) as said:
        memory.retried(lambda x: memory.chunk_budget(None, 8 * MIB, CPU), ROWS, call)
    assert (outer, inner, len(said)) == ([8 * MIB, 4 * MIB], [8 * MIB, 4 * MIB], 1)
