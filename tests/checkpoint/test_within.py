"""A fit that is cut in the middle of a pass goes on from there, bit for bit."""

import dataclasses
import itertools

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.checkpoint.common import FITS, X, assert_same_fit, every_method, fitted
from tests.laws.test_blocks import Cut
from torchgmm import EM, Checkpoint, InputError, OnlineEM, read_checkpoint
from torchgmm.data import ArraySource
from torchgmm.fitting import Observer, StepSums

SIZES = [50] * 8


@pytest.fixture(autouse=True)
def _at_every_block(monkeypatch):
    """Observers are told between any two blocks, and the checkpoint is written each time."""
    monkeypatch.setattr("torchgmm.fitting.watch._EVERY", 0.0)
    monkeypatch.setattr("torchgmm.checkpoint._WITHIN", 0.0)


class Stop(Observer):
    """Ctrl-C once so many blocks of a certain step are learnt."""

    def __init__(self, run, number, blocks):
        self.where, self.left = (run, number), blocks

    def on_rows(self, event):
        if event.state is not None and (event.run, event.number) == self.where:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def cut_within(path, method, *where, **options):
    """A fit that Ctrl-C ends there; what is left is its checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        fitted(method, observers=[Checkpoint(path, 0), Stop(*where)], **options)
    return read_checkpoint(path)


def blocks_of(x=X, weights=None):
    """Eight blocks of fifty rows, whatever the method asks for."""
    return Cut(x, SIZES, weights)


@every_method
@pytest.mark.parametrize("where", [(1, 1, 2), (1, 2, 1), (2, 4, 2)])
def test_a_fit_cut_within_a_pass_goes_on_as_if_it_had_not_been_cut(name, where, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    resume = cut_within(path, method, *where, x=blocks_of(), n_init=2)
    assert (resume.run, len(resume.history) + 1) == where[:2]
    assert resume.state.sums.rows == 50 * where[2]
    assert resume.seconds > 0
    got = fitted(method, blocks_of(), n_init=2, resume=resume, generator=99)
    assert_same_fit(got, fitted(method, blocks_of(), n_init=2))


def test_the_time_before_the_cut_counts(tmp_path):
    resume = cut_within(tmp_path / "f", EM(max_iter=2), 1, 1, 3, x=blocks_of())
    assert 0 < resume.seconds < 100
    resume = dataclasses.replace(resume, seconds=resume.seconds + 1e4)
    first, second = fitted(EM(max_iter=2), blocks_of(), resume=resume)[1].history
    assert first.seconds > 1e4 > second.seconds
    assert first.rows_per_second == first.rows / first.seconds


@every_method
@pytest.mark.parametrize("family", ["tied", "diagonal"])
def test_so_does_one_in_float32_that_is_cut_again_and_again(name, family, tmp_path):
    method, path = FITS[name], tmp_path / "fit.safetensors"
    options = {"family": family, "dtype": torch.float32, "x": blocks_of(X.float())}
    resume = None
    for number, blocks in ((1, 2), (2, 1), (2, 1), (4, 2)):
        resume = cut_within(path, method, 1, number, blocks, resume=resume, **options)
    assert_same_fit(fitted(method, resume=resume, **options), fitted(method, **options))


@every_method
def test_blocks_without_weight_do_not_shift_the_place(name, tmp_path):
    # the reader leaves them out, and must find its place nevertheless
    w = torch.ones(400, dtype=torch.float64)
    w[:50] = w[100:200] = 0
    method, path = FITS[name], tmp_path / "fit.safetensors"
    options = {"x": blocks_of(weights=w)}
    resume = cut_within(path, method, 1, 2, 1, **options)
    assert_same_fit(fitted(method, resume=resume, **options), fitted(method, **options))


@pytest.mark.parametrize("blocks", range(1, 8))
def test_exact_em_over_an_array_may_be_cut_after_every_block(blocks, tmp_path):
    source, path = ArraySource(X, block_rows=50), tmp_path / "fit.safetensors"
    resume = cut_within(path, EM(max_iter=3), 1, 2, blocks, x=source)
    assert resume.state.position == blocks
    got = fitted(EM(max_iter=3), source, resume=resume)
    assert_same_fit(got, fitted(EM(max_iter=3), source))


@pytest.mark.parametrize("forget", [None, 300.0])
def test_so_may_online_em_in_the_order_that_it_reads(forget, tmp_path):
    method = OnlineEM(max_iter=3, batch_size=64, forget=forget)
    resume = cut_within(tmp_path / "f", method, 1, 2, 3)
    assert resume.state.position == 3
    assert_same_fit(fitted(method, resume=resume), fitted(method))


class Breaking(Cut):
    """Its last blocks cannot be read until it is mended."""

    broken = True

    def blocks(self, *, skip=0):
        for number, block in enumerate(super().blocks(skip=skip), skip):
            if self.broken and number == 6:
                raise InputError("rows 300..349 of shard-6 cannot be read")
            yield block


@every_method
def test_an_error_in_the_first_pass_leaves_what_was_learnt(name, tmp_path):
    method, path, source = FITS[name], tmp_path / "fit.safetensors", Breaking(X, SIZES)
    start = fitted(EM(max_iter=0), blocks_of())[1].parameters
    with pytest.raises(InputError, match="shard-6"):
        # every= is long: it is the end that writes
        fitted(method, source, init=start, observers=[Checkpoint(path, every=1e6)])
    resume = read_checkpoint(path)
    assert resume.state.position == 6
    assert sum(step.rows for step in resume.history) + resume.state.sums.rows == 300
    source.broken = False
    got = fitted(method, source, init=start, resume=resume)
    assert_same_fit(got, fitted(method, blocks_of(), init=start))


def test_the_time_between_writes_counts_within_a_step_too(tmp_path, monkeypatch):
    now, written, path = [0.0], [], tmp_path / "fit.safetensors"
    monkeypatch.setattr("torchgmm.checkpoint.time.monotonic", lambda: now[0])

    class Clock(Observer):
        def on_rows(self, event):
            if event.state is not None:
                written.append(read_checkpoint(path).state.position if path.exists() else None)
                now[0] += 25

    method = EM(max_iter=1)
    fitted(method, blocks_of(), observers=[Checkpoint(path, every=60), Clock()])
    # told at 0, 25, ... seconds, after 1, 2, ... blocks: written at 75 and 150
    assert written == [None, None, None, 4, 4, 4, 7]


def test_a_loader_that_shuffles_has_no_place_to_go_on_from(tmp_path):
    loader = DataLoader(TensorDataset(X), batch_size=50, shuffle=True)
    told = []

    class Told(Observer):
        def on_rows(self, event):
            told.append(event.state)

    method, path = OnlineEM(max_iter=2, batch_size=50), tmp_path / "fit.safetensors"
    with pytest.warns(UserWarning, match=r"another order of its rows .* shuffle=False"):
        fitted(method, loader, observers=[Checkpoint(path, 0), Told()])
    assert len(told) >= 16
    assert set(told) == {None}
    assert read_checkpoint(path).state.sums == StepSums()


@every_method
def test_a_step_taken_from_its_middle_is_the_step(name):
    """The states that a method names are states: each of them leads to the same end."""
    states = []

    class Keep(Observer):
        def on_rows(self, event):
            if event.state is not None and event.number == 2:
                states.append(event.state)

    from torchgmm.checkpoint import Resumption

    generator = torch.Generator().manual_seed(0).get_state()
    method = dataclasses.replace(FITS[name], max_iter=2)
    expected = fitted(method, blocks_of(), observers=[Keep()])
    assert len(states) >= 2
    first = expected[1].history[:1]
    for state in itertools.islice(states, 0, None, 3):
        resume = Resumption(1, state, first, None, generator)
        assert_same_fit(fitted(method, blocks_of(), resume=resume), expected)
