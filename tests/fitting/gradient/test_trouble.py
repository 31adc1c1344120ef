"""What goes wrong in an ascent, and settings that mean nothing."""

import itertools

import pytest
import torch

from tests.cases import blobs, drawn
from tests.fitting.gradient.common import X, fitted
from torchgmm import (
    Gradient,
    InputError,
    OnlineEM,
    Rescue,
    Status,
    Tolerance,
)
from torchgmm.data import LoaderSource
from torchgmm.data.arrays import ArraySource
from torchgmm.data.passes import in_order
from torchgmm.errors import EmptyComponentError


def test_a_rate_that_is_too_high_ends_with_the_last_good_step():
    method = Gradient(optimizer="SGD", lr=1e6, max_iter=20)
    mixture, result = fitted(method, stop=Tolerance(0))
    assert result.status is Status.DIVERGED
    assert bool(torch.isfinite(mixture.log_prob(X)).all())


def test_a_component_is_not_lost_because_a_few_rows_are_none_of_its_own():
    start = drawn("full", 3, 2)
    start.means[:] = torch.tensor([[-50.0, 0], [50, 0], [0, 80]])
    x = start.means.repeat_interleave(20, 0).repeat(5, 1) + blobs(300, 2, k=1)  # twenty by twenty
    method = Gradient(batch_size=20, rows_per_step=20, max_iter=10)
    _, result = fitted(method, x=Cut(x), init=start, stop=Tolerance(0))
    assert result.rescued == 0
    # of these, which are all, the last has none
    assert fitted(Gradient(max_iter=2), x=x[:40], init=start)[1].rescued > 0


class Cut(ArraySource):
    """Rows in their own order whatever is asked for."""

    def batches(self, rows, *, seed, epoch, skip=0):
        return itertools.islice(in_order(self.blocks(), rows), skip, None)


def test_a_lost_component_is_raised_if_asked():
    p = drawn("full", 3, 3)
    p.means[2] = 1e6
    with pytest.raises(EmptyComponentError, match=r"component\(s\) \[2\] lost all their rows"):
        fitted(Gradient(max_iter=2, rescue=Rescue(empty="raise")), init=p)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "Adm"}, "optimizer must be a class of torch.optim or its name"),
        ({"optimizer": dict}, "optimizer must be a class of torch.optim or its name"),
        ({"optimizer": "no.such.Thing"}, "optimizer 'no.such.Thing' cannot be imported"),
        ({"optimizer_options": {"speed": 3}}, "Adam refuses optimizer_options=.*speed"),
        ({"optimizer_options": {"betas": [2.0, 0.9]}}, "Adam refuses optimizer_options=.*beta"),
        ({"scheduler": "Cosine"}, "scheduler must be a class of torch.optim.lr_scheduler"),
        ({"scheduler": "StepLR"}, "StepLR refuses scheduler_options"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"clip": -1.0}, "clip must be above 0, got -1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": "some"}, "batch_size must be an integer, got 'some'"),
        ({"rows_per_step": 0}, "rows_per_step must be at least 1"),
        ({"annealing": -1}, "annealing must be at least 0"),
        ({"first_beta": 0.0}, "first_beta must be above 0 and at most 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused_with_what_to_do(settings, message):
    with pytest.raises(InputError, match=message):
        Gradient(**settings)


def one_pass():
    return LoaderSource(iter(X.split(100)))


def test_a_stream_that_is_read_once_is_enough():
    _, result = fitted(Gradient(batch_size=100, rows_per_step=300, max_iter=9), x=one_pass())
    assert sum(step.rows for step in result.history) == len(X)
    assert result.status is Status.ENDED


@pytest.mark.parametrize("settings", [{"annealing": 2}, {"optimizer": "LBFGS"}])
def test_what_needs_the_rows_again_says_so(settings):
    with pytest.raises(InputError, match="this source can be read only once"):
        fitted(Gradient(**settings), x=one_pass())


def test_a_state_of_another_method_is_refused():
    _, result = fitted(OnlineEM(max_iter=1))
    with pytest.raises(InputError, match="goes on from a GradientState, got an OnlineState"):
        fitted(Gradient(), x=X, state=result.state)
