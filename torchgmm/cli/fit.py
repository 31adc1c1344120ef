"""`torchgmm fit`: a config or a line becomes the classes of the library, and the fit a folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoint import Checkpoint
from ..collective import current, together
from ..data import Recipe, Source, as_source
from ..errors import InputError
from ..fitting import Method, Observer, Resumption, Stop
from ..fitting import fit as run_fit
from ..mixture import GaussianMixture
from ..observers import Progress
from ..reduction import PrincipalRows, save_pca
from ..seeding import Seeding
from ..store import load, save
from . import INTERRUPTED, say
from .jobs import own_device, own_folder, resumption
from .options import DTYPES, fit_parser
from .outputs import replaced
from .parsing import (
    as_recipe,
    config_folder,
    config_text,
    described,
    parse,
    use_threads,
)
from .pictures import Subject, choose, draw
from .record import Recorder, Report, print_table
from .scoring import score_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["fit", "fit_parser"]

_MIXTURE, _PCA, _RESULT, _PICTURE, _CONFIG, _CHECKPOINT = (
    "mixture.safetensors",
    "pca.safetensors",
    "result.json",
    "picture.png",
    "config.yaml",
    "checkpoint.safetensors",
)

_GO_ON = "the same command with --resume goes on from there"


@dataclass(frozen=True)
class Job:
    """A fit that is ready to start: everything that can be refused has been looked at."""

    mixture: GaussianMixture
    recipe: Recipe
    source: Source
    method: Method
    stop: Stop
    init: Any
    n_init: int
    seed: int
    picture: str
    folder: Path | None
    resume: Resumption | None
    checkpoint: float
    config: str
    began: float

    @property
    def checkpoint_file(self) -> Path | None:
        """Where the fit in progress is kept."""
        return None if self.folder is None else self.folder / _CHECKPOINT

    @property
    def subject(self) -> Subject:
        """What a picture has to know."""
        return _subject(self.recipe, self.source)


@together
def fit(words: list[str]) -> int:
    """Run `torchgmm fit` with these words and give its exit status."""
    began = time.perf_counter()
    parser = fit_parser()
    job = _prepare(parser, parse(parser, words), began)
    recorder = Recorder()
    observers: list[Observer] = [recorder]
    if job.checkpoint_file is not None:
        observers.append(Checkpoint(job.checkpoint_file, job.checkpoint))
    observers.append(Progress())
    result, score = None, None
    group = current()
    try:
        result = run_fit(
            job.mixture,
            job.source,
            job.method,
            init=job.init,
            n_init=job.n_init,
            stop=job.stop,
            generator=job.seed,
            observers=observers,
            resume=job.resume,
        )
        score = score_of(job.mixture, job.source)
    except KeyboardInterrupt:
        if not group.leads:
            return INTERRUPTED
        if not recorder.steps:
            kept = job.checkpoint_file
            if kept is not None and kept.is_file():
                say(f"interrupted in the first step; {_GO_ON}")
            else:
                say("interrupted before the first step: there is nothing to keep")
            return INTERRUPTED
    if not group.leads:
        return 0
    report = Report(
        mixture=job.mixture,
        recorder=recorder,
        result=result,
        score=score,
        rows=job.source.n_rows,
        dtype=job.source.dtype,
        seconds=time.perf_counter() - began,
        seed=job.seed,
        threads=torch.get_num_threads(),
        processes=group.size,
    )
    return _finish(job, report)


def _prepare(parser: ArgumentParser, options: Namespace, began: float) -> Job:
    """Everything that can go wrong before the work, in the order of its cost."""
    use_threads(options.threads)
    names = [_MIXTURE, _PCA, _RESULT, _PICTURE, _CONFIG, _CHECKPOINT]
    folder = own_folder(options.out, names)
    built = parser.instantiate(options)
    mixture = GaussianMixture(
        built.mixture.n_components,
        covariance=built.mixture.covariance,
        dtype=DTYPES[built.mixture.dtype],
        device=own_device(built.mixture.device),
    )
    init = _start(built.init)
    recipe = as_recipe(built.data, config_folder(options))
    source = as_source(recipe)
    picture = "none" if folder is None else choose(options.picture, _subject(recipe, source))
    resolved = _resolved(options, recipe, folder, picture)
    return Job(
        mixture=mixture,
        recipe=recipe,
        source=source,
        method=built.method,
        stop=built.stop,
        init=init,
        n_init=built.n_init,
        seed=built.seed,
        picture=picture,
        folder=folder,
        resume=resumption(options.out, _CHECKPOINT, asked=options.resume),
        checkpoint=built.checkpoint,
        config=config_text(parser, resolved),
        began=began,
    )


def _subject(recipe: Recipe, source: Source) -> Subject:
    return Subject(source.n_features, recipe.image_shape, source.names or None)


def _start(init: Seeding | str) -> Any:
    """A seeding, its name, or the parameters in a mixture file."""
    if isinstance(init, str) and init.endswith(".safetensors"):
        return load(init).as_parameters()
    if init == "current":
        raise InputError("a new mixture holds nothing to go on from: give --init a mixture file")
    return init


def _resolved(options: Namespace, recipe: Recipe, folder: Path | None, picture: str) -> Namespace:
    """The options as they ran: paths absolute, choices made."""
    resolved = options.clone()
    resolved["data"] = described(recipe)
    resolved["threads"] = torch.get_num_threads()
    resolved["picture"] = picture
    if isinstance(resolved["init"], str) and Path(resolved["init"]).is_file():
        resolved["init"] = str(Path(resolved["init"]).resolve())
    resolved["out"] = None if folder is None else str(folder)
    resolved["resume"] = False
    return resolved


def _finish(job: Job, report: Report) -> int:
    interrupted = report.result is None or report.score is None
    written = "nothing: give --out FOLDER"
    if job.folder is not None:
        files = _write(job, report, job.folder, with_picture=not interrupted)
        written = f"{job.folder}: {', '.join(files)}"
    print_table("torchgmm fit", [*report.lines(), ("written", written)])
    if interrupted:
        say(f"interrupted after {report.n_steps} steps; written {written}")
        if job.folder is not None:
            say(_GO_ON)
    return INTERRUPTED if interrupted else 0


def _write(job: Job, report: Report, folder: Path, *, with_picture: bool) -> list[str]:
    """The files, result.json last: where it stands, the others are of the same fit."""
    (folder / _RESULT).unlink(missing_ok=True)
    save(job.mixture, folder / _MIXTURE)
    with replaced(folder / _CONFIG) as partial:
        partial.write_text(job.config, encoding="utf-8")
    files = [_MIXTURE, _CONFIG]
    if isinstance(job.source, PrincipalRows):
        save_pca(job.source.front, folder / _PCA)
        files.append(_PCA)
    else:
        (folder / _PCA).unlink(missing_ok=True)  # of an earlier fit
    if with_picture and job.picture != "none":
        rows = job.source.sample(5000, torch.Generator().manual_seed(0))
        levels = [step.log_likelihood for step in report.recorder.steps]
        with replaced(folder / _PICTURE) as partial:
            draw(job.picture, partial, job.mixture, rows, levels, job.subject)
        files.append(_PICTURE)
    else:
        (folder / _PICTURE).unlink(missing_ok=True)  # of an earlier fit
    if report.result is not None:
        (folder / _CHECKPOINT).unlink(missing_ok=True)  # there is nothing left to go on with
    files.append(_RESULT)
    with replaced(folder / _RESULT) as partial:
        partial.write_text(report.as_json(files), encoding="utf-8")
    return files
