"""Many processes give the answer of one: every family, method, start and source."""

import tempfile
from pathlib import Path

import pytest

from tests.distributed import table
from tests.distributed.common import run

_found = {}


def _names():
    with tempfile.TemporaryDirectory() as folder:
        return list(table.fits(Path(folder)))


def answers(world, folder):
    """What every process of a job says; one job for all tests, as to begin one takes long."""
    if world not in _found:
        _found[world] = run(table.compare, world, folder, str(folder))
        assert all(_found[world]), "a process was killed"
        for said in _found[world]:
            assert "error" not in said, said
    return _found[world]


def check(name, world, folder):
    said = [answer[name] for answer in answers(world, folder)]
    first = said[0]
    assert first["distance"] < 1e-10
    assert first["level"] < 1e-10
    assert first["steps"][0] == first["steps"][1]
    assert first["rows"]
    assert {other["digest"] for other in said} == {first["digest"]}  # the same bits in all


@pytest.mark.parametrize("name", _names())
def test_two_processes_give_the_answer_of_one(name, tmp_path_factory):
    check(name, 2, tmp_path_factory.getbasetemp())


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 3, 4])
@pytest.mark.parametrize("name", _names())
def test_so_do_others(name, world, tmp_path_factory):
    check(name, world, tmp_path_factory.getbasetemp())


def test_bytes_of_a_step_are_those_of_the_packed_moments(tmp_path_factory):
    said = answers(2, tmp_path_factory.getbasetemp())[0]["em-full"]
    k, d = 3, 3
    # n_k, first and second moments; log-likelihood, weight, count; two parts of the digest
    assert set(said["n_bytes"]) == {8 * (k * (1 + d + d * d) + 3 + 2)}
