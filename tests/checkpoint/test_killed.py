"""SIGKILL at any moment: the last checkpoint is whole, and the fit goes on bit for bit."""

import time

from tests.checkpoint.common import FITS, X, assert_same_fit, fitted, killed, tells, whole
from tests.laws.test_blocks import Cut
from torchgmm import OnlineEM

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
    resume = killed(VICTIM, tmp_path / "fit.safetensors", tells("2", "2"))
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

    def written(victim):
        while not path.exists():  # a second after the beginning; the pass takes twenty
            assert victim.poll() is None, "the fit ended before it was killed"
            time.sleep(0.01)

    resume = killed(WITHIN, path, written)
    assert resume.history == ()
    assert 0 < resume.state.position < 200
    got = fitted(ONE_PASS, Slow(), resume=resume)
    assert_same_fit(got, fitted(ONE_PASS, Slow()))
