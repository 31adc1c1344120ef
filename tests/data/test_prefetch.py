"""Reading ahead: order, bounds, errors, and that no thread is left behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import torchgmm as tg
from tests.cases import blobs
from torchgmm import InputError
from torchgmm.data import ArraySource, Block, Checked, LoaderSource
from torchgmm.data.prefetch import ahead, sent

CPU = torch.device("cpu")


def numbered(count, log=None):
    try:
        for i in range(count):
            if log is not None:
                log.append(i)
            yield Block(torch.full((2, 1), float(i)), None, 2 * i)
    finally:
        if log is not None:
            log.append("closed")


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "torchgmm-reader"]


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture(autouse=True)
def alone():
    """Readers of tests before, whose errors may still hold them, have ended."""
    gc.collect()
    assert wait_until(lambda: not readers())


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_order_is_kept_and_the_thread_ends(depth):
    assert [b.start for b in ahead(numbered(20), depth=depth)] == list(range(0, 40, 2))
    assert not readers()


def test_nothing_to_read():
    assert list(ahead(iter(()))) == []
    assert not readers()


def test_it_reads_in_another_thread_and_before_it_is_asked():
    seen = []

    def watched():
        for block in numbered(3):
            seen.append(threading.current_thread().name)
            yield block

    blocks = ahead(watched())
    assert not readers()  # not before the first block is wanted
    next(blocks)
    assert wait_until(lambda: len(seen) == 3)
    assert set(seen) == {"torchgmm-reader"}
    blocks.close()


def test_it_never_reads_further_ahead_than_told():
    log = []
    blocks = ahead(numbered(100, log), depth=2)
    for taken in range(1, 10):
        next(blocks)
        assert wait_until(lambda taken=taken: len(log) == taken + 2)
        time.sleep(0.002)
        assert len(log) == taken + 2
    blocks.close()


def test_stopping_early_ends_the_thread_and_closes_the_reader():
    log = []
    blocks = ahead(numbered(100, log))
    next(blocks)
    blocks.close()
    assert not readers()
    assert log[-1] == "closed"


def test_an_abandoned_reader_ends_too():
    blocks = ahead(numbered(100))
    next(blocks)
    assert readers()
    del blocks
    gc.collect()
    assert wait_until(lambda: not readers())


def test_an_error_comes_in_its_place_and_with_its_cause():
    def broken():
        yield from numbered(3)
        raise InputError("row 7") from OSError("gone")

    seen = []
    with pytest.raises(InputError, match="row 7") as caught:  # noqa: PT012  # one loop
        for block in ahead(broken()):
            seen.append(block.start)
    assert seen == [0, 2, 4]
    assert isinstance(caught.value.__cause__, OSError)
    assert not readers()


def test_an_error_of_the_consumer_ends_the_thread():
    def consume():
        for _ in ahead(numbered(100)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    gc.collect()
    assert wait_until(lambda: not readers())


def test_a_read_that_hangs_does_not_hold_an_early_stop(monkeypatch):
    monkeypatch.setattr("torchgmm.data.prefetch._PATIENCE", 0.05)
    release = threading.Event()

    def hanging():
        yield from numbered(1)
        release.wait(20)

    blocks = ahead(hanging())
    next(blocks)
    began = time.monotonic()
    blocks.close()
    assert time.monotonic() - began < 5
    release.set()
    assert wait_until(lambda: not readers())


SCRIPT = """
import time, torch
from torchgmm.data import Block
from torchgmm.data.prefetch import ahead

def numbered(count, pause):
    for i in range(count):
        time.sleep(pause)
        yield Block(torch.zeros(1, 1), None, i)

try:
    print("begin", flush=True)
    for _ in ahead(numbered(1000, 1.0)):
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
blocks = ahead(numbered(10, 0.0))
next(blocks)
print("half way", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_waiting_and_the_end_of_the_interpreter_half_way():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs, which a test run may be, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline() == "begin\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("interrupted\nhalf way\n", "")
        assert process.returncode == 0
    finally:
        process.kill()


# a source as a fit reads it


def test_only_what_reads_is_read_ahead():
    x = blobs(50)
    names = []

    class Watched(ArraySource):
        def blocks(self, *, skip=0):
            names.append(threading.current_thread().name)
            yield from super().blocks(skip=skip)

    for reads in (False, True):
        source = Watched(x)
        source.reads = reads
        list(Checked(source, torch.float64, CPU).blocks())
    assert names == [threading.main_thread().name, "torchgmm-reader"]


@pytest.mark.parametrize(("idle", "reader"), [(1, "torchgmm-reader"), (0, "MainThread")])
def test_decoding_gets_a_thread_only_where_a_core_is_idle(idle, reader, monkeypatch):
    names = []

    class Decoded(ArraySource):
        reads = decodes = True

        def blocks(self, *, skip=0):
            names.append(threading.current_thread().name)
            yield from super().blocks(skip=skip)

    cores = range(torch.get_num_threads() + idle)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(cores), raising=False)
    source = Decoded(blobs(50))
    source.reads = True  # which an array in memory does not
    list(Checked(source, torch.float64, CPU).blocks())
    assert names == [reader]


def test_a_fit_from_a_loader_equals_the_fit_in_memory_and_leaves_no_thread():
    x = blobs(300)
    fits = []
    for data in (x, lambda: iter(x.split(64))):
        mixture = tg.GaussianMixture(3, dtype=torch.float64)
        tg.fit(mixture, data, tg.EM(max_iter=5), generator=0)
        fits.append(mixture.means.detach())
    torch.testing.assert_close(*fits, rtol=1e-10, atol=1e-10)  # 5 steps of other block sizes
    assert not readers()


@pytest.mark.parametrize("reads", [False, True])
def test_checked_leaves_out_weight_zero_and_keeps_the_numbers(reads):
    x, w = blobs(20), torch.arange(20.0) % 3
    x[0] = float("nan")  # weight 0: absent
    source = ArraySource(x, w, block_rows=6)
    source.reads = reads
    checked = Checked(source, torch.float32, CPU)
    for blocks in (checked.blocks(), checked.batches(4, seed=0, epoch=0)):
        for block in blocks:
            assert block.x.dtype == block.w.dtype == torch.float32
            numbers = block.numbers()
            assert bool((block.w > 0).all())
            assert torch.equal(block.x, x[numbers].float())
            assert torch.equal(block.w, w[numbers])


def test_checked_names_the_row_of_the_data_wherever_it_is_met():
    x = blobs(100)
    x[77, 1] = float("inf")
    source = LoaderSource(lambda: iter(x.split(10)))
    for read in (
        lambda c: list(c.blocks()),
        lambda c: list(c.batches(5, seed=0, epoch=0)),
        lambda c: c.sample(100, torch.Generator()),
    ):
        with pytest.raises(InputError, match="the first inf in row 77, column 1"):
            read(Checked(source, torch.float64, CPU))


# CUDA


def test_sending_to_the_cpu_is_nothing():
    x = torch.ones(3)
    assert sent(x, CPU) is x


@pytest.mark.cuda
def test_blocks_arrive_on_the_device_in_order_and_whole():
    x = torch.randn(20_000, 64)
    source = LoaderSource(lambda: iter(x.split(1000)))
    checked = Checked(source, torch.float64, torch.device("cuda"))
    for _ in range(3):
        total = torch.zeros(64, 64, dtype=torch.float64, device="cuda")
        for block in checked.blocks():
            assert block.x.is_cuda
            total += block.x.T @ block.x
            del block
        torch.testing.assert_close(total.cpu(), x.double().T @ x.double(), rtol=1e-10, atol=1e-8)
