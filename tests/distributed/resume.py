"""Fits that are cut off in a job of one size and go on in one of another."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch

import torchgmm as tg
from tests.cases import Case
from torchgmm.data import ArraySource
from torchgmm.fitting import Resumption, StepSums, em
from torchgmm.kernels import as_kernel

APART = Case("apart", 3, 0, 3, 2, k=3, n=901)
X = APART.rows()

METHODS = {
    "em": (tg.EM, {}),
    "squarem": (tg.SQUAREM, {}),
    "incremental": (tg.IncrementalEM, {"n_blocks": 4}),
    "reduced": (tg.VarianceReducedEM, {"n_blocks": 4}),
    "online": (tg.OnlineEM, {"batch_size": 100, "rows_per_step": 300}),  # within a pass
    "gradient": (tg.Gradient, {"batch_size": 200}),
}
HALF, WHOLE = 3, 5


def fitted(name, steps, x=X, **options):
    """The parameters after so many steps in all."""
    warnings.simplefilter("ignore")
    kind, settings = METHODS[name]
    mixture = tg.GaussianMixture(3, dtype=torch.float64)
    start = {} if "resume" in options else {"init": APART.start("full")}
    return mixture.fit(
        x,
        kind(max_iter=steps, **settings),
        generator=0,
        stop=tg.Tolerance(0),
        **start,
        **options,
    ).parameters


def cut(folder):
    """Leave `NAME-WORLD.safetensors` of fits that are half done."""
    world = torch.distributed.get_world_size()
    for name in METHODS:
        file = Path(folder) / f"{name}-{world}.safetensors"
        fitted(name, HALF, observers=[tg.Checkpoint(file, every=0)])
        assert torch.distributed.get_rank() or file.is_file()
    torch.distributed.barrier()
    return sorted(METHODS)


def resumed(folder, world):
    """The parameters at the end of fits that a job of `world` processes began."""
    found = {}
    for name in METHODS:
        file = Path(folder) / f"{name}-{world}.safetensors"
        p = fitted(name, WHOLE, resume=tg.read_checkpoint(file))
        found[name] = [t.tolist() for t in (p.log_weights, p.means, p.scale)]
    return found


class Cut(ArraySource):
    """Fails in the third pass, after some blocks; the pass that looks at the rows is no pass."""

    passes = 0

    def share(self, rank, world):
        self.passes += 1
        for number, block in enumerate(super().share(rank, world)):
            if self.passes == HALF and number == 7:
                raise RuntimeError("cut off")
            yield block


def cut_within(folder):
    """Leave `cut-NAME.safetensors` of fits of exact EM that ended in the middle of a step.

    Also the parameters of the fits that go on from there, and of those that were not cut.
    """
    em._TOGETHER = 2
    warnings.simplefilter("ignore")
    found = {}
    for name in ("em", "squarem"):
        file = Path(folder) / f"cut-{name}.safetensors"
        observers = [tg.Checkpoint(file, every=0)]
        with pytest.raises(RuntimeError, match="cut off"):
            fitted(name, WHOLE, Cut(X, block_rows=50), observers=observers)
        torch.distributed.barrier()
        state = tg.read_checkpoint(file).state
        assert (state.step, state.places, state.sums.rows) == (2, (6, 6), 600)
        resume = {"resume": tg.read_checkpoint(file)}
        parts = [
            fitted(name, WHOLE, ArraySource(X, block_rows=50), **options)
            for options in ({}, resume)
        ]
        found[name] = [[t.tolist() for t in (p.log_weights, p.means, p.scale)] for p in parts]
    em._TOGETHER = 256
    return found


def within():
    """The parameters at the end of a fit that one process left in the middle of its third step."""
    warnings.simplefilter("ignore")
    mixture = tg.GaussianMixture(3, dtype=torch.float64)
    with tg.alone():
        half = mixture.fit(X, tg.EM(2), init=APART.start("full"), generator=0, stop=tg.Tolerance(0))
    p = half.parameters
    state = dataclasses.replace(
        half.state,
        position=1,
        sums=StepSums(rows=100),
        moments=as_kernel("auto").accumulate(X[:100], None, p),
    )
    generator = torch.Generator().manual_seed(0).get_state()
    resume = Resumption(1, state, half.history, None, generator)
    p = fitted("em", WHOLE, resume=resume)
    return [t.tolist() for t in (p.log_weights, p.means, p.scale)]
