"""The notebooks as they are stored: executed from start to end, with their pictures, no noise."""

import json
import re

import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request):
    return json.loads(request.param.read_text(encoding="utf-8"))["cells"]


def code(cells):
    return [(cell, "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def test_there_are_some():
    assert len(NOTEBOOKS) > 5


def test_it_was_executed_from_start_to_end(cells):
    counts = [cell["execution_count"] for cell, _ in code(cells)]
    assert counts == list(range(1, len(counts) + 1))


def test_its_outputs_are_neither_errors_nor_warnings(cells):
    for cell, source in code(cells):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", source
            assert output.get("name") != "stderr", source


def test_every_figure_is_stored(cells):
    # executed with a backend that shows nothing, the pictures would be lost without a word
    for cell, source in code(cells):
        drawn = len(re.findall(r"^\s*fig\w*,.*= plt\.subplots\(", source, re.MULTILINE))
        stored = sum("image/png" in output.get("data", {}) for output in cell["outputs"])
        assert stored >= min(drawn, 1), source


def test_its_formulas_have_single_backslashes(cells):
    for cell in cells:
        if cell["cell_type"] == "markdown":
            assert "\\\\" not in "".join(cell["source"])


def test_it_ends_with_assertions_about_what_it_says(cells):
    assert any("assert " in source for _, source in code(cells))
