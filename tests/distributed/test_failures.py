"""What one process does wrong, all say; nothing hangs."""

import re

import pytest

from tests.distributed import failures
from tests.distributed.common import run

WORDS = {
    "sizes": "disagree on the shape of the rows: process 0 has 500 x 2 .* process 1 has 501 x 2",
    "rows": "disagree on the first rows: .*OwnRows",
    "kinds": "disagree on whose rows they are given: process 0 has its own, process 1 has those of",
    "widths": "the rows of process 1 are 2 float64 .* those of others 1 float64",
    "no rows": "no process has any rows",
    "methods": r"disagree on the method: process 0 has EM\(max_iter=5.* has EM\(max_iter=6",
    "components": "disagree on the mixture: process 0 has 2 full .*, process 1 has 3 full",
    "shuffling": "would shuffle this loader in its own way: give it a DistributedSampler",
    "sampler": "the DistributedSampler is for process 0 of 3",
    "blocks": "incremental EM .* rows of its own",
}


@pytest.mark.parametrize("name", WORDS)
def test_processes_that_disagree_say_on_what(pair, name):
    for said in pair:
        text = said["disagree"][name]
        assert text is not None
        assert re.search(WORDS[name], text), text


def test_what_the_first_process_draws_counts(pair):
    first, second = (said["disagree"] for said in pair)
    assert first["then"] == second["then"]
    assert first["drawn"] == second["drawn"]


def test_processes_with_chunks_of_different_size_hold_the_same_mixture(pair):
    first, second = (said["short of memory"] for said in pair)
    assert first == second


def test_only_the_first_process_tells_observers_and_warns(pair):
    assert [said["observers"] for said in pair] == [[2, 1], [0, 0]]


@pytest.mark.slow
def test_a_group_of_one_process_is_alone(tmp_path):
    assert run(failures.solo, 1, tmp_path) == [[1, 0]]


def test_an_error_in_one_process_is_shown_by_all(pair):
    first, second = (said["bad row"] for said in pair)
    assert second[0] == "InputError"
    assert "row 400" in second[1]
    assert first[0] == "PeerError"
    assert first[1].startswith("process 1 failed: InputError: ")
    assert "row 400" in first[1]


@pytest.mark.slow
def test_a_process_that_is_killed_is_named(tmp_path):
    answers = run(failures.killed, 3, tmp_path)
    assert answers.pop(1) is None
    for kind, text in answers:
        assert kind == "PeerError"
        # a third process that is slow to say that it lives is named too
        assert re.fullmatch(r"process(es)? (0, )?1(, 2)? ended without a word: killed.*", text)


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named(tmp_path):
    first, second = run(failures.asleep, 2, tmp_path, patience=6)
    assert first[0] == "PeerError"
    assert first[1].startswith("no word from process 1 for 6 s")
    assert second is None or second[0] == "PeerError"


def test_processes_that_hold_other_parameters_notice(pair):
    for kind, text in (said["drifted"] for said in pair):
        assert kind == "PeerError"
        assert "no longer hold the same mixture" in text
