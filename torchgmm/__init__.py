"""Gaussian mixtures for PyTorch.

The letters, everywhere: `B` leading batch axes, `N` rows, `K` components, `D` features; shapes
are `(*B, N, K, D)`. Log-probabilities are in nats.

Names are loaded when they are first used, so that `torchgmm --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .algebra import affine as affine
    from .algebra import cauchy_schwarz_divergence as cauchy_schwarz_divergence
    from .algebra import condition as condition
    from .algebra import kl_divergence as kl_divergence
    from .algebra import l2_distance as l2_distance
    from .algebra import marginal as marginal
    from .algebra import merge as merge
    from .algebra import product as product
    from .algebra import regress as regress
    from .checkpoint import Checkpoint as Checkpoint
    from .checkpoint import load_state as load_state
    from .checkpoint import read_checkpoint as read_checkpoint
    from .checkpoint import save_state as save_state
    from .clusters import Clusters as Clusters
    from .clusters import cluster as cluster
    from .collective import alone as alone
    from .covariance import Family as Family
    from .covariance import RelativeFloor as RelativeFloor
    from .covariance import families as families
    from .data import as_source as as_source
    from .density import Calibration as Calibration
    from .density import calibrate as calibrate
    from .density import rosenblatt as rosenblatt
    from .density import surprise as surprise
    from .errors import ConvergenceWarning as ConvergenceWarning
    from .errors import InputError as InputError
    from .errors import TorchGMMError as TorchGMMError
    from .fitting import EM as EM
    from .fitting import SQUAREM as SQUAREM
    from .fitting import Aitken as Aitken
    from .fitting import FitResult as FitResult
    from .fitting import Gradient as Gradient
    from .fitting import IncrementalEM as IncrementalEM
    from .fitting import OnlineEM as OnlineEM
    from .fitting import RelativeTolerance as RelativeTolerance
    from .fitting import Rescue as Rescue
    from .fitting import Status as Status
    from .fitting import Tolerance as Tolerance
    from .fitting import VarianceReducedEM as VarianceReducedEM
    from .fitting import fit as fit
    from .mixture import GaussianMixture as GaussianMixture
    from .mixture import stack as stack
    from .observers import JsonLines as JsonLines
    from .observers import LogLines as LogLines
    from .observers import Progress as Progress
    from .observers import TensorBoard as TensorBoard
    from .parameters import Parameters as Parameters
    from .reduction import PCA as PCA
    from .reduction import Projection as Projection
    from .reduction import Reduced as Reduced
    from .reduction import discriminant as discriminant
    from .reduction import load_pca as load_pca
    from .reduction import save_pca as save_pca
    from .seeding import KMeans as KMeans
    from .seeding import KMeansPlusPlus as KMeansPlusPlus
    from .seeding import Labels as Labels
    from .seeding import RandomResponsibilities as RandomResponsibilities
    from .seeding import RandomRows as RandomRows
    from .selection import BootstrapTest as BootstrapTest
    from .selection import bootstrap_test as bootstrap_test
    from .selection import select as select
    from .store import load as load
    from .store import save as save

_ROOM = {
    "Aitken": "fitting",
    "BootstrapTest": "selection",
    "Calibration": "density",
    "Checkpoint": "checkpoint",
    "Clusters": "clusters",
    "ConvergenceWarning": "errors",
    "EM": "fitting",
    "Family": "covariance",
    "FitResult": "fitting",
    "GaussianMixture": "mixture",
    "Gradient": "fitting",
    "IncrementalEM": "fitting",
    "InputError": "errors",
    "JsonLines": "observers",
    "KMeans": "seeding",
    "KMeansPlusPlus": "seeding",
    "Labels": "seeding",
    "LogLines": "observers",
    "OnlineEM": "fitting",
    "PCA": "reduction",
    "Parameters": "parameters",
    "Progress": "observers",
    "Projection": "reduction",
    "RandomResponsibilities": "seeding",
    "RandomRows": "seeding",
    "Reduced": "reduction",
    "RelativeFloor": "covariance",
    "RelativeTolerance": "fitting",
    "Rescue": "fitting",
    "SQUAREM": "fitting",
    "Status": "fitting",
    "TensorBoard": "observers",
    "Tolerance": "fitting",
    "TorchGMMError": "errors",
    "VarianceReducedEM": "fitting",
    "affine": "algebra",
    "alone": "collective",
    "as_source": "data",
    "bootstrap_test": "selection",
    "calibrate": "density",
    "cauchy_schwarz_divergence": "algebra",
    "cluster": "clusters",
    "condition": "algebra",
    "discriminant": "reduction",
    "families": "covariance",
    "fit": "fitting",
    "kl_divergence": "algebra",
    "l2_distance": "algebra",
    "load": "store",
    "load_pca": "reduction",
    "load_state": "checkpoint",
    "marginal": "algebra",
    "merge": "algebra",
    "product": "algebra",
    "read_checkpoint": "checkpoint",
    "regress": "algebra",
    "rosenblatt": "density",
    "save": "store",
    "save_pca": "reduction",
    "save_state": "checkpoint",
    "select": "selection",
    "stack": "mixture",
    "surprise": "density",
}
__all__ = ["__version__", *_ROOM]


def __getattr__(name: str) -> Any:
    if name == "functional":  # a room that is a name of its own, as torch.nn.functional is
        return import_module(f"{__name__}.functional")
    if name not in _ROOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
