"""Rows out of a network: the latent space of a source of images, or of anything else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..errors import InputError
from .base import Indexed, Source
from .block import Block, join
from .loaders import LoaderSource, loading
from .passes import in_batches, parts, sample_indices

__all__ = ["Encoded"]

# latent rows that make a block worth a call of a kernel
_ROWS = 8192
_BYTES = 4 * 2**20


class Encoded(Source):
    """What an encoder makes of the rows of another source, computed whenever it is read.

    A module runs without gradients, in eval mode (its modes are restored after every call) and on
    its own device; the latent rows stay there.

    Args:
        source: rows of any shape.
        encoder: a module or a function from `(n, ...)` to `(n, D)`.
        rows: how many rows the encoder is given at a time, at most.

    Raises:
        InputError: the encoder fails, or what it gives is no table.

    Example:
        >>> import torch
        >>> from torchgmm.data import as_source
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> source = as_source(torch.zeros(10, 1, 4, 4), encoder=encoder)
        >>> source.n_rows, source.n_features
        (10, 3)
    """

    reads = True

    def __init__(
        self, source: Source, encoder: Callable[[Tensor], Tensor], *, rows: int = 256
    ) -> None:
        self._source, self._encoder = source, encoder
        self._rows = checks.check_count("rows", rows)
        self._shape = getattr(source, "shape", None)
        self.n_rows, self.replayable = source.n_rows, source.replayable
        self.stable, self.own, self.numbered = source.stable, source.own, source.numbered
        # the latent rows of a stream that cannot be read again, its first ones kept for `sample`
        self._stream = None if source.replayable else LoaderSource(_stream(self._encode, source))
        if self._stream is None:
            latent = self._encode(source.first().part(0, 1)).x
        else:
            latent = self._stream.first().x[:1]
        self.n_features, self.dtype = latent.shape[1], latent.dtype
        self._block_rows = max(1, min(_ROWS, _BYTES // max(1, latent.nbytes)))

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        if self._stream is not None:
            yield from self._stream.blocks(skip=skip)
            return
        waiting: list[Block] = []
        count = 0
        for block in self._source.blocks():
            count += len(block.x)
            if not skip:  # what is skipped is read, but not encoded
                waiting.append(self._encode(block))
            if count >= self._block_rows:
                if waiting:
                    yield join(waiting)
                skip, count, waiting = max(0, skip - 1), 0, []
        if waiting:
            yield join(waiting)

    def fingerprint(self) -> str:
        # of what is encoded: two GPUs may round what comes out in two ways
        return super().fingerprint() if self._stream is not None else self._source.fingerprint()

    def share(self, rank: int, world: int) -> Iterator[Block]:
        if self._stream is not None:
            return super().share(rank, world)
        return map(self._encode, self._source.share(rank, world))

    def share_of_batches(
        self, rows: int, rank: int, world: int, *, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[Block]:
        inner, order = self._source, None
        if isinstance(inner, Indexed) and not inner.weighted:
            order = inner.orders(seed=seed, epoch=epoch)
        if order is None or not isinstance(inner, Indexed):
            yield from super().share_of_batches(
                rows, rank, world, seed=seed, epoch=epoch, skip=skip
            )
            return
        window = self.window_rows(rows)
        numbers = in_batches(order, inner.weights, rows, window, (seed, epoch))
        for part in parts(itertools.islice(numbers, skip, None), rank, world):
            latent = self._encode(inner.take(part.x.squeeze(-1))) if len(part.x) else part
            yield replace(latent, whole=part.whole)

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Block]:
        if self._stream is not None:
            return self._stream.blocks()
        return map(self._encode, self._source.shuffled(seed=seed, epoch=epoch))

    def sample(self, size: int, generator: torch.Generator) -> Block:
        inner = self._source
        if self._stream is not None:
            return self._stream.sample(size, generator)
        if not isinstance(inner, Indexed) or inner.weighted:
            return super().sample(size, generator)
        index = torch.arange(inner.n_rows)
        if inner.weights is not None:
            index = inner.weights.nonzero().squeeze(-1).cpu()
        index = index[sample_indices(len(index), size, generator)]
        return join([self._encode(inner.take(some)) for some in torch.split(index, self._rows)])

    def _encode(self, block: Block) -> Block:
        parts = []
        for start in range(0, len(block.x), self._rows):
            x = block.x[start : start + self._rows]
            numbers = block.part(start, len(x)).numbers()
            low, high = int(numbers.min()), int(numbers.max())
            with loading(f"the encoder failed on rows {low}..{high}"):
                parts.append(self._latent(x))
        return Block(torch.cat(parts), block.w, block.start, block.kept)

    def _latent(self, x: Tensor) -> Tensor:
        if self._shape is not None:
            x = x.reshape(len(x), *self._shape)
        with torch.no_grad(), _in_eval_mode(self._encoder):
            latent: Any = self._encoder(_placed(x, self._encoder))
        if not isinstance(latent, Tensor):
            raise InputError(
                f"it gave a {type(latent).__name__}: let it give the rows alone, "
                "encoder=lambda x: network(x)[0]"
            )
        if latent.dim() != 2 or len(latent) != len(x) or not latent.is_floating_point():
            raise InputError(
                f"it gave {latent.dtype} of shape {tuple(latent.shape)} for {len(x)} rows: a table "
                f"({len(x)}, D) of floating point numbers is needed, such as from .flatten(1)"
            )
        return latent.detach()


def _stream(encode: Callable[[Block], Block], source: Source) -> Iterator[Block]:
    yield from map(encode, source.blocks())


@contextmanager
def _in_eval_mode(encoder: Any) -> Iterator[None]:
    modules = list(encoder.modules()) if isinstance(encoder, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _placed(x: Tensor, encoder: Any) -> Tensor:
    """`x` where the module is; in its dtype, unless these are integers."""
    if not isinstance(encoder, nn.Module):
        return x
    for parameter in encoder.parameters():
        if x.is_floating_point() and parameter.is_floating_point():
            return x.to(device=parameter.device, dtype=parameter.dtype)
        return x.to(parameter.device)
    return x
