"""torchgmm as scikit-learn estimators: change one import, keep the code."""

from __future__ import annotations

from ..errors import MissingExtraError

try:
    import sklearn as _sklearn  # noqa: F401 - scikit-learn itself, whatever this room is called
except ImportError as error:
    raise MissingExtraError("scikit-learn", "sklearn", "torchgmm.sklearn") from error

from .anomaly import AnomalyDetector
from .classifier import GaussianMixtureClassifier
from .convert import from_sklearn, to_sklearn
from .estimator import GaussianMixture

__all__ = [
    "AnomalyDetector",
    "GaussianMixture",
    "GaussianMixtureClassifier",
    "from_sklearn",
    "to_sklearn",
]
