"""The fit of a batch of mixtures that is cut goes on, bit for bit."""

import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.cases import blobs
from tests.checkpoint.common import FITS, killed, tells
from torchgmm import EM, Checkpoint, InputError, Status, read_checkpoint
from torchgmm.checkpoint import _write
from torchgmm.errors import StoreError
from torchgmm.fitting import Observer
from torchgmm.store import read_tensors

# tables of unequal length and difficulty: fits end at different steps
TABLES = [blobs(80 + 30 * b, 2, separation=1.0 + 2 * b, seed=b) for b in range(5)]
EM_FIT = EM(max_iter=8)  # enough for some of them
OTHERS = [name for name in FITS if name != "em"]


class Copies(Observer):
    """Keeps what a checkpoint holds after every step: what SIGKILL would leave."""

    def __init__(self, path):
        self.path, self.kept = path, []

    def on_step(self, event):
        self.kept.append(self.path.with_name(f"{len(self.kept)}.safetensors"))
        shutil.copy(self.path, self.kept[-1])


class Stop(Observer):
    """Ctrl-C at a step, by its number in the whole fit."""

    def __init__(self, step):
        self.left = step

    def on_step(self, event):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def fitted(method=EM_FIT, tables=TABLES, family="full", dtype=torch.float64, k=3, **options):
    many = tg.GaussianMixture(k, covariance=family, batch_shape=(len(tables),), dtype=dtype)
    options = {"generator": 0, "init": "random_from_data", "observers": [Observer()]} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.ConvergenceWarning)
        return many, many.fit(tables, method, **options)


def assert_same_fit(got, expected):
    """Every number is equal but the seconds."""
    (many, result), (other, uncut) = got, expected
    for name, tensor in other.state_dict().items():
        assert torch.equal(many.state_dict()[name], tensor), name
    assert result.statuses == uncut.statuses
    assert result.levels.equal(uncut.levels)
    assert result.levels_of_runs.equal(uncut.levels_of_runs)
    for mine, theirs in zip(result, uncut, strict=True):
        told = [[dataclasses.replace(s, seconds=0) for s in r.history] for r in (mine, theirs)]
        assert told[0] == told[1]
        assert mine.runs == theirs.runs
        assert mine.state.parameters.means.equal(theirs.state.parameters.means)


@pytest.mark.parametrize("n_init", [1, 2])
@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("family", ["full", "tied_diagonal"])
def test_mixtures_that_climb_together_go_on_from_any_step(
    family, parts, n_init, tmp_path, monkeypatch
):
    if parts:  # two mixtures at a time
        monkeypatch.setattr("torchgmm.fitting.batch._STATISTICS", 2 * 8 * 3 * (4 + 3))
    path = tmp_path / "fit.safetensors"
    copies = Copies(path)
    options = {"n_init": n_init, "family": family}
    whole = fitted(observers=[Checkpoint(path, 0), copies], **options)
    assert {Status.CONVERGED, Status.BUDGET_SPENT} == set(whole[1].statuses)
    assert len(copies.kept) == len(whole[1].history)
    for kept in copies.kept[:: 3 if n_init > 1 else 1] + copies.kept[-1:]:
        # the mixture and the generator are others: what they were is in the file
        got = fitted(resume=read_checkpoint(kept), **{**options, "generator": 99})
        assert_same_fit(got, whole)


def test_so_does_a_batch_in_float32_with_weights_and_a_collapsing_mixture(tmp_path):
    tables = torch.stack([t[:80] for t in TABLES]).float()
    tables[3, 10:] = tables[3, 10]
    weights = 0.5 + torch.arange(80).double() % 3
    options = {"tables": tables, "weights": weights.expand(5, -1), "dtype": torch.float32}
    options["method"] = EM(max_iter=12, reg_covar=0.0)
    start = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(1)).double()
    eye = torch.eye(2, dtype=torch.float64).expand(5, 3, 2, 2)
    options["init"] = tg.Parameters.from_covariances(torch.full((5, 3), 1 / 3).double(), start, eye)
    path = tmp_path / "fit.safetensors"
    copies = Copies(path)
    whole = fitted(observers=[Checkpoint(path, 0), copies], **options)
    assert Status.SINGULAR in whole[1].statuses
    for kept in copies.kept:
        assert_same_fit(fitted(resume=read_checkpoint(kept), **options), whole)


