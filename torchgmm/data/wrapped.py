"""`Wrapped`: a source made of another one, of which it knows what that one knows of itself."""

from __future__ import annotations

from .base import Source

__all__ = ["Wrapped"]


class Wrapped(Source):
    """A source made of another one: what that one says of its rows holds, unless it says otherwise.

    How rows are read is not taken over: a wrapper says itself what it makes of `blocks`, and of
    `batches`, `sample` and the rest where these are more than the blocks in another order.

    Args:
        source: the other one.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        for name in Source.__annotations__:  # all, so that none is forgotten
            setattr(self, name, getattr(source, name))

    @property
    def row_bytes(self) -> int:
        return self._source.row_bytes
