"""`torchgmm score | predict | sample | show`: questions to a mixture that lies in a file."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..collective import current, together
from ..data import Source, as_source
from ..errors import InputError
from ..mixture import GaussianMixture
from ..reduction import load_pca
from ..store import load
from . import UsageError
from .jobs import merged, own_device
from .outputs import Table, check_table
from .parsing import add_data, as_recipe, new_parser, parse
from .record import heaviest, print_table
from .scoring import present_rows, score_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["MIXTURE", "in_folder", "predict", "sample", "score", "show", "single"]

MIXTURE = "mixture.safetensors"
_MIXTURE_HELP = "a mixture file, as torchgmm.save writes it, or the folder of a fit or a search"
_SHOWN = 10  # components
_NUMBERS = 6  # features of a mean


@together
def score(words: list[str]) -> int:
    """Run `torchgmm score` with these words and give its exit status."""
    parser = _parser(
        "score",
        "MIXTURE --data DATA [--out FILE] [--device DEVICE]",
        "Say how well a mixture explains rows: mean log-likelihood (nats per row), BIC, AIC.",
        """  torchgmm score runs/rows/mixture.safetensors --data rows.npy
  torchgmm score runs/rows/mixture.safetensors --data held_out.parquet --out log_prob.npy
  torchgmm score runs/patches/mixture.safetensors --data ImagePatches --data.image flower.jpg""",
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="log-density of every row, .npy or .csv"
    )
    options = parse(parser, words)
    file = None if options.out is None else check_table(options.out)
    mixture, source = _opened(parser, options)
    with ExitStack() as stack:
        put = None
        if file is not None:
            table = Table(file, (_length(source),), _answers(mixture, source), float("nan"))
            put = stack.enter_context(merged(table))
        found = score_of(mixture, source, put)
    lines = [
        ("rows", f"{found.rows:,}"),
        ("log-likelihood", f"{found.log_likelihood:.6f} nats per row"),
        ("BIC", f"{found.bic:,.2f} (lower is better)"),
        ("AIC", f"{found.aic:,.2f} (lower is better)"),
    ]
    if found.weight != found.rows:
        lines.insert(1, ("weight", f"{found.weight:,.6g}"))
    if not current().leads:
        return 0
    print_table("torchgmm score", [*lines, *_written(file)])
    return 0


@together
def predict(words: list[str]) -> int:
    """Run `torchgmm predict` with these words and give its exit status."""
    parser = _parser(
        "predict",
        "MIXTURE --data DATA --out FILE [--probabilities FILE] [--device DEVICE]",
        "Write the number of the likeliest component of every row (-1 for a row of weight 0).",
        """  torchgmm predict runs/rows/mixture.safetensors --data rows.npy --out labels.npy
  torchgmm predict runs/rows/mixture.safetensors --data rows.csv --out labels.csv \\
      --probabilities responsibilities.npy""",
    )
    parser.add_argument("--out", type=str, required=True, help="labels, .npy or .csv")
    parser.add_argument(
        "--probabilities",
        type=str | None,
        default=None,
        help="also the probability of every component for every row, .npy or .csv",
    )
    options = parse(parser, words)
    paths = [options.out, *([options.probabilities] if options.probabilities else [])]
    files = [check_table(path) for path in paths]
    if len(set(files)) < len(files):
        raise UsageError(f"--out and --probabilities are the same file, {options.out}")
    mixture, source = _opened(parser, options)
    n, answers = _length(source), _answers(mixture, source)
    tables = [Table(files[0], (n,), torch.int64, -1)]
    if len(files) > 1:
        tables.append(Table(files[1], (n, mixture.n_components), answers, float("nan")))
    counts = torch.zeros(mixture.n_components, dtype=torch.int64)
    with ExitStack() as stack, torch.no_grad():
        puts = [stack.enter_context(merged(table)) for table in tables]
        for block in present_rows(mixture, source):
            joint = mixture.log_joint(block.x)
            labels = joint.argmax(-1)
            counts += labels.cpu().bincount(minlength=mixture.n_components)
            for put, rows in zip(puts, (labels, joint.softmax(-1)), strict=False):
                put(block.numbers(), rows)
    counts = torch.tensor(current().total(*counts.tolist())).long()
    if not current().leads:
        return 0
    most = counts.argsort(descending=True, stable=True)[:6].tolist()
    largest = ", ".join(f"no. {k}: {int(counts[k]):,}" for k in most)
    lines = [("rows", f"{int(counts.sum()):,}"), ("most rows", largest)]
    print_table("torchgmm predict", [*lines, *_written(*files)])
    return 0


def sample(words: list[str]) -> int:
    """Run `torchgmm sample` with these words and give its exit status."""
    parser = new_parser(
        "sample",
        "MIXTURE N --out FILE [--seed SEED] [--pca FILE]",
        "Draw independent rows from a mixture.",
        """  torchgmm sample runs/rows/mixture.safetensors 1000 --out drawn.npy
  torchgmm sample runs/reduced/mixture.safetensors 1000 --out drawn.npy \\
      --pca runs/reduced/pca.safetensors
  torchgmm sample runs/rows/mixture.safetensors 1000 --out drawn.csv --seed 7""",
    )
    parser.add_argument("mixture", type=str, help=_MIXTURE_HELP)
    parser.add_argument("rows", type=int, help="how many, N")
    parser.add_argument("--out", type=str, required=True, help="the rows, .npy or .csv")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal rows")
    parser.add_argument(
        "--pca",
        type=str | None,
        default=None,
        help="the PCA before the mixture: rows are drawn in the features that it was given",
    )
    options = parse(parser, words)
    if options.rows < 1:
        raise UsageError(f"the number of rows must be at least 1, got {options.rows}")
    file = check_table(options.out)
    mixture = single(load(in_folder(options.mixture, MIXTURE)))
    generator = torch.Generator().manual_seed(options.seed)
    rows = mixture.sample((options.rows,), generator)
    if options.pca is not None:
        rows = load_pca(options.pca).inverse(rows)
    with Table(file, tuple(rows.shape), rows.dtype, 0).opened() as put:
        put(torch.arange(len(rows)), rows)
    lines = [("rows", f"{len(rows):,} x {rows.shape[1]}, seed {options.seed}")]
    print_table("torchgmm sample", [*lines, *_written(file)])
    return 0


def show(words: list[str]) -> int:
    """Run `torchgmm show` with these words and give its exit status."""
    parser = new_parser(
        "show",
        "MIXTURE",
        "Say what a mixture file holds.",
        "  torchgmm show runs/rows/mixture.safetensors",
    )
    parser.add_argument("mixture", type=str, help=_MIXTURE_HELP)
    options = parse(parser, words)
    file = in_folder(options.mixture, MIXTURE)
    mixture = load(file)
    lines = [
        ("file", f"{file.stat().st_size:,} bytes, format version {_version(file)}"),
        ("covariance", mixture.covariance),
        ("components", f"{mixture.n_components:,}"),
        ("features", f"{mixture.n_features:,}"),
        ("parameters", f"{mixture.n_parameters:,}"),
        ("dtype", str(mixture.dtype).removeprefix("torch.")),
    ]
    if mixture.batch_shape:
        lines.insert(1, ("mixtures", f"a batch of shape {tuple(mixture.batch_shape)}"))
        print_table(str(file), lines)
        return 0
    print_table(str(file), [*lines, ("heaviest", heaviest(mixture))])
    _print_components(mixture)
    return 0


def _parser(command: str, usage: str, description: str, examples: str) -> ArgumentParser:
    """The options that `score` and `predict` share."""
    parser = new_parser(command, usage, description, examples)
    parser.add_argument("mixture", type=str, help=_MIXTURE_HELP)
    add_data(parser)
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, cuda:1, ...")
    return parser


def _opened(parser: ArgumentParser, options: object) -> tuple[GaussianMixture, Source]:
    built = parser.instantiate(options)
    file = in_folder(built.mixture, MIXTURE)
    mixture = single(load(file, device=own_device(built.device)))
    return mixture, as_source(as_recipe(built.data, None))


def in_folder(given: str, name: str) -> Path:
    """The file that is given, or the one of this name in a folder that a command left.

    Raises:
        InputError: the folder holds none.
    """
    path = Path(given)
    if not path.is_dir():
        return path
    if not (path / name).is_file():
        raise InputError(f"the folder {given} holds no {name}")
    return path / name


def single(mixture: GaussianMixture) -> GaussianMixture:
    """The mixture, if it is no batch of them."""
    if mixture.batch_shape:
        raise InputError(
            f"the file holds a batch of mixtures of shape {tuple(mixture.batch_shape)}: the "
            "command line answers for one"
        )
    return mixture


def _length(source: Source) -> int:
    if source.n_rows is None:
        raise InputError("a file of answers needs rows whose number is known beforehand")
    return source.n_rows


def _answers(mixture: GaussianMixture, source: Source) -> torch.dtype:
    from ..checks import compute_dtype

    return compute_dtype(source.dtype, mixture.dtype, mixture.device)


def _written(*files: Path | None) -> list[tuple[str, str]]:
    return [("written", str(file)) for file in files if file is not None]


def _version(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as archive:
        return str((archive.metadata() or {}).get("format_version", "?"))


def _print_components(mixture: GaussianMixture) -> None:
    """The heaviest components: weight, standard deviation averaged over the features, mean."""
    weights, order = mixture.weights.detach().sort(descending=True)
    means = mixture.means.detach()
    variances = mixture.as_distribution().component_distribution.variance.detach()
    spread = variances.mean(-1).sqrt()
    print(f"\n  {'no.':>5}  {'weight':>8}  {'deviation':>10}  mean")
    for weight, k in list(zip(weights.tolist(), order.tolist(), strict=True))[:_SHOWN]:
        numbers = " ".join(f"{value:>10.4g}" for value in means[k, :_NUMBERS].tolist())
        more = " ..." if means.shape[-1] > _NUMBERS else ""
        print(f"  {k:>5}  {weight:>8.4f}  {float(spread[k]):>10.4g}  {numbers}{more}")
    if len(order) > _SHOWN:
        print(f"  ... and {len(order) - _SHOWN} more, of weight {sum(weights[_SHOWN:]):.4f}")
