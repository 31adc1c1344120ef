"""What sources decide by the device of rows and mixture; no GPU is needed to ask them."""

import contextlib

import pytest
import torch

from torchgmm.data import ArraySource, Block, Checked
from torchgmm.data.block import join
from torchgmm.data.prefetch import ahead, sent

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


class OnGpu(ArraySource):
    """A source whose rows count as lying on the GPU."""

    def __init__(self, x):
        super().__init__(x)
        self.on_host = False


@pytest.mark.parametrize(
    ("kind", "device", "ahead"),
    [(ArraySource, CPU, False), (ArraySource, CUDA, True), (OnGpu, CUDA, False)],
)
def test_rows_on_their_way_to_a_gpu_are_sent_while_others_are_computed(kind, device, ahead):
    source = kind(torch.zeros(5, 2))
    assert Checked(source, torch.float32, device)._pays_ahead() == ahead


def test_numbers_of_rows_stay_on_the_cpu_wherever_the_rows_are():
    rows = Block(torch.empty(5, 2, device="meta"), None, 10)
    index = torch.tensor([3, 1])
    some = rows.take(index)
    assert some.x.device.type == "meta"
    assert some.numbers().tolist() == [13, 11]
    assert join([some, Block(torch.empty(1, 2, device="meta"), None, 20)]).numbers().tolist() == [
        13, 11, 20,
    ]  # fmt: skip


class Rows:
    """As much of a tensor on a GPU as reading ahead asks for."""

    is_cuda = True

    def __init__(self, made_on):
        self.made_on, self.used_on = made_on, []

    def record_stream(self, stream):
        self.used_on.append(stream)


class Stream:
    """And as much of a stream: what it waits for, in order."""

    def __init__(self, device=None):
        self.waits = []

    def wait_stream(self, stream):
        self.waits.append(stream)

    wait_event = wait_stream


def test_blocks_are_made_on_a_stream_of_their_own_and_waited_for_on_the_callers(monkeypatch):
    callers, active, events = Stream(), [], []

    class Event:
        def record(self, stream):
            self.after = len(events)
            events.append((stream, self))

    @contextlib.contextmanager
    def on(stream):
        active.append(stream)
        yield
        active.remove(stream)

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "Stream", Stream)
    monkeypatch.setattr(cuda, "Event", Event)
    monkeypatch.setattr(cuda, "stream", on)
    monkeypatch.setattr(cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "current_stream", lambda device: callers)

    def blocks():
        for _ in range(3):
            yield Block(Rows(active[-1]), Rows(active[-1]), 0)

    seen = []
    for count, block in enumerate(ahead(blocks(), device=CUDA), 1):
        side = block.x.made_on
        assert side is not callers
        # the caller's stream waits until this block was sent, before anybody sees it
        assert callers.waits == [event for _, event in events[:count]]
        # and the allocator keeps it until the caller's stream is done with it
        assert block.x.used_on == block.w.used_on == [callers]
        seen.append(side)
    assert len(seen) == 3
    assert len(set(map(id, seen))) == 1
    assert all(stream is seen[0] for stream, _ in events)
    assert seen[0].waits == [callers]  # what was queued before: rows on the device, an encoder


def test_rows_are_sent_through_pinned_memory_without_waiting(monkeypatch):
    x, calls = torch.zeros(5, 2), []

    def pinned(self):
        calls.append("pinned")
        return self

    def to(self, *where, **options):
        calls.append((*where, options))
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "to", to)
    assert sent(x, CUDA) is x
    assert calls == ["pinned", (CUDA, {"non_blocking": True})]
    calls.clear()
    sent(x, CPU)
    assert calls == [(CPU, {})]


@pytest.mark.cuda
def test_rows_from_the_host_give_the_fit_of_rows_on_the_gpu():
    import torchgmm as tg

    x = torch.randn(30_000, 6, generator=torch.Generator().manual_seed(0))
    x[:10_000] += 6
    w = torch.rand(30_000, generator=torch.Generator().manual_seed(1))
    w[::7] = 0
    found = []
    for rows in (ArraySource(x, w, block_rows=1000), ArraySource(x.cuda(), w, block_rows=1000)):
        mixture = tg.GaussianMixture(2, device="cuda")
        result = mixture.fit(rows, tg.EM(max_iter=5), generator=0)
        found.append((result.log_likelihood, mixture.means.detach()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
