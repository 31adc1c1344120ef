"""Any optimiser and any schedule climb; real data."""

import math

import pytest
import torch

from tests.fitting.gradient.common import APART, X, every_family, fitted, level
from torchgmm import (
    EM,
    GaussianMixture,
    Gradient,
    Status,
    Tolerance,
)
from torchgmm.data import ImagePatches, as_source
from torchgmm.fitting.optimizers import thawed


@every_family
def test_lbfgs_finds_the_optimum_of_exact_em(family):
    start = APART.start(family)
    best, _ = fitted(EM(max_iter=500), family=family, init=start)
    mixture, result = fitted(Gradient(optimizer="LBFGS"), family=family, init=start)
    assert result.status is Status.CONVERGED
    assert level(mixture) == pytest.approx(level(best), abs=1e-6)  # the floor is 1e-6


class Halved(torch.optim.SGD):
    """An optimiser of somebody else's."""

    def __init__(self, params, lr=1.0):
        super().__init__(params, lr=lr / 2)


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        ("AdamW", {"lr": 0.05, "optimizer_options": {"weight_decay": 0.0}}),
        (torch.optim.RMSprop, {"lr": 0.01}),
        ("SGD", {"lr": 0.3, "optimizer_options": {"momentum": 0.5}}),
        ("torch.optim.Rprop", {"batch_size": "all"}),
        ("tests.fitting.gradient.test_optimizers.Halved", {"lr": 1.0}),
        ("LBFGS", {"lr": 0.5, "batch_size": "all", "optimizer_options": {"line_search_fn": None}}),
    ],
)
def test_any_optimizer_climbs(optimizer, settings):
    best, _ = fitted(EM(), init=APART.start("full"))
    start = level(GaussianMixture.from_parameters(APART.start("full")))
    method = Gradient(optimizer=optimizer, max_iter=25, **{"batch_size": 250} | settings)
    mixture, result = fitted(method, init=APART.start("full"), stop=Tolerance(0))
    assert start < level(best) - 0.2
    assert level(mixture) > level(best) - 0.05
    assert result.history[0].log_likelihood < result.history[-1].log_likelihood


def test_steps_of_lbfgs_count_every_row_they_read():
    rows = []
    for options in ({"max_iter": 1, "line_search_fn": None}, {"max_iter": 4}):
        method = Gradient(optimizer="LBFGS", max_iter=1, optimizer_options=options)
        rows.append(fitted(method, init=APART.start("full"))[1].history[0].rows)
    assert rows[0] == len(X)
    assert rows[1] >= 5 * len(X)
    assert rows[1] % len(X) == 0


def test_the_unit_of_the_data_does_not_matter():
    method = Gradient(max_iter=5, batch_size=250, reg_covar=0.0)
    levels = []
    for unit in (1e-6, 1.0, 1e6):
        mixture, _ = fitted(method, x=X * unit, stop=Tolerance(0))
        levels.append(level(mixture, X * unit) + X.shape[1] * math.log(unit))
    # coordinates are the same but for the rounding of rows and of starts
    assert levels == pytest.approx([levels[1]] * 3, abs=1e-5)


def test_a_schedule_is_stepped_once_a_step():
    rates = []
    for scheduler, options in (
        ("CosineAnnealingLR", {}),
        ("StepLR", {"step_size": 2, "gamma": 0.1}),
        (
            torch.optim.lr_scheduler.ReduceLROnPlateau,
            {"patience": 0, "threshold": 1e9, "threshold_mode": "abs"},
        ),
    ):
        method = Gradient(max_iter=4, lr=0.1, scheduler=scheduler, scheduler_options=options)
        _, result = fitted(method, stop=Tolerance(0))
        rates.append(thawed(result.state.optimizer)["param_groups"][0]["lr"])
    # the whole of a cosine; two falls to a tenth; no progress after the first of four steps
    assert rates == pytest.approx([0.0, 0.001, 0.0001], abs=1e-12)


def test_a_clipped_gradient_goes_less_far():
    moved = []
    for clip in (None, 1e-3):
        method = Gradient(optimizer="SGD", lr=1.0, clip=clip, max_iter=1, batch_size="all")
        start = APART.start("full")
        mixture, _ = fitted(method, init=start)
        moved.append(float((mixture.means.detach() - start.means).norm()))
    assert 0 < moved[1] < 0.1 * moved[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "LBFGS", "max_iter": 3},
        {"max_iter": 40, "batch_size": 500, "lr": 0.05, "scheduler": "CosineAnnealingLR"},
    ],
)
def test_on_image_patches_it_comes_as_far_as_em(settings):
    source = as_source(ImagePatches("china.jpg", size=4, subtract_mean=True))
    x = source.sample(5000, torch.Generator().manual_seed(0)).x
    start = fitted(EM(max_iter=0), x=x, k=8)[1].parameters
    em, _ = fitted(EM(max_iter=60), x=x, k=8, init=start, stop=Tolerance(1e-3))
    mixture, _ = fitted(Gradient(**settings), x=x, k=8, init=start, stop=Tolerance(0))
    # after about as many passes (40 and 73 for 60) both are 0.1 nats beyond it
    assert level(mixture, x) > level(em, x) - 1e-2
