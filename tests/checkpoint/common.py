"""What the tests of checkpoints share: fits that are cut and go on."""

import dataclasses
import signal
import subprocess
import sys
import textwrap
from functools import cache

import pytest
import torch

from tests.cases import blobs
from tests.conftest import ROOT
from tests.contracts.test_method import METHODS, assert_same, tensors
from torchgmm import Checkpoint, GaussianMixture, OnlineEM, Tolerance, read_checkpoint
from torchgmm.fitting import Observer

X = blobs(400, 2, separation=2.0)  # overlapping: no fit is at rest after some steps
# with some M-steps in a pass; one of them ends its steps in the middle of a pass
FITS = {
    name: entry.kind(max_iter=5, **({entry.rows: 100} if entry.rows else {}))
    for name, entry in METHODS.items()
} | {
    "online in pieces": OnlineEM(max_iter=5, batch_size=50, rows_per_step=150),
    "online averaged": OnlineEM(max_iter=5, batch_size=50, average="always"),
}
every_method = pytest.mark.parametrize("name", FITS)


class Cutter(Observer):
    """Ctrl-C after a certain step."""

    def __init__(self, *where):
        self.where = where

    def on_step(self, event):
        if (event.run, event.number) == self.where:
            raise KeyboardInterrupt


class Watch(Observer):
    """Keeps the last event."""

    def on_step(self, event):
        self.event = event


def fitted(method, x=X, family="full", dtype=torch.float64, **options):
    mixture = GaussianMixture(3, covariance=family, dtype=dtype)
    options = {"generator": 0, "stop": Tolerance(0), "init": "random_from_data"} | options
    # watched, as a fit with checkpoints is: then several runs come one after the other
    options = {"observers": [Observer()]} | options
    return mixture, mixture.fit(x, method, **options)


def cut(path, method, *where, every=0.0, **options):
    """A fit that Ctrl-C ends there; what is left is its checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        fitted(method, observers=[Checkpoint(path, every), Cutter(*where)], **options)
    return read_checkpoint(path)


def killed(script, path, until):
    """The checkpoint of a process that is killed as soon as `until(process)` returns.

    The process runs a script that is given the path.
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        until(victim)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait(timeout=30)
    assert victim.returncode == -signal.SIGKILL
    return read_checkpoint(path)


def tells(*words):
    """Until a process has written these words in a line."""

    def until(process):
        assert process.stdout is not None
        for line in process.stdout:
            if line.split() == [*words]:
                break

    return until


@cache
def whole(name, **options):
    """The fit that is not cut."""
    return fitted(FITS[name], **options)


def assert_same_fit(got, expected):
    """Every number is equal but the seconds."""
    (mixture, result), (other, uncut) = got, expected
    assert_same(mixture.state_dict(), other.state_dict())
    assert_same(tensors(result.state), tensors(uncut.state))
    assert result.runs == uncut.runs
    assert result.status is uncut.status
    told = [[dataclasses.replace(s, seconds=0) for s in r.history] for r in (result, uncut)]
    assert told[0] == told[1]
