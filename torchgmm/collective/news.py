"""What processes tell each other when something goes wrong: by the store, not by the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist

from ..errors import PeerError

__all__ = ["News"]

# A process that is killed leaves no message; the others need a moment to say that they live.
_GRACE = 3.0
_LENGTH = 2000  # of an error, in characters


class News:
    """Messages of the processes of a group.

    Nothing is written while all goes well: only who waits for more than a moment says so, and who
    fails says why.

    Args:
        ranks: numbers of the processes in the whole job.
        rank: number of this process in the group.
        number: of the call; messages belong to one.
    """

    def __init__(self, ranks: Sequence[int], rank: int, number: int) -> None:
        self._store = _store()
        self._rank, self._size = rank, len(ranks)
        self._key = f"torchgmm/{'-'.join(map(str, ranks[:4]))}/{number}"
        self._said = 0

    def failed(self, error: BaseException) -> None:
        """Tell the others, before this process ends."""
        if isinstance(error, PeerError):
            return
        what = f"{type(error).__name__}: {error}".replace("\n", " ")[:_LENGTH]
        self._try(lambda: self._set("error", f"{self._rank}\t{what}"))

    def waiting(self, call: int) -> None:
        """This process waits for the others in its call so-and-so; are there errors?

        Raises:
            PeerError: another process has failed.
        """
        if self._said != call:
            self._said = call
            self._try(lambda: self._set(f"waits/{self._rank}", str(call)))
        self._listen()

    def late(self, call: int, patience: float) -> PeerError:
        """What to raise when the wait has been too long."""
        missing = self._missing(call)
        if missing is None:
            return PeerError(f"no word from the other processes for {patience:g} s")
        return PeerError(
            f"no word from {_listed(missing)} for {patience:g} s: it hangs, was killed, or does "
            "something else (every process must make the same calls; with torchgmm.alone() one "
            "fits alone). A longer wait: TORCHGMM_TIMEOUT=SECONDS"
        )

    def lost(self, call: int, error: BaseException) -> PeerError:
        """What to raise when the connection broke."""
        try:
            self.waiting(call)
            end = time.monotonic() + _GRACE
            while time.monotonic() < end:
                time.sleep(0.2)
                self._listen()
        except PeerError as known:
            return known
        missing = self._missing(call)
        if not missing:
            return PeerError(f"the connection to the other processes broke: {error}")
        return PeerError(f"{_listed(missing)} ended without a word: killed, or out of memory?")

    # inside -------------------------------------------------------------------------------------

    def _listen(self) -> None:
        found = self._try(lambda: self._get("error"))
        if found:
            rank, _, what = found.partition("\t")
            raise PeerError(f"process {rank} failed: {what}")

    def _missing(self, call: int) -> list[int] | None:
        """Who does not wait in the same call; None where nobody can tell."""
        missing = []
        for rank in range(self._size):
            said = self._try(lambda rank=rank: self._get(f"waits/{rank}"))  # type: ignore[misc]
            if rank != self._rank and said != str(call):
                missing.append(rank)
        return missing if self._store is not None else None

    def _set(self, name: str, text: str) -> str:
        self._store.set(f"{self._key}/{name}", text)
        return text

    def _get(self, name: str) -> str:
        key = f"{self._key}/{name}"
        return str(self._store.get(key).decode()) if self._store.check([key]) else ""

    def _try(self, call: Callable[[], str]) -> str:
        """Whatever fails in telling why something failed must not hide it."""
        if self._store is None:
            return ""
        try:
            return call()
        except Exception:  # the store went with the process that kept it
            return ""


def _store() -> Any:
    """The store of the default group: torch has no public name for it."""
    find = getattr(dist.distributed_c10d, "_get_default_store", None)
    try:
        return None if find is None else find()
    except Exception:
        return None


def _listed(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"process {shown}" if len(ranks) == 1 else f"processes {shown}"
