"""Observers: what is said about every step, on a terminal and elsewhere."""

import io
import json
import logging
import re
import time

import pytest
import torch

import torchgmm as tg
from torchgmm.data import ArraySource
from torchgmm.fitting import Observer


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def rows(generator):
    return torch.randn(300, 2, generator=generator)


def test_progress_is_a_line_per_step_where_there_is_no_terminal(rows):
    said = io.StringIO()
    result = tg.GaussianMixture(2).fit(
        rows, tg.EM(max_iter=4), stop=tg.Tolerance(0), generator=0, observers=[tg.Progress(said)]
    )
    lines = said.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("step 1/4: log-likelihood ")
    assert "change" not in lines[0]
    change = result.history[1].log_likelihood - result.history[0].log_likelihood
    assert f"change {change:+.2e}, " in lines[1]
    assert re.search(r", [\d,]+ rows/s, [\d.,e+]+ MB/s$", lines[1])


def test_progress_is_a_bar_on_a_terminal_and_counts_the_runs(rows):
    said = Terminal()
    tg.GaussianMixture(2).fit(
        rows,
        tg.EM(max_iter=3),
        stop=tg.Tolerance(0),
        n_init=2,
        generator=0,
        observers=[tg.Progress(said)],
    )
    frames = said.getvalue().split("\r")
    assert any("seeding" in frame for frame in frames)
    assert "run 2/2" in frames[-1]
    assert "6/6" in frames[-1]
    assert re.search(r"log-likelihood -\d+\.\d{5}, change [+-]", frames[-1])
    assert said.getvalue().endswith("\n")


def test_the_bar_of_a_run_begins_where_the_budget_of_the_one_before_ends(rows):
    said = Terminal()
    tg.GaussianMixture(1).fit(  # one component: at rest after its second step
        rows, tg.EM(max_iter=50), n_init=2, generator=0, observers=[tg.Progress(said)]
    )
    frames = said.getvalue().split("\r")
    assert "run 2/2" in frames[-1]
    assert "52/100" in frames[-1]


def test_the_bar_is_closed_when_an_error_ends_the_fit(rows):
    said = Terminal()
    rows = torch.cat([rows, torch.full((1, 2), torch.nan)])
    with pytest.raises(tg.InputError):
        tg.GaussianMixture(2).fit(rows, init="random", observers=[tg.Progress(said)])
    assert said.getvalue().endswith("\n")


def test_log_lines_come_every_so_many_steps(rows, caplog):
    caplog.set_level(logging.INFO, logger="torchgmm")
    tg.GaussianMixture(2).fit(
        rows,
        tg.EM(max_iter=5),
        stop=tg.Tolerance(0),
        generator=0,
        observers=[tg.LogLines(every=2)],
    )
    said = [record.message for record in caplog.records]
    assert [line.split(":")[0] for line in said] == ["step 2/5", "step 4/5", "BUDGET_SPENT"]


def test_json_lines_hold_every_step(rows, tmp_path):
    file = tmp_path / "steps.jsonl"
    result = tg.GaussianMixture(2).fit(
        rows, tg.EM(max_iter=3), stop=tg.Tolerance(0), generator=0, observers=[tg.JsonLines(file)]
    )
    steps = [json.loads(line) for line in file.read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert [step["rows"] for step in steps] == [300, 300, 300]
    levels = [step.log_likelihood for step in result.history]
    assert [step["log_likelihood"] for step in steps] == levels
    assert steps[0]["change"] is None
    assert steps[2]["change"] == levels[2] - levels[1]


class Writer:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))


def test_tensorboard_gets_scalars_whose_steps_go_on_over_the_runs(rows):
    writer = Writer()
    result = tg.GaussianMixture(2).fit(
        rows,
        tg.EM(max_iter=3),
        stop=tg.Tolerance(0),
        n_init=2,
        generator=0,
        observers=[tg.TensorBoard(writer)],
    )
    levels = [(s, v) for tag, v, s in writer.scalars if tag == "fit/log_likelihood"]
    assert [step for step, _ in levels] == [1, 2, 3, 4, 5, 6]
    assert {levels[2][1], levels[5][1]} == set(result.runs)


# within a step -----------------------------------------------------------------------------------


@pytest.fixture
def _long_steps(monkeypatch):
    """Every block is told, and every step counts as a long one."""
    monkeypatch.setattr("torchgmm.fitting.watch._EVERY", 0.0)
    monkeypatch.setattr("torchgmm.observers._LONG", 0.0)


class Rows(Observer):
    """Keeps what it is told."""

    def __init__(self):
        self.events, self.steps = [], []

    def on_rows(self, event):
        self.events.append(event)

    def on_step(self, event):
        self.steps.append(event)


