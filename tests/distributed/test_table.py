"""Many processes give the answer of one: every family, method, start and source."""

import pytest

from tests.distributed import table
from tests.distributed.common import run

_found = {}
NAMES = table.names()


def check(answers):
    first = answers[0]
    assert first["distance"] < 1e-10
    assert first["level"] < 1e-10
    assert first["steps"][0] == first["steps"][1]
    assert first["rows"]
    assert {other["digest"] for other in answers} == {first["digest"]}  # the same bits in all


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_the_answer_of_one(name, pair):
    check([said["table"][name] for said in pair])


@pytest.mark.slow
@pytest.mark.parametrize("world", [3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_so_do_others(name, world, tmp_path_factory):
    if world not in _found:
        folder = tmp_path_factory.mktemp("others")
        _found[world] = run(table.compare, world, folder, str(folder))
    for said in _found[world]:
        assert said is not None
        assert "error" not in said, said
    check([said[name] for said in _found[world]])


@pytest.mark.parametrize("name", table.streams())
def test_rows_of_their_own_by_batches_reach_what_exact_em_does(name, pair):
    for said in pair:
        assert said["levels"][name] > said["levels"]["em"] - 0.02
        assert said["levels"][name] == pair[0]["levels"][name]


def test_a_mixture_trains_in_data_parallel(pair):
    assert all(said["gradients"] < 1e-10 for said in pair)


def test_bytes_of_a_step_are_those_of_the_packed_moments(pair):
    k, d = 3, 3
    # n_k, first and half of the second moments; log-likelihood, weight, two counts; the digest
    packed = 8 * (k * (1 + d + d * (d + 1) // 2) + 4 + 2)
    for said in pair:
        assert set(said["table"]["em-full"]["n_bytes"]) == {packed}


def test_a_shared_m_step_sends_half_of_the_factors_too(pair):
    k, d = 5, 300
    packed = 8 * (k * (1 + d + d * (d + 1) // 2) + 4 + 2)
    factors = 8 * k * (d * (d + 1) // 2 + 1)
    for said in pair:
        assert set(said["table"]["shared-m-step"]["n_bytes"]) == {packed + factors}


def test_a_process_alone_sends_nothing(pair):
    assert all(said["table"]["em-full"]["alone"] == 0 for said in pair)


def test_a_rerun_gives_the_same_bits(pair):
    assert all(said["table"]["em-full"]["again"] for said in pair)
