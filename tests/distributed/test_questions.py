"""Questions about rows to many processes: one answer, that of one."""

import pytest

from tests.distributed.questions import ROWS


@pytest.mark.parametrize("name", ROWS)
def test_two_processes_say_what_one_says(name, pair):
    for said in pair:
        # sums of some thousand terms in another order
        assert said["questions"][name]["apart"] < 1e-9
        assert said["questions"][name]["answers"] == pair[0]["questions"][name]["answers"]
