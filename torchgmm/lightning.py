"""Lightning: a mixture of a module's latents after every epoch, and a mixture fitted by gradients.

Both classes need the package `lightning`, which the extra of that name brings; without it this
module can be imported, and building one of them says what is missing. `import torchgmm` does not
import it: `from torchgmm.lightning import LatentMixture, MixtureModule`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from . import checks
from .errors import InputError, MissingExtraError, NotSizedError
from .fitting import FitResult, Method, fit
from .fitting.optimizers import optimizer_class
from .mixture import GaussianMixture

if TYPE_CHECKING:
    Callback = object

    class LightningModule(nn.Module):
        """What a type checker needs to know of Lightning's, which it need not have."""

        log: Callable[..., None]
else:
    try:
        from lightning.pytorch import Callback, LightningModule
    except ImportError:

        class _Absent:
            """Stands for the classes of a package that is not there."""

            def __init__(self) -> None:
                raise MissingExtraError("lightning", "lightning", f"a {type(self).__name__}")

        Callback = LightningModule = _Absent

__all__ = ["LatentMixture", "MixtureModule"]

_STAGES = ("train", "validation")


class LatentMixture(Callback):
    """Fits a mixture to the latents of the module in training, and logs how well it describes them.

    At the end of an epoch all rows are encoded by the module as it is then, in eval mode and
    without gradients, and the mixture is fitted to them. Two mean log-likelihoods per row are
    logged, in nats: `<name>_log_likelihood` of the rows it was fitted to, and, where there are
    others, `<name>_held_out_log_likelihood` of these. Training goes on as it would without this
    callback: modes and torch's random state are put back. Checkpoints hold the mixture too.

    Args:
        mixture: fitted in place.
        encode: latents `(n, D)` from a batch: the name of a method of the module, or a function of
            the module and the batch. If not given, the module itself is called with the batch,
            or with the first of its members where it is a tuple or a list.
        stage: at the end of which epoch: "train", or "validation", where a checkpoint or early
            stopping that watches the figures of a validation epoch finds them.
        every: only after every so many epochs.
        rows: batches to fit to; the trainer's own training loader if not given.
        held_out: batches to score; the trainer's validation loaders, if it has any and this is
            not given.
        max_rows: at most so many rows of each, the first; all if not given. The latents are held
            in memory.
        method: how a step of the fit is made; `EM()` if not given.
        warm_start: whether a fit goes on from the one before, rather than from a fresh start.
        seed: for the fit, so that it does not depend on what was drawn before.
        name: before the names of the figures.
        **options: more arguments of `torchgmm.fit`, such as `stop=`, `n_init=`, `init=`.

    Attributes:
        result: how the last fit went.

    Example:
        >>> from torchgmm.lightning import LatentMixture
        >>> callback = LatentMixture(tg.GaussianMixture(10), encode="encode")  # doctest: +SKIP
        >>> trainer = lightning.Trainer(max_epochs=5, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self,
        mixture: GaussianMixture,
        *,
        encode: str | Callable[[Any, Any], Tensor] | None = None,
        stage: str = "train",
        every: int = 1,
        rows: Iterable[Any] | None = None,
        held_out: Iterable[Any] | None = None,
        max_rows: int | None = None,
        method: Method | None = None,
        warm_start: bool = False,
        seed: int = 0,
        name: str = "mixture",
        **options: Any,
    ) -> None:
        super().__init__()
        if stage not in _STAGES:
            raise InputError(f"stage must be one of {', '.join(_STAGES)}, got {stage!r}")
        self.mixture = mixture
        self.encode = encode
        self.stage = stage
        self.every = checks.check_count("every", every)
        self.rows, self.held_out = rows, held_out
        self.max_rows = None if max_rows is None else checks.check_count("max_rows", max_rows)
        self.method, self.warm_start, self.seed = method, warm_start, seed
        self.name, self.options = name, options
        self.result: FitResult | None = None

    # what Lightning calls -----------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot work before the training starts."""
        if trainer.world_size > 1:
            raise InputError(
                f"LatentMixture fits in one process, the trainer has {trainer.world_size}: each "
                "would fit a mixture of its own"
            )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Fit, if this is the stage."""
        if self.stage == "train":
            self._fit_and_log(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Fit, if this is the stage and an epoch of training is behind."""
        if self.stage == "validation" and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._fit_and_log(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The mixture's tensors, for the trainer's checkpoints."""
        return dict(self.mixture.state_dict()) if self.mixture.is_sized else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        if state_dict:
            self.mixture.load_state_dict(state_dict)

    # inside -------------------------------------------------------------------------------------

    def _fit_and_log(self, trainer: Any, module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every:
            return
        with torch.random.fork_rng(), torch.no_grad(), _in_eval_mode(module):
            train = self._latents(trainer, module, _own(self.rows, trainer.train_dataloader))
            others = _own(self.held_out, trainer.val_dataloaders)
            held_out = self._latents(trainer, module, others) if others else None
        options = dict(self.options)
        if self.warm_start and self.result is not None:
            options["init"] = "current"
        options.setdefault("generator", self.seed)
        self.result = fit(self.mixture, train, self.method, **options)
        module.log(f"{self.name}_log_likelihood", self.mixture.score(train))
        if held_out is not None:
            module.log(f"{self.name}_held_out_log_likelihood", self.mixture.score(held_out))

    def _latents(self, trainer: Any, module: Any, loaders: Any) -> Tensor:
        parts: list[Tensor] = []
        count = 0
        for batch in itertools.chain.from_iterable(map(_unused, loaders)):
            if self.max_rows is not None and count >= self.max_rows:
                break
            latent = self._encoded(module, trainer.strategy.batch_to_device(batch))
            parts.append(latent.detach().to(self.mixture.device))
            count += len(latent)
        if not parts:
            raise InputError("there are no batches to encode: is the loader empty or used up?")
        return torch.cat(parts)[: self.max_rows]

    def _encoded(self, module: Any, batch: Any) -> Tensor:
        if callable(self.encode):
            latent: Any = self.encode(module, batch)
        else:
            encoder = module if self.encode is None else getattr(module, self.encode)
            latent = encoder(_first(batch))
        if not isinstance(latent, Tensor) or latent.dim() != 2:
            what = f"shape {tuple(latent.shape)}" if isinstance(latent, Tensor) else f"{latent!r}"
            raise InputError(
                f"latents must be a tensor (n, D), got {what:.200}: say with encode= how a batch "
                "becomes one, encode=lambda module, batch: module.encoder(batch[0]).flatten(1)"
            )
        return latent


class MixtureModule(LightningModule):
    """A mixture fitted by gradients: the mean of `-log_prob` over a batch is the loss.

    Logs `train_loss`, `val_log_likelihood` and `test_log_likelihood` (means per row, in nats);
    `predict` gives the most probable components. The mixture starts where it stands: fit it to
    some rows by a step or two of EM first, so that no component is far from all of them.

    Args:
        mixture: trained in place; its `n_features` must be known.
        optimizer: a class of torch.optim, its name, or the path of another, "package.Class".
        lr: its learning rate.
        rows: rows `(n, D)` from a batch; the batch itself, or the first of its members where it
            is a tuple or a list, if not given.
        **options: more arguments of the optimiser.

    Raises:
        InputError: there is no such optimiser.
        NotSizedError: the mixture does not know its number of features.

    Example:
        >>> from torchgmm.lightning import MixtureModule
        >>> module = MixtureModule(tg.GaussianMixture(8, 2), lr=0.02)  # doctest: +SKIP
        >>> lightning.Trainer(max_epochs=20).fit(module, loader)  # doctest: +SKIP
    """

    def __init__(
        self,
        mixture: GaussianMixture,
        *,
        optimizer: str | type[torch.optim.Optimizer] = "Adam",
        lr: float = 1e-2,
        rows: Callable[[Any], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not mixture.is_sized:
            raise NotSizedError(type(self).__name__)
        self.mixture = mixture
        self._make = optimizer_class(optimizer)
        self._options = {"lr": lr, **options}
        self._rows = rows or _first

    def forward(self, batch: Any) -> Tensor:
        """`log_prob` of the rows of a batch, `(n,)`, in nats."""
        return self.mixture.log_prob(self._rows(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss: mean negative log-likelihood per row."""
        log_prob = self(batch)
        loss: Tensor = -log_prob.mean()
        self.log("train_loss", loss, batch_size=len(log_prob))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the mean log-likelihood of held-out rows."""
        log_prob = self(batch)
        self.log("val_log_likelihood", log_prob.mean(), batch_size=len(log_prob))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the mean log-likelihood of test rows."""
        log_prob = self(batch)
        self.log("test_log_likelihood", log_prob.mean(), batch_size=len(log_prob))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """The most probable component of every row, `(n,)`."""
        return self.mixture.predict(self._rows(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one that was asked for."""
        return self._make(self.parameters(), **self._options)


def _first(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


def _own(given: Any, trainers: Any) -> list[Any]:
    """The loaders to read one after the other: the one that was given, or those of the trainer."""
    if given is not None:
        return [given]
    if isinstance(trainers, dict):
        return list(trainers.values())
    if trainers is None:
        return []
    return list(trainers) if isinstance(trainers, tuple | list) else [trainers]


def _unused(loader: Any) -> Any:
    """A loader to read although the trainer may be in the middle of it."""
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        loader = copy.copy(loader)
        loader._iterator = None
    return loader


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
