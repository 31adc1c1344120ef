"""What `torchgmm fit` can be asked: every option is a setting of a class of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..covariance import families
from ..fitting import Method, Stop
from ..seeding import Seeding
from .parsing import add_config, add_data, new_parser
from .pictures import PICTURES

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["DTYPES", "fit_parser"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}

_DESCRIPTION = """Fit a Gaussian mixture to rows.

Every option is a setting of a class of the library; a YAML config spells the same settings as
nested keys, and options after it override them. --print_config shows them all and stops."""

_EXAMPLES = """  torchgmm fit configs/patches.yaml
  torchgmm fit configs/patches.yaml --method.max_iter=50 --out runs/patches
  torchgmm fit --data rows.npy --mixture.n_components 5 --out runs/rows
  torchgmm fit --data rows.csv --data.columns '[height, weight]' --data.weights w.npy \\
      --mixture.n_components 3 --mixture.covariance tied --mixture.dtype float64 \\
      --stop RelativeTolerance --stop.tol 1e-7 --n_init 5 --seed 1
  torchgmm fit configs/faithful.yaml --print_config
  torchgmm fit runs/patches/config.yaml          the same fit again, bit for bit
  torchgmm fit configs/patches.yaml --resume     go on where a killed fit stopped, bit for bit
  torchrun --nproc-per-node=8 -m torchgmm fit configs/distributed.yaml
  torchgmm fit --method.help EM                  the settings of a class
  torchgmm fit --data Principal --data.rows rows.npy --data.n_components 16 --data.whiten true \\
      --mixture.n_components 5 --out runs/reduced    a PCA first

--out holds mixture.safetensors (torchgmm.load reads it), result.json, picture.png and config.yaml,
and pca.safetensors (torchgmm.load_pca) where there is one.
Progress goes to standard error, the table at the end to standard output."""


def fit_parser() -> ArgumentParser:
    """The options of `torchgmm fit`."""
    parser = new_parser("fit", "[CONFIG] [options]", _DESCRIPTION, _EXAMPLES)
    add_config(parser)
    add_data(parser)
    add = parser.add_argument
    add("--mixture.n_components", type=int, required=True, help="how many components, K")
    add("--mixture.covariance", type=str, default="full", help=f"one of {', '.join(families())}")
    add("--mixture.dtype", choices=list(DTYPES), default="float32", help="of the mixture's numbers")
    add("--mixture.device", type=str, default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--method", type=Method, default={"class_path": "EM"}, help="how a step is made")
    add("--stop", type=Stop, default={"class_path": "Tolerance"}, help="the stopping rule")
    add(
        "--init",
        type=Seeding | str,
        default="kmeans",
        help="the start: kmeans, k-means++, random_from_data, random, a seeding class, or a "
        "mixture file to go on from",
    )
    add("--n_init", type=int, default=1, help="runs from different starts; the best is kept")
    add("--seed", type=int, default=0, help="of everything random: equal seeds, equal fits")
    add("--threads", type=int | None, default=None, help="CPU threads; torch's choice if not given")
    add(
        "--picture",
        choices=["auto", *PICTURES, "none"],
        default="auto",
        help="auto: patches for images, marginals for one feature, else ellipses",
    )
    add("--out", type=str | None, default=None, help="folder for what the fit leaves")
    add(
        "--checkpoint",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="between two writes of --out/checkpoint.safetensors, also within a step; 0: after "
        "every step",
    )
    add(
        "--resume",
        action="store_true",
        help="go on from --out/checkpoint.safetensors, which a fit that was cut off left; without "
        "one, start at the start. A job that torchrun begins anew does so by itself",
    )
    return parser
