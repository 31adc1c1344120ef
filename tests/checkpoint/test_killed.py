"""SIGKILL at any moment: the last checkpoint is whole, and the fit goes on bit for bit."""

import signal
import subprocess
import sys
import textwrap
import time

from tests.checkpoint.common import FITS, X, assert_same_fit, fitted, whole
from tests.conftest import ROOT
from tests.laws.test_blocks import Cut
from torchgmm import OnlineEM, read_checkpoint

# killed ------------------------------------------------------------------------------------------

VICTIM = """
    import sys, time, torch
    torch.set_num_threads(1)
    from tests.checkpoint.common import FITS, X, fitted
    from torchgmm import Checkpoint
    from torchgmm.fitting import Observer

    class Tell(Observer):
        def on_step(self, event):
            print(event.run, event.number, flush=True)
            time.sleep(0.01)

    fitted(FITS["online in pieces"], n_init=1000, observers=[Checkpoint(sys.argv[1], 0), Tell()])
"""


def test_a_fit_killed_at_any_moment_goes_on_bit_for_bit(tmp_path):
    path = tmp_path / "fit.safetensors"
    command = [sys.executable, "-c", textwrap.dedent(VICTIM), str(path)]
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout is not None
        for line in victim.stdout:
            if line.split() == ["2", "2"]:
                break
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait(timeout=30)
    assert victim.returncode == -signal.SIGKILL
    resume = read_checkpoint(path)
    assert (resume.run, len(resume.history)) >= (2, 2)
    runs = resume.run + 1
    name = "online in pieces"
    assert_same_fit(fitted(FITS[name], n_init=runs, resume=resume), whole(name, n_init=runs))


WITHIN = """
    import sys, time, torch
    torch.set_num_threads(1)
    from tests.checkpoint.test_killed import ONE_PASS, Slow
    from tests.checkpoint.common import fitted
    from torchgmm import Checkpoint

    fitted(ONE_PASS, Slow(0.1), observers=[Checkpoint(sys.argv[1], 0)])
"""
ONE_PASS = OnlineEM(max_iter=1)


class Slow(Cut):
    """A pass over it takes a while."""

    def __init__(self, seconds=0.0):
        super().__init__(X, [2] * 200)
        self.seconds = seconds

    def batches(self, rows, *, seed, epoch, skip=0):
        for block in super().batches(rows, seed=seed, epoch=epoch, skip=skip):
            time.sleep(self.seconds)
            yield block


def test_a_fit_killed_in_its_only_pass_goes_on_bit_for_bit(tmp_path):
    path = tmp_path / "fit.safetensors"
    command = [sys.executable, "-c", textwrap.dedent(WITHIN), str(path)]
    victim = subprocess.Popen(command, cwd=ROOT)
    try:
        while not path.exists():  # a second after the beginning; the pass takes twenty
            assert victim.poll() is None, "the fit ended before it was killed"
            time.sleep(0.01)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait(timeout=30)
    assert victim.returncode == -signal.SIGKILL
    resume = read_checkpoint(path)
    assert resume.history == ()
    assert 0 < resume.state.position < 200
    got = fitted(ONE_PASS, Slow(), resume=resume)
    assert_same_fit(got, fitted(ONE_PASS, Slow()))
