"""Gradient ascent: any optimiser, the floor, annealing, schedules; the contract has the rest."""

import dataclasses
import itertools
import math

import pytest
import torch

from tests.cases import FAMILIES, Case, blobs, drawn
from torchgmm import (
    EM,
    GaussianMixture,
    Gradient,
    InputError,
    OnlineEM,
    Rescue,
    Status,
    Tolerance,
)
from torchgmm.data import Checked, ImagePatches, LoaderSource, as_source
from torchgmm.data.arrays import ArraySource
from torchgmm.data.base import in_order
from torchgmm.errors import EmptyComponentError
from torchgmm.fitting import Problem
from torchgmm.fitting.coordinates import located, placed, tempered
from torchgmm.fitting.optimizers import frozen, thawed
from torchgmm.kernels import as_kernel, joint_log_prob

every_family = pytest.mark.parametrize("family", FAMILIES)
APART = Case("apart", 3, 0, 10, 4, k=3, n=1000)
X = APART.rows()


def fitted(method, x=X, k=3, family="full", **options):
    mixture = GaussianMixture(k, covariance=family, dtype=torch.float64)
    options = {"generator": 0, "stop": Tolerance(1e-9)} | options
    return mixture, mixture.fit(x, method, **options)


def level(mixture, x=X):
    return float(mixture.score(x))


# optimisers --------------------------------------------------------------------------------------


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
        ("tests.fitting.test_gradient.Halved", {"lr": 1.0}),
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


# the coordinates ---------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_the_origin_of_the_coordinates_is_the_mixture(family, floor):
    p = drawn(family, 3, 4)
    found = located(*placed(p, floor), floor)
    torch.testing.assert_close(found.log_weights, p.log_weights)
    torch.testing.assert_close(found.means, p.means)
    torch.testing.assert_close(p.family.covariances(found.scale), p.family.covariances(p.scale))


@every_family
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_no_point_is_below_the_floor(family, size):
    frame, point = placed(drawn(family, 3, 4), 0.5)
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        found = located(
            frame, point.map(lambda t: size * torch.randn(t.shape, generator=g).double()), 0.5
        )
        dense = found.family.dense_tril(found.scale, 3, 4)
        values = torch.linalg.svdvals(dense).square()
        assert float(values.min()) > 0.5 * (1 - 1e-6)


@every_family
@pytest.mark.parametrize("beta", [0.1, 0.7, 1.0])
def test_a_tempered_mixture_has_tempered_responsibilities(family, beta):
    p, x = drawn(family, 3, 4), blobs(50, 4)
    other, constant = tempered(p, beta)
    joint = beta * joint_log_prob(x, p)
    found = joint_log_prob(x, other)
    torch.testing.assert_close(found.softmax(-1), joint.softmax(-1))
    torch.testing.assert_close(found.logsumexp(-1) + constant, joint.logsumexp(-1))


def test_a_constant_feature_ends_at_the_floor():
    x = torch.cat([X, torch.ones(len(X), 1)], 1)
    mixture, result = fitted(Gradient(optimizer="LBFGS", max_iter=5, reg_covar=0.01), x=x)
    assert result.parameters.is_finite()
    assert mixture.covariances[:, 3, 3].tolist() == pytest.approx([0.01] * 3, rel=1e-4)


# annealing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["Adam", "LBFGS"])
def test_annealing_moves_means_only_within_the_first_step(optimizer):
    kept = {"rescue": Rescue(empty="keep")}
    method = Gradient(optimizer=optimizer, max_iter=2, annealing=3, **kept)
    given, start = problem(X), APART.start("full")
    state = method.init(start, given)
    while state.annealed < 3:
        state, _ = method._walk(state, given, as_kernel("dense"))
        state = dataclasses.replace(state, annealed=state.annealed + 1)
    p = state.parameters
    torch.testing.assert_close(p.log_weights, start.log_weights)
    torch.testing.assert_close(p.scale, start.scale, rtol=1e-6, atol=1e-6)
    assert float((p.means - start.means).abs().max()) > 0.01
    first = fitted(method, init=start, stop=Tolerance(0))[1].history
    if optimizer == "Adam":
        assert [step.rows for step in first] == [4 * len(X), len(X)]


