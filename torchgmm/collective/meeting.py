"""How the processes of one attempt of a job meet, where the store still knows the attempts before.

torchrun may keep one store for all its attempts (torch 2.13: with the c10d rendezvous), in which
the addresses of workers that were killed still stand; who calls those waits for ever.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Any

from ..errors import PeerError

__all__ = ["name_of_attempt"]

_PAUSE = 0.02  # seconds between two looks
_ROOM = "torchgmm/meeting"


def name_of_attempt(store: Any, rank: int, world: int, seconds: float) -> str:
    """A name that the living processes agree on, and that no attempt before had.

    Every process shows a word that nobody has used before; the first one writes the name beside
    each word that it sees. Words of the dead are answered too, and nobody reads it.

    Args:
        store: of torch.distributed, which all of them see.
        rank: of this process.
        world: how many there are.
        seconds: how long to wait for the others.

    Raises:
        PeerError: processes that did not come.
    """
    word = uuid.uuid4().hex
    if rank:
        return _asked(store, rank, word, seconds)
    missing, answered = set(range(1, world)), dict.fromkeys(range(1, world), "")
    end = time.monotonic() + seconds
    while missing:
        for other in sorted(missing):
            shown = _read(store, f"{_ROOM}/{other}")
            if shown != answered[other]:
                store.set(f"{_ROOM}/name/{shown}", word)
                answered[other] = shown
            if store.check([f"{_ROOM}/{word}/{other}"]):
                missing.discard(other)
        if missing and time.monotonic() > end:
            numbers = ", ".join(map(str, sorted(missing)))
            raise PeerError(f"process(es) {numbers} of {world} {_late(seconds)}")
        time.sleep(_PAUSE)
    return word


def _asked(store: Any, rank: int, word: str, seconds: float) -> str:
    store.set(f"{_ROOM}/{rank}", word)
    answer = f"{_ROOM}/name/{word}"
    try:
        store.wait([answer], timedelta(seconds=seconds))
    except RuntimeError as error:  # torch.distributed.DistStoreError
        raise PeerError(f"process 0 of the job {_late(seconds)}") from error
    name: str = store.get(answer).decode()
    store.set(f"{_ROOM}/{name}/{rank}", "here")
    return name


def _late(seconds: float) -> str:
    return f"did not come within {seconds:g} s (TORCHGMM_TIMEOUT): has it started?"


def _read(store: Any, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
