"""Where a process learns that it is one of several, and what it costs one that is alone."""

import subprocess
import sys

import pytest
import torch

import torchgmm as tg
from torchgmm.collective import ALONE, alone, current, joining, restarts, together
from torchgmm.collective.processes import Processes, digest

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[007-010],login1",
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "", "RANK": ""}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": "4"}, None),
        ({"WORLD_SIZE": "4", "RANK": "2"}, {}),
        (SLURM, None),  # sbatch without srun: one process, whatever the job has
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (
            SLURM | {"SLURM_STEP_NUM_TASKS": "8"},
            {
                "WORLD_SIZE": "8",
                "RANK": "3",
                "LOCAL_RANK": "1",
                "MASTER_ADDR": "gpu007",
                "MASTER_PORT": "24711",
            },
        ),
        (
            SLURM | {"SLURM_STEP_NUM_TASKS": "8", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "99"},
            {
                "WORLD_SIZE": "8",
                "RANK": "3",
                "LOCAL_RANK": "1",
                "MASTER_ADDR": "10.0.0.1",
                "MASTER_PORT": "99",
            },
        ),
    ],
)
def test_the_environment_says_whether_there_are_others(given, expected):
    assert joining._environment(given) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node3", "node3"),
        ("node3,node4", "node3"),
        ("gpu[007-010,12]", "gpu007"),
        ("r1n[2,5]-ib,r2n1", "r1n2-ib"),
        ("localhost", "localhost"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert joining.first_node(nodes) == first


def test_without_others_a_process_is_alone():
    assert current() is ALONE
    assert restarts() == 0
    assert (ALONE.rank, ALONE.size, ALONE.leads, ALONE.share(7)) == (0, 1, True, (0, 7))
    rows = torch.randn(3, 2)
    assert torch.equal(ALONE.sum([rows])[0], rows)
    assert torch.equal(ALONE.stacked(rows), rows)
    assert ALONE.total(1.0, 2.0) == [1.0, 2.0]
    assert (ALONE.texts("a"), ALONE.bytes_of_first(b"b")) == (["a"], b"b")
    with alone():
        assert current() is ALONE


def test_calls_that_are_made_together_keep_their_names_and_errors():
    @together
    def call(a, *, b=1):
        """Words."""
        if b < 0:
            raise ValueError("negative")
        return a + b

    assert (call.__name__, call.__doc__, call(1), call(1, b=2)) == ("call", "Words.", 2, 3)
    with pytest.raises(ValueError, match="negative"):
        call(1, b=-1)


def test_a_digest_sees_every_bit_and_every_place():
    x = torch.randn(4, 5, dtype=torch.float64)
    seen = {digest([x]), digest([x.mT.contiguous()]), digest([x.flatten().flip(0)])}
    for i in range(x.numel()):
        other = x.clone()
        other.view(-1)[i] = torch.nextafter(other.view(-1)[i], torch.tensor(9.0).double())
        seen.add(digest([other]))
    assert len(seen) == 3 + x.numel()
    assert digest([x]) == digest([x.clone()])
    assert digest([x, x[:1]]) != digest([x[:1], x])
    assert 0 <= digest([x]) < 2**48


class Late:
    """A sum whose wait runs out at the moment in which it is done, or has failed."""

    def __init__(self, failure):
        self.failure = failure

    def wait(self, patience=None):
        if patience is not None:
            raise RuntimeError("Operation timed out!")
        if self.failure:
            raise RuntimeError(self.failure)

    def is_completed(self):
        return True


def test_what_comes_at_the_last_moment_has_come():
    assert Processes._done(Late(""), on_cuda=False)
    with pytest.raises(RuntimeError, match="broke"):
        Processes._done(Late("it broke"), on_cuda=False)


@pytest.mark.parametrize("said", ["", "soon", "-1", "0"])
def test_a_time_out_is_seconds(said, monkeypatch):
    monkeypatch.setenv("TORCHGMM_TIMEOUT", said)
    with pytest.raises(tg.InputError, match="TORCHGMM_TIMEOUT must be seconds above 0"):
        joining._patience()


@pytest.mark.slow
def test_a_process_alone_loads_nothing_of_the_network():
    code = (
        "import sys, torch, torchgmm as tg\n"
        "tg.GaussianMixture(1).fit(torch.randn(50, 2))\n"
        "print([name for name in sys.modules if name.startswith('torchgmm.collective')])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torchgmm.collective.processes" not in out.stdout
    assert "torchgmm.collective.group" in out.stdout
