"""Lightning: the real trainer, with the callback and with the module."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.cases import blobs
from torchgmm import EM, GaussianMixture, InputError, Tolerance
from torchgmm.errors import NotSizedError

try:
    import lightning.pytorch as pl
except ImportError:
    pl = None

needs_it = pytest.mark.skipif(pl is None, reason="lightning is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*can be a bottleneck"),
]


def test_without_the_package_the_extra_is_named():
    code = (
        "import sys; sys.modules['lightning'] = sys.modules['lightning.pytorch'] = None\n"
        "import torchgmm as tg\n"
        "from torchgmm.lightning import LatentMixture, MixtureModule\n"
        "for make in (LatentMixture, MixtureModule):\n"
        "    try: make(tg.GaussianMixture(2, 2))\n"
        "    except tg.TorchGMMError as e: print(isinstance(e, ImportError), e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("LatentMixture", "MixtureModule"), strict=True):
        assert line.startswith(f"True a {name} needs the package 'lightning'")
        assert ".[lightning]" in line


def rows(n=240, seed=0):
    return blobs(n, d=6, k=3, seed=seed, dtype=torch.float32)


def loader(n=240, seed=0, shuffle=False, **options):
    x = rows(n, seed)
    return DataLoader(TensorDataset(x, torch.arange(n)), 64, shuffle=shuffle, **options)


def autoencoder(seed=0):
    class Autoencoder(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.Linear(8, 2))
            self.decoder = nn.Linear(2, 6)

        def encode(self, x):
            return self.encoder(x)

        def forward(self, x):
            return self.encode(x)

        def training_step(self, batch, batch_idx):
            x = batch[0]
            return (self.decoder(self.encoder(x)) - x).square().mean()

        def validation_step(self, batch, batch_idx):
            self.training_step(batch, batch_idx)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    torch.manual_seed(seed)
    return Autoencoder()


def trainer(tmp_path, *callbacks, **options):
    options = {"max_epochs": 2, "enable_checkpointing": False, **options}
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **options,
    )


def latents(module, x):
    module.eval()
    with torch.no_grad():
        return module.encoder(x)


# the callback -----------------------------------------------------------------------------------


@needs_it
@pytest.mark.parametrize("stage", ["train", "validation"])
@pytest.mark.parametrize("encode", [None, "encode", lambda module, batch: module.encode(batch[0])])
def test_the_mixture_is_that_of_the_latents(tmp_path, stage, encode):
    from torchgmm.lightning import LatentMixture

    callback = LatentMixture(GaussianMixture(3), encode=encode, stage=stage, seed=4)
    module, run = autoencoder(), trainer(tmp_path, callback)
    run.fit(module, loader(), loader(seed=1))
    x, other = latents(module, rows()), latents(module, rows(seed=1))
    expected = GaussianMixture(3)
    expected.fit(x, generator=4)
    for ours, theirs in zip(callback.mixture.parameters(), expected.parameters(), strict=True):
        # batches of another size may be encoded with another rounding
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert callback.result.n_steps > 0
    logged = run.callback_metrics
    fitted, held_out = expected.score(x), expected.score(other)
    torch.testing.assert_close(logged["mixture_log_likelihood"], fitted, rtol=1e-3, atol=1e-3)
    found = logged["mixture_held_out_log_likelihood"]
    torch.testing.assert_close(found, held_out, rtol=1e-3, atol=1e-3)


@needs_it
def test_training_does_not_notice(tmp_path):
    from torchgmm.lightning import LatentMixture

    found = []
    for watched in (False, True):
        module = autoencoder()
        run = trainer(tmp_path, *[LatentMixture(GaussianMixture(2))] * watched)
        torch.manual_seed(7)  # of the shuffling and of dropout
        run.fit(module, loader(shuffle=True), loader(seed=1))
        assert all(part.training for part in module.modules())
        found.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*found)


@needs_it
def test_it_fits_after_every_so_many_epochs_and_can_go_on(tmp_path):
    from torchgmm.lightning import LatentMixture

    starts = []

    class Watched(LatentMixture):
        def _latents(self, trainer, module, loaders):
            starts.append((trainer.current_epoch, self.mixture.is_sized))
            return super()._latents(trainer, module, loaders)

    callback = Watched(GaussianMixture(2), every=2, warm_start=True, method=EM(max_iter=3))
    trainer(tmp_path, callback, max_epochs=5).fit(autoencoder(), loader())
    assert starts == [(1, False), (3, True)]  # no held-out rows: one pass each
    assert "generator" not in callback.options
    assert callback.result.n_steps <= 3


@needs_it
def test_other_rows_may_be_given(tmp_path):
    from torchgmm.lightning import LatentMixture

    own, held_out = [rows(100, seed=5), rows(50, seed=6)], [rows(30, seed=8)]
    callback = LatentMixture(
        GaussianMixture(2),
        rows=own,
        held_out=held_out,
        max_rows=120,
        name="z",
        stop=Tolerance(1e-6),
    )
    module, run = autoencoder(), trainer(tmp_path, callback)
    run.fit(module, loader(), loader(seed=1))
    expected = callback.mixture.score(latents(module, torch.cat(own)[:120]))
    torch.testing.assert_close(run.callback_metrics["z_log_likelihood"], expected)
    expected = callback.mixture.score(latents(module, held_out[0]))
    torch.testing.assert_close(run.callback_metrics["z_held_out_log_likelihood"], expected)


@needs_it
def test_it_is_part_of_the_checkpoints_which_may_watch_it(tmp_path):
    from torchgmm.lightning import LatentMixture

    metric = "mixture_held_out_log_likelihood"
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor=metric, mode="max")
    callback = LatentMixture(GaussianMixture(2), stage="validation", seed=1)
    run = trainer(tmp_path, callback, best, enable_checkpointing=True, max_epochs=1)
    run.fit(autoencoder(), loader(), loader(seed=1))
    assert best.best_model_path
    again = LatentMixture(GaussianMixture(2), stage="validation", seed=1, every=10)
    other = trainer(tmp_path, again, max_epochs=2)
    other.fit(autoencoder(), loader(), loader(seed=1), ckpt_path=best.best_model_path)
    for one, two in zip(callback.mixture.parameters(), again.mixture.parameters(), strict=True):
        assert torch.equal(one, two)


@needs_it
def test_a_loader_with_lasting_workers_is_not_disturbed(tmp_path):
    from torchgmm.lightning import LatentMixture

    callback = LatentMixture(GaussianMixture(2), stage="validation")
    seen = []

    class Counting(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append(batch[1])

    train = loader(num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    run = trainer(tmp_path, callback, Counting(), max_epochs=1, val_check_interval=2)
    run.fit(autoencoder(), train, loader(seed=1))
    assert torch.equal(torch.cat(seen), torch.arange(240))  # every row once, in order
    assert callback.result is not None


@needs_it
def test_what_is_no_latent_is_refused(tmp_path):
    from torchgmm.lightning import LatentMixture

    for encode, message in (
        (lambda module, batch: batch[0].unsqueeze(1), r"shape \(64, 1, 6\)"),
        (lambda module, batch: (batch[0],), r"latents must be a tensor \(n, D\), got \("),
    ):
        callback = LatentMixture(GaussianMixture(2), encode=encode)
        with pytest.raises(InputError, match=message):
            trainer(tmp_path, callback).fit(autoencoder(), loader())
    with pytest.raises(InputError, match="no batches to encode"):
        trainer(tmp_path, LatentMixture(GaussianMixture(2), rows=[])).fit(autoencoder(), loader())
    with pytest.raises(InputError, match="stage must be one of train, validation, got 'test'"):
        LatentMixture(GaussianMixture(2), stage="test")
    with pytest.raises(InputError, match="every must be at least 1"):
        LatentMixture(GaussianMixture(2), every=0)


@needs_it
def test_several_processes_are_refused():
    from types import SimpleNamespace

    from torchgmm.lightning import LatentMixture

    with pytest.raises(InputError, match="one process, the trainer has 4"):
        LatentMixture(GaussianMixture(2)).setup(SimpleNamespace(world_size=4), None, "fit")


# the module -------------------------------------------------------------------------------------


@needs_it
@pytest.mark.parametrize(
    ("optimizer", "lr"), [("Adam", 0.05), (torch.optim.SGD, 0.3), ("LBFGS", 0.5)]
)
def test_a_mixture_is_fitted_by_gradients(tmp_path, optimizer, lr):
    from torchgmm.lightning import MixtureModule

    x = rows()
    mixture = GaussianMixture(3, covariance="diagonal")
    mixture.fit(x, EM(max_iter=1), generator=0)
    best = GaussianMixture.from_parameters(mixture.as_parameters())
    best.fit(x, init="current", stop=Tolerance(1e-9))
    mixture.means.data += 0.5
    before = float(mixture.score(x))
    module = MixtureModule(mixture, optimizer=optimizer, lr=lr)
    run = trainer(tmp_path, max_epochs=25)
    run.fit(module, DataLoader(x, len(x)), DataLoader(x, 100))
    assert before < float(best.score(x)) - 0.5
    assert float(mixture.score(x)) > float(best.score(x)) - 0.05
    logged = run.callback_metrics
    torch.testing.assert_close(logged["val_log_likelihood"], mixture.score(x))
    assert float(logged["train_loss"]) < -before


@needs_it
def test_it_scores_and_predicts(tmp_path):
    from torchgmm.lightning import MixtureModule

    x = rows()
    mixture = GaussianMixture(3)
    mixture.fit(x, generator=0)
    module, run = MixtureModule(mixture, rows=lambda batch: batch[0]), trainer(tmp_path)
    found = run.test(module, loader(), verbose=False)
    assert found[0]["test_log_likelihood"] == pytest.approx(float(mixture.score(x)), rel=1e-5)
    labels = torch.cat(run.predict(module, loader()))
    np.testing.assert_array_equal(labels, mixture.predict(x))


@needs_it
def test_settings_that_cannot_be_used_are_refused():
    from torchgmm.lightning import MixtureModule

    with pytest.raises(NotSizedError, match=r"MixtureModule\(\) needs a mixture with known"):
        MixtureModule(GaussianMixture(2))
    for wrong in ("adam", "nn", "lr_scheduler", int, "Optimizers"):
        with pytest.raises(InputError, match=r"must be a class of torch\.optim or its name"):
            MixtureModule(GaussianMixture(2, 2), optimizer=wrong)