@pytest.mark.usefixtures("_long_steps")
def test_the_rows_of_a_step_are_told_as_they_are_read(rows):
    told = Rows()
    source = ArraySource(rows, block_rows=100)
    tg.GaussianMixture(2).fit(source, tg.EM(max_iter=2), init="random", observers=[told])
    told_of = {n: [e.rows for e in told.events if e.number == n] for n in (0, 1, 2)}
    assert told_of == {0: [0, 100, 200], 1: [0, 100, 200], 2: [0, 100, 200]}  # 0: the seeding
    last = told.events[-1]
    assert (last.total, last.n_bytes, last.run, last.n_init) == (300, 200 * 2 * 4, 1, 1)
    assert last.seconds > 0
    assert len(last.history) == 1
    assert [event.n_bytes for event in told.steps] == [300 * 2 * 4] * 2
    step = told.steps[0].step
    assert step.rows_per_second == step.rows / step.seconds


@pytest.mark.usefixtures("_long_steps")
def test_bytes_are_those_that_are_stored():
    told = Rows()
    source = ArraySource(torch.arange(600).reshape(300, 2).to(torch.uint8), block_rows=100)
    tg.GaussianMixture(1).fit(source, tg.EM(max_iter=1), init="random", observers=[told])
    assert [event.n_bytes for event in told.steps] == [600]


def test_a_step_is_told_at_most_ten_times_a_second(rows):
    told = Rows()
    source = ArraySource(rows, block_rows=1)
    begun = time.perf_counter()
    tg.GaussianMixture(2).fit(source, tg.EM(max_iter=3), init="random", observers=[told])
    # one more at most per step and seeding, whose clocks begin anew
    assert len(told.events) <= 10 * (time.perf_counter() - begun)


@pytest.mark.usefixtures("_long_steps")
@pytest.mark.parametrize(
    ("method", "total"), [(tg.OnlineEM(max_iter=2, rows_per_step=150), 150), (tg.EM(), 300)]
)
def test_the_rows_of_a_whole_step_are_known(rows, method, total):
    told = Rows()
    source = ArraySource(rows, block_rows=100)
    tg.GaussianMixture(1).fit(source, method, init="random", observers=[told])
    assert {event.total for event in told.events if event.number} == {total}


@pytest.mark.usefixtures("_long_steps")
def test_a_long_step_has_a_bar_of_its_rows(rows):
    said = Terminal()
    source = ArraySource(rows, block_rows=100)
    tg.GaussianMixture(2).fit(
        source,
        tg.EM(max_iter=2),
        stop=tg.Tolerance(0),
        generator=0,
        init="random",
        observers=[tg.Progress(said)],
    )
    frames = re.split(r"[\r\n]", said.getvalue())
    seeding = [frame for frame in frames if frame.startswith("seeding:")]
    second = [frame for frame in frames if frame.startswith("step 2:")]
    assert any("67%" in frame and "200/300" in frame for frame in seeding)
    assert any("67%" in frame and "200/300" in frame for frame in second)
    assert any(re.search(r"row/s, [\d.,e+]+ MB/s\]", frame) for frame in second)
    assert "2/2" in frames[-2]  # the bar of the steps is what stays


def test_a_short_step_has_none(rows, monkeypatch):
    monkeypatch.setattr("torchgmm.fitting.watch._EVERY", 0.0)
    monkeypatch.setattr("torchgmm.observers._LONG", 1e6)
    said = Terminal()
    source = ArraySource(rows, block_rows=100)
    tg.GaussianMixture(2).fit(source, tg.EM(max_iter=2), observers=[tg.Progress(said)])
    assert "step 1:" not in said.getvalue()
    assert "row/s" not in said.getvalue()


@pytest.mark.usefixtures("_long_steps")
def test_where_there_is_no_terminal_a_long_step_is_a_line_still(rows):
    said = io.StringIO()
    source = ArraySource(rows, block_rows=100)
    tg.GaussianMixture(2).fit(
        source, tg.EM(max_iter=2), stop=tg.Tolerance(0), observers=[tg.Progress(said)]
    )
    assert len(said.getvalue().splitlines()) == 2


def test_tensorboard_reads_what_was_written(rows, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = tg.GaussianMixture(2).fit(
        rows,
        tg.EM(max_iter=3),
        stop=tg.Tolerance(0),
        generator=0,
        observers=[tg.TensorBoard(tmp_path / "board")],
    )
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    levels = board.Scalars("fit/log_likelihood")
    assert [event.step for event in levels] == [1, 2, 3]
    expected = [step.log_likelihood for step in result.history]
    assert [event.value for event in levels] == pytest.approx(expected, rel=1e-6)  # float32 there
    assert [event.value for event in board.Scalars("fit/rows")] == [300] * 3
