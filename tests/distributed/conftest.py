"""One job of two processes for all tests of the default suite: to begin one takes seconds."""

import pytest

from tests.distributed import failures, questions, resume, table
from tests.distributed.common import run


def everything(folder):
    """What the tests ask; the last thing breaks the job."""
    return {
        "table": table.compare(folder),
        "gradients": table.parallel_gradients(),
        "levels": table.levels(),
        "questions": questions.compare(),
        "disagree": failures.disagree(),
        "short of memory": failures.short_of_memory(),
        "observers": failures.observers(),
        "drifted": failures.drifted(),
        "cut": resume.cut(folder),
        "cut within": resume.cut_within(folder),
        "within": resume.within(),
        "bad row": failures.bad_row(),
    }


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """What both processes say."""
    folder = tmp_path_factory.mktemp("pair")
    said = run(everything, 2, folder, str(folder))
    for answer in said:
        assert answer is not None, "a process was killed"
        assert "error" not in answer, answer
        answer["folder"] = folder
    return said
