"""Every exception and warning, with its wording: what was wrong, the numbers, what to do."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ConvergenceWarning",
    "EmptyComponentError",
    "InputError",
    "MemoryWarning",
    "MissingExtraError",
    "NotSizedError",
    "PeerError",
    "SingularCovarianceError",
    "StoreError",
    "TorchGMMError",
]


class TorchGMMError(Exception):
    """The root of every error that this package raises on purpose."""


class InputError(TorchGMMError, ValueError):
    """Rows, weights or settings that cannot be used; the message says what to do instead."""


class NotSizedError(TorchGMMError, RuntimeError):
    """The mixture does not know its number of features yet.

    Example:
        >>> import torchgmm as tg
        >>> tg.GaussianMixture(3).sample((2,))
        Traceback (most recent call last):
            ...
        torchgmm.errors.NotSizedError: sample() needs a mixture with known n_features: ...
    """

    def __init__(self, call: str) -> None:
        super().__init__(
            f"{call}() needs a mixture with known n_features: fit it first, load a state_dict, "
            "or give n_features= when building it"
        )


class SingularCovarianceError(TorchGMMError, ArithmeticError):
    """A covariance has no spread in some direction and the floor is zero."""

    def __init__(self, components: list[Any]) -> None:
        shown = ", ".join(map(str, components[:8])) + (", ..." if len(components) > 8 else "")
        super().__init__(
            f"the rows of component(s) {shown} have no spread in some direction (constant or "
            f"duplicated columns, or too few rows) and reg_covar=0: give a larger "
            "reg_covar, fewer components, or a simpler covariance family"
        )


class EmptyComponentError(TorchGMMError, ArithmeticError):
    """A component lost its rows and the policy was to raise."""

    def __init__(self, components: list[Any], what: str) -> None:
        super().__init__(
            f"component(s) {components} {what}: give fewer components, another seed, or let "
            'Rescue(empty="reseed") move them to badly explained rows'
        )


class PeerError(TorchGMMError, RuntimeError):
    """Another process of the job failed or is missing; the message says which, and its error."""


class StoreError(TorchGMMError, OSError):
    """A file that is damaged, of another program, or of a later format."""


class MissingExtraError(TorchGMMError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}: install it, or this project with its extra, "
            f"pip install '.[{extra}]'"
        )


class ConvergenceWarning(UserWarning):
    """A fit ended before its stopping rule was met; the result says how."""


class MemoryWarning(UserWarning):
    """A device ran out of memory: rows are computed in smaller chunks from now on."""