def test_it_may_be_cut_again_and_again(tmp_path):
    path, resume = tmp_path / "fit.safetensors", None
    options = {"method": EM(max_iter=12), "stop": tg.Tolerance(0)}
    for step in (3, 1, 4, 2):
        with pytest.raises(KeyboardInterrupt):
            fitted(observers=[Checkpoint(path, 0), Stop(step)], resume=resume, **options)
        resume = read_checkpoint(path)
    assert len(resume.progress.ends.course.steps) == 10
    assert_same_fit(fitted(resume=resume, **options), fitted(**options))


def test_more_steps_and_another_rule_may_follow(tmp_path):
    path = tmp_path / "fit.safetensors"
    first = fitted(EM(max_iter=4), observers=[Checkpoint(path, 0)])[1]
    assert Status.BUDGET_SPENT in first.statuses
    longer = fitted(EM(max_iter=200), resume=read_checkpoint(path))[1]
    assert longer.converged
    alone = fitted(EM(max_iter=200))[1]
    assert longer.steps.equal(alone.steps)
    assert longer.levels.equal(alone.levels)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("step", [3, 8])
def test_mixtures_that_climb_one_by_one_go_on_too(name, step, tmp_path):
    path, tables = tmp_path / "fit.safetensors", [t[:80] for t in TABLES[:3]]
    method = dataclasses.replace(FITS[name], max_iter=3)
    options = {"method": method, "tables": tables, "stop": tg.Tolerance(0)}
    with pytest.raises(KeyboardInterrupt):
        fitted(observers=[Checkpoint(path, 0), Stop(step)], **options)
    resume = read_checkpoint(path)
    assert len(resume.progress.done) == (step - 1) // 3
    got = fitted(resume=resume, **{**options, "generator": 99})
    assert_same_fit(got, fitted(**options))


def single(**options):
    mixture = tg.GaussianMixture(3, dtype=torch.float64)
    return mixture.fit(TABLES[0], EM(max_iter=3), generator=0, **options)


@pytest.mark.parametrize(
    ("resumed", "match"),
    [
        (lambda r: fitted(tables=TABLES[:4], resume=r), "5 mixtures or more.*of 4"),
        (lambda r: fitted(k=2, resume=r), "K=3, D=2, full; this one has K=2"),
        (lambda r: fitted(family="tied", resume=r), "full; this one has .* tied"),
        (lambda r: fitted(tg.OnlineEM(), resume=r), "none of a batch of 5 .* one after the other"),
        (lambda r: single(resume=r), "is of a batch of mixtures"),
    ],
)
def test_another_fit_is_refused(resumed, match, tmp_path):
    path = tmp_path / "fit.safetensors"
    fitted(observers=[Checkpoint(path, 0)])
    with pytest.raises(InputError, match=match):
        resumed(read_checkpoint(path))


@pytest.mark.parametrize("method", [EM_FIT, tg.OnlineEM()])
def test_a_single_fit_is_none_of_a_batch(method, tmp_path):
    path = tmp_path / "fit.safetensors"
    with pytest.warns(tg.ConvergenceWarning):
        single(observers=[Checkpoint(path, 0)])
    with pytest.raises(InputError, match="none of a batch"):
        fitted(method, resume=read_checkpoint(path))


def test_a_progress_that_is_none_is_damage(tmp_path):
    path, other = tmp_path / "fit.safetensors", tmp_path / "other.safetensors"
    fitted(observers=[Checkpoint(path, 0)])
    metadata, tensors = read_tensors(path, "cpu", "torchgmm-checkpoint", 1)
    content = json.loads(metadata["content"]) | {"progress": {"status": "CONVERGED"}}
    _write(content, tensors, "torchgmm-checkpoint", other)
    with pytest.raises(StoreError, match="stands where it does not belong"):
        read_checkpoint(other)


def test_the_course_of_each_is_told_as_before():
    _, result = fitted()
    assert result.steps.tolist() == [one.n_steps for one in result]
    levels = result.course.last_levels()
    assert np.allclose(levels, [one.log_likelihood for one in result])


VICTIM = """
    import sys, time, torch
    torch.set_num_threads(1)
    from tests.checkpoint.test_many import fitted
    from torchgmm import Checkpoint
    from torchgmm.fitting import Observer

    class Tell(Observer):
        def on_step(self, event):
            print(event.run, event.number, flush=True)
            time.sleep(0.02)

    fitted(n_init=1000, observers=[Checkpoint(sys.argv[1], 0), Tell()])
"""


@pytest.mark.slow
def test_a_batch_killed_at_any_moment_goes_on(tmp_path):
    resume = killed(VICTIM, tmp_path / "fit.safetensors", tells("2", "3"))
    assert resume.run >= 2
    runs = resume.run + 1
    assert_same_fit(fitted(n_init=runs, resume=resume), fitted(n_init=runs))
