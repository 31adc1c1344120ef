"""A fit that a job left is finished by a job of another size, with the answer of neither cut."""

import pytest
import torch

import torchgmm as tg
from tests.distributed import resume
from tests.distributed.common import run


def same(found, expected):
    wanted = (expected.log_weights, expected.means, expected.scale)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(torch.as_tensor(one, dtype=torch.float64), other, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def alone(pair):
    """Fits of two processes, finished by one."""
    return resume.resumed(pair[0]["folder"], 2)


@pytest.mark.parametrize("name", resume.METHODS)
def test_one_process_goes_on_where_two_left(name, alone):
    same(alone[name], resume.fitted(name, resume.WHOLE))


def test_two_go_on_where_one_left_within_a_step(pair):
    for said in pair:
        same(said["within"], resume.fitted("em", resume.WHOLE))


@pytest.mark.parametrize("name", ["em", "squarem"])
def test_two_go_on_within_the_step_that_they_left(pair, name):
    for said in pair:
        whole, resumed = said["cut within"][name]
        assert resumed == whole  # to the last bit
        same(resumed, resume.fitted(name, resume.WHOLE))


@pytest.mark.parametrize("name", ["em", "squarem"])
def test_one_goes_on_where_two_left_within_a_step(pair, name):
    file = pair[0]["folder"] / f"cut-{name}.safetensors"
    going_on = {"resume": tg.read_checkpoint(file)}
    p = resume.fitted(name, resume.WHOLE, **going_on)
    same((p.log_weights, p.means, p.scale), resume.fitted(name, resume.WHOLE))


@pytest.mark.slow
def test_three_go_on_where_two_left(pair, tmp_path):
    for said in run(resume.resumed, 3, tmp_path, str(pair[0]["folder"]), 2):
        assert "error" not in said, said
        for name in resume.METHODS:
            same(said[name], resume.fitted(name, resume.WHOLE))