def problem(x):
    source = Checked(as_source(x), torch.float64, torch.device("cpu"))
    return Problem(source, torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_annealing_mends_random_starts():
    x = blobs(1500, 4, k=4, separation=8.0)
    settings = {"batch_size": 100, "lr": 0.05, "scheduler": "CosineAnnealingLR"}
    plain, annealed = (
        [
            level(
                fitted(m, x=x, k=4, init="random_from_data", generator=seed, stop=Tolerance(0))[0],
                x,
            )
            for seed in range(3)
        ]
        for m in (
            Gradient(max_iter=30, **settings),
            Gradient(max_iter=15, annealing=15, **settings),
        )
    )
    # as many passes: the worst start ends 0.85 below the optimum without, 0.37 with annealing
    assert min(annealed) > min(plain) + 0.2
    assert max(annealed) > max(plain) - 0.02


def test_the_first_step_reports_what_annealing_led_to():
    method = Gradient(max_iter=1, annealing=3)
    start = APART.start("full")
    _, result = fitted(method, init=start)
    _, plain = fitted(Gradient(max_iter=1), init=start)
    assert math.isfinite(result.log_likelihood)
    assert result.log_likelihood != plain.log_likelihood


# what goes wrong ---------------------------------------------------------------------------------


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


# what is kept ------------------------------------------------------------------------------------


def test_state_dicts_become_values_and_come_back():
    state = {
        "state": {0: {"step": torch.tensor(3.0), "old": [torch.ones(2), None]}},
        "param_groups": [{"betas": (0.9, 0.99), "params": [0, 1], "name": "Adam", "on": True}],
    }
    kept = frozen(state)
    assert isinstance(hash_free(kept), tuple)
    back = thawed(kept)
    assert back["param_groups"] == state["param_groups"]
    torch.testing.assert_close(back["state"], state["state"])
    back["state"][0]["old"][0].add_(1)
    assert torch.equal(kept[2][2][4][1], torch.ones(2))  # a copy
    with pytest.raises(InputError, match="holds a function"):
        frozen({"lambda": lambda: 0})


def hash_free(value):
    """No dict and no list anywhere in it: what a checkpoint can hold."""
    assert not isinstance(value, (dict, list))
    if isinstance(value, tuple):
        for part in value:
            hash_free(part)
    return value


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 100, "rows_per_step": 300},
        {"optimizer": "LBFGS", "optimizer_options": {"max_iter": 3}},
        {"batch_size": 250, "scheduler": "CosineAnnealingLR", "annealing": 2},
        {"optimizer": "SGD", "lr": 0.1, "optimizer_options": {"momentum": 0.9}, "clip": 0.1},
    ],
)
def test_a_fit_that_stops_goes_on_bit_for_bit(settings, tmp_path):
    import torchgmm as tg

    path = tmp_path / "fit.safetensors"

    class Cut(tg.fitting.Observer):
        def on_step(self, event):
            if event.number == 2:
                raise KeyboardInterrupt

    method = Gradient(max_iter=5, **settings)
    options = {"init": "random_from_data", "stop": Tolerance(0)}
    whole, result = fitted(method, **options)
    with pytest.raises(KeyboardInterrupt):
        fitted(method, observers=[tg.Checkpoint(path, 0), Cut()], **options)
    again, resumed = fitted(method, resume=tg.read_checkpoint(path), **options)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [s.log_likelihood for s in resumed.history] == [s.log_likelihood for s in result.history]


def test_a_config_names_it(tmp_path, capsys):
    from torchgmm.cli import main

    config = tmp_path / "fit.yaml"
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n" + "\n".join(f"{a:.6f},{b:.6f}" for a, b in blobs(200, 2).tolist()))
    config.write_text(
        f"data: {rows}\n"
        "mixture:\n  n_components: 3\n"
        "method:\n  class_path: Gradient\n  init_args:\n"
        "    optimizer: AdamW\n    lr: 0.05\n    batch_size: 50\n    max_iter: 3\n"
        "    optimizer_options: {weight_decay: 0.0}\n"
        "    scheduler: CosineAnnealingLR\n    clip: 1.0\n    annealing: 1\n"
        f"out: {tmp_path / 'run'}\npicture: none\n"
    )
    assert main(["fit", str(config)]) == 0
    assert "AdamW" in (tmp_path / "run" / "config.yaml").read_text()
    assert main(["fit", str(tmp_path / "run" / "config.yaml"), "--method.batch_size", "all"]) == 0


# real data ---------------------------------------------------------------------------------------


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
