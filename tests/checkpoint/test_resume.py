"""A fit that is cut off goes on bit for bit."""

import dataclasses

import pytest
import torch

from tests.cases import FAMILIES
from tests.checkpoint.common import (
    FITS,
    Watch,
    X,
    assert_same_fit,
    cut,
    every_method,
    fitted,
    whole,
)
from tests.contracts.test_method import assert_same, tensors
from torchgmm import EM, Checkpoint, GaussianMixture, OnlineEM, Status, Tolerance, read_checkpoint


@every_method
@pytest.mark.parametrize("where", [(1, 5), (2, 2), (3, 4)])
def test_a_fit_goes_on_as_if_it_had_not_been_cut(name, where, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    resume = cut(path, method, *where, n_init=3)
    assert resume.run == where[0]
    assert len(resume.history) == where[1]
    # the generator's state is the checkpoint's, whatever is handed in
    got = fitted(method, n_init=3, resume=resume, generator=99)
    assert_same_fit(got, whole(name, n_init=3))


@every_method
@pytest.mark.parametrize("family", FAMILIES)
def test_so_does_one_of_any_family_in_float32(name, family, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    options = {"family": family, "dtype": torch.float32, "x": X.float()}
    resume = cut(path, method, 1, 3, **options)
    assert_same_fit(fitted(method, resume=resume, **options), fitted(method, **options))


@every_method
def test_a_fit_may_be_cut_at_every_step(name, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    resume = None
    for number in range(1, 6):
        resume = cut(path, method, 1, number, resume=resume)
    assert_same_fit(fitted(method, resume=resume), whole(name))


@every_method
def test_a_checkpoint_holds_the_whole_state(name, tmp_path):
    resume = cut(tmp_path / "fit.safetensors", FITS[name], 1, 3)
    third = Watch()
    fitted(dataclasses.replace(FITS[name], max_iter=3), observers=[third])
    assert type(resume.state) is type(third.event.state)
    assert_same(tensors(resume.state), tensors(third.event.state))
    assert resume.history == tuple(
        dataclasses.replace(step, seconds=own.seconds)
        for step, own in zip(third.event.history, resume.history, strict=True)
    )


def test_a_budget_that_was_spent_is_raised_by_going_on(tmp_path):
    path = tmp_path / "fit.safetensors"
    _, short = fitted(EM(max_iter=4), observers=[Checkpoint(path, 0)])
    assert short.status is Status.BUDGET_SPENT
    resume = read_checkpoint(path)
    assert_same_fit(fitted(EM(max_iter=9), resume=resume), fitted(EM(max_iter=9)))
    assert_same_fit(fitted(EM(max_iter=4), resume=resume), fitted(EM(max_iter=4)))


def test_a_fit_that_had_ended_makes_no_step_more(tmp_path):
    path = tmp_path / "fit.safetensors"
    first = fitted(EM(), stop=Tolerance(1e-3), observers=[Checkpoint(path, 0)])
    assert first[1].status is Status.CONVERGED
    again = fitted(EM(), stop=Tolerance(1e-3), resume=read_checkpoint(path))
    assert_same_fit(again, first)
    assert again[1].seconds == first[1].seconds  # nothing was computed


def test_a_stream_that_had_ended_has_ended(tmp_path):
    path = tmp_path / "fit.safetensors"
    options = {"init": GaussianMixture(3, 2, dtype=torch.float64).as_parameters()}
    first = fitted(OnlineEM(), iter(X.split(50)), observers=[Checkpoint(path, 0)], **options)
    assert first[1].status is Status.ENDED
    assert_same_fit(fitted(OnlineEM(), iter(X.split(50)), resume=read_checkpoint(path)), first)
