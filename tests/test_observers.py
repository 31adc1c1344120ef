"""Observers: what is said about every step, on a terminal and elsewhere."""

import io
import json
import logging
import re

import pytest
import torch

import torchgmm as tg


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
    assert re.search(r", [\d,]+ rows/s$", lines[1])


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
