"""What of an ascent is kept: states, checkpoints, configs."""

import pytest
import torch

from tests.cases import blobs
from tests.fitting.gradient.common import fitted
from torchgmm import (
    Gradient,
    InputError,
    Tolerance,
)
from torchgmm.fitting.optimizers import frozen, thawed


def test_state_dicts_become_values_and_come_back():
    state = {
        "state": {0: {"step": torch.tensor(3.0), "old": [torch.ones(2), None]}},
        "param_groups": [{"betas": (0.9, 0.99), "params": [0, 1], "name": "Adam", "on": True}],
    }
    kept = frozen(state)
    assert isinstance(hash_free(kept), tuple)
    back = thawed(kept)
    assert back["param_groups"] == state["param_groups"]
    torch.testing.assert_close(back["state"], state["state"])
    back["state"][0]["old"][0].add_(1)
    assert torch.equal(kept[2][2][4][1], torch.ones(2))  # a copy
    with pytest.raises(InputError, match="holds a function"):
        frozen({"lambda": lambda: 0})


def hash_free(value):
    """No dict and no list anywhere in it: what a checkpoint can hold."""
    assert not isinstance(value, (dict, list))
    if isinstance(value, tuple):
        for part in value:
            hash_free(part)
    return value


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 100, "rows_per_step": 300},
        {"optimizer": "LBFGS", "optimizer_options": {"max_iter": 3}},
        {"batch_size": 250, "scheduler": "CosineAnnealingLR", "annealing": 2},
        {"optimizer": "SGD", "lr": 0.1, "optimizer_options": {"momentum": 0.9}, "clip": 0.1},
    ],
)
def test_a_fit_that_stops_goes_on_bit_for_bit(settings, tmp_path):
    import torchgmm as tg

    path = tmp_path / "fit.safetensors"

    class Cut(tg.fitting.Observer):
        def on_step(self, event):
            if event.number == 2:
                raise KeyboardInterrupt

    method = Gradient(max_iter=5, **settings)
    options = {"init": "random_from_data", "stop": Tolerance(0)}
    whole, result = fitted(method, **options)
    with pytest.raises(KeyboardInterrupt):
        fitted(method, observers=[tg.Checkpoint(path, 0), Cut()], **options)
    again, resumed = fitted(method, resume=tg.read_checkpoint(path), **options)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [s.log_likelihood for s in resumed.history] == [s.log_likelihood for s in result.history]


def test_a_config_names_it(tmp_path, capsys):
    from torchgmm.cli import main

    config = tmp_path / "fit.yaml"
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n" + "\n".join(f"{a:.6f},{b:.6f}" for a, b in blobs(200, 2).tolist()))
    config.write_text(
        f"data: {rows}\n"
        "mixture:\n  n_components: 3\n"
        "method:\n  class_path: Gradient\n  init_args:\n"
        "    optimizer: AdamW\n    lr: 0.05\n    batch_size: 50\n    max_iter: 3\n"
        "    optimizer_options: {weight_decay: 0.0}\n"
        "    scheduler: CosineAnnealingLR\n    clip: 1.0\n    annealing: 1\n"
        f"out: {tmp_path / 'run'}\npicture: none\n"
    )
    assert main(["fit", str(config)]) == 0
    assert "AdamW" in (tmp_path / "run" / "config.yaml").read_text()
    assert main(["fit", str(tmp_path / "run" / "config.yaml"), "--method.batch_size", "all"]) == 0
