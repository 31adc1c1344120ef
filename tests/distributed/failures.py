"""What goes wrong in one process of a job."""

import os
import signal
import time
import warnings

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import torchgmm as tg
from tests.cases import blobs
from torchgmm.collective import current, together
from torchgmm.data import OwnRows
from torchgmm.fitting import Observer
from torchgmm.kernels import memory

X = blobs(600, 2, 3)
EM = tg.EM(max_iter=5)


def _mixture():
    return tg.GaussianMixture(3, dtype=torch.float64)


def disagree():
    """Mistakes that all processes can see: none of them breaks the job."""
    warnings.simplefilter("ignore")
    rank = dist.get_rank()
    shuffling = DataLoader(TensorDataset(X), batch_size=50, shuffle=True)
    wrong = DistributedSampler(TensorDataset(X), 3, 0)
    calls = {
        "sizes": lambda: _mixture().fit(X[: 500 + rank]),
        "rows": lambda: _mixture().fit(X + rank),
        "kinds": lambda: _mixture().fit(X if rank else OwnRows(X)),
        "widths": lambda: _mixture().fit(OwnRows(X if rank else X[:, :1])),
        "no rows": lambda: _mixture().fit(OwnRows(None)),
        "methods": lambda: _mixture().fit(X, tg.EM(max_iter=5 + rank)),
        "components": lambda: tg.GaussianMixture(2 + rank).fit(X),
        "shuffling": lambda: _mixture().fit(shuffling),
        "sampler": lambda: _mixture().fit(DataLoader(wrong.dataset, sampler=wrong)),
        "blocks": lambda: _mixture().fit(OwnRows(X), tg.IncrementalEM()),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
            said[name] = None
        except tg.InputError as error:
            said[name] = str(error)
    # whatever was refused, the next fit is as good as the first
    generator = None if rank else torch.Generator().manual_seed(5)
    said["then"] = _mixture().fit(X, EM, generator=generator).log_likelihood
    said["drawn"] = [float(p.sum()) for p in _started(rank).parameters()]
    return said


def _started(rank):
    """A fit from what the mixture holds, which differs: that of process 0 counts."""
    mixture = tg.GaussianMixture(3, 2, generator=torch.Generator().manual_seed(rank))
    mixture.fit(X.float(), EM, init="current")
    return mixture


def short_of_memory():
    """The chunks of one process are smaller, so that its sums have other last digits."""
    x = blobs(1200, 3, 5).float()
    if dist.get_rank():
        memory._borne[x.device] = 2**13
    try:
        fits = []
        for init in ("kmeans", "k-means++"):
            mixture = _mixture()
            mixture.fit(x, tg.EM(max_iter=3), init=init, generator=0)
            fits.append(mixture)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = tg.select(x, n_components=[2, 3], covariance="full", generator=0)
        return [float(p.sum()) for m in (*fits, found.best) for p in m.parameters()]
    finally:
        memory._borne.clear()


class Told(Observer):
    """Counts what it is told."""

    def __init__(self):
        self.steps = 0

    def on_step(self, event):
        self.steps += 1


def observers():
    """Only the first process tells."""
    told = Told()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _mixture().fit(X, tg.EM(max_iter=2), generator=0, stop=tg.Tolerance(0), observers=[told])
    return [told.steps, len([w for w in caught if w.category is tg.ConvergenceWarning])]


def solo():
    """A group of one process."""

    @together
    def call():
        result = _mixture().fit(X, EM, generator=0)
        return [current().size, sum(step.n_bytes for step in result.history)]

    return call()


def bad_row():
    """A row of the second process is no number."""
    x = X.clone()
    x[400] = torch.nan
    start = time.monotonic()
    try:
        _mixture().fit(x, EM, init=_begin())
    except Exception as error:
        return [type(error).__name__, str(error), time.monotonic() - start]


def _begin():
    eye = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    return tg.Parameters.from_covariances(torch.full((3,), 1 / 3).double(), X[:3], eye)


def killed():
    """The second process is killed in the middle of a fit."""
    return _hurt(lambda: os.kill(os.getpid(), signal.SIGKILL))


def asleep():
    """The second process does not come back."""
    return _hurt(lambda: time.sleep(14))


def _hurt(do):
    source = OwnRows(_batches(do) if dist.get_rank() == 1 else X)
    try:
        _mixture().fit(source, tg.EM(max_iter=50), init=_begin(), stop=tg.Tolerance(0))
    except Exception as error:
        return [type(error).__name__, str(error)]


def _batches(do):
    passes = [0]

    def batches():
        passes[0] += 1
        yield X[:100]
        if passes[0] == 4:
            do()
        yield X[100:]

    return batches


def drifted():
    """The second process holds another mixture."""
    start = _begin()
    if dist.get_rank() == 1:
        start = start.map(lambda t: torch.nextafter(t, t + 1))
    try:
        _mixture().fit(X, EM, init=start)
    except Exception as error:
        return [type(error).__name__, str(error)]
