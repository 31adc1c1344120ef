"""Processes of one attempt find each other in a store that remembers the attempts before."""

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from torchgmm.collective.meeting import name_of_attempt
from torchgmm.errors import PeerError


@pytest.fixture
def store():
    return dist.HashStore()


def meet(store, world, seconds=60):
    """What every one of `world` threads is told."""
    names = [""] * world

    def come(rank):
        names[rank] = name_of_attempt(store, rank, world, seconds)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(world)]
    for thread in threads[1:] + threads[:1]:
        thread.start()
    for thread in threads:
        thread.join()
    return names


@pytest.mark.parametrize("world", [1, 2, 5])
def test_all_are_told_one_name_and_each_attempt_another(store, world):
    attempts = [meet(store, world) for _ in range(4)]
    assert all(len(set(names)) == 1 and names[0] for names in attempts)
    assert len({names[0] for names in attempts}) == 4


def test_what_the_dead_have_written_is_not_believed(store):
    # process 1 of an attempt came, waited in vain and is gone
    with pytest.raises(PeerError, match="process 0 of the job did not come"):
        name_of_attempt(store, 1, 2, 0.1)
    names = meet(store, 2)
    assert names[0] == names[1]


def test_who_is_missing_is_named(store):
    with pytest.raises(PeerError, match=r"process\(es\) 1, 2 of 3 did not come within 0\.2 s"):
        name_of_attempt(store, 0, 3, 0.2)
    store.set_timeout(timedelta(seconds=1))
    with pytest.raises(PeerError, match=r"process 0 of the job did not come within 0\.2 s"):
        name_of_attempt(store, 1, 3, 0.2)
