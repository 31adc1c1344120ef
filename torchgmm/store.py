"""A mixture to and from one safetensors file; never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from .covariance import as_family
from .errors import InputError, MissingExtraError, StoreError
from .mixture import GaussianMixture
from .parameters import Parameters

__all__ = ["load", "save"]

FORMAT = "torchgmm"
VERSION = 1
_TENSORS = ("logits", "means", "scale")


def save(mixture: GaussianMixture, path: str | os.PathLike[str]) -> None:
    """Write a mixture to one safetensors file, replaced as a whole or not at all.

    The file holds the three tensors; its metadata hold the format's version, the family, the
    shapes and the dtype, so that other programs can read it too.

    Example:
        >>> import tempfile, torchgmm as tg
        >>> file = tempfile.mkdtemp() + "/mixture.safetensors"
        >>> tg.save(tg.GaussianMixture(3, 2), file)
        >>> tg.load(file)
        GaussianMixture(n_components=3, n_features=2, covariance='full', dtype=torch.float32)
    """
    try:
        from safetensors.torch import save as to_bytes
    except ImportError as error:
        raise MissingExtraError("safetensors", "store", "saving a mixture") from error
    parameters = mixture.as_parameters()
    tensors = {name: getattr(parameters, name).detach().cpu().contiguous() for name in _TENSORS}
    described = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "covariance": mixture.covariance,
        "batch_shape": json.dumps(list(mixture.batch_shape)),
        "n_components": str(mixture.n_components),
        "n_features": str(mixture.n_features),
        "dtype": str(mixture.dtype).removeprefix("torch."),
    }
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(to_bytes(tensors, described))
        partial.replace(target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> GaussianMixture:
    """Read a mixture that `save` wrote.

    Args:
        path: the file.
        device: where the tensors go.
        dtype: theirs; the file's if not given.

    Raises:
        StoreError: no such file, a damaged one, one of another program or of a later version.
    """
    metadata, tensors = _read(Path(path), str(device))
    try:
        family = as_family(metadata["covariance"])
        batch = tuple(json.loads(metadata["batch_shape"]))
        k, d = int(metadata["n_components"]), int(metadata["n_features"])
        shapes = {
            "logits": (*batch, k),
            "means": (*batch, k, d),
            "scale": (*batch, *family.scale_shape(k, d)),
        }
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: its metadata are damaged: {error}") from error
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise StoreError(f"{path} is damaged: {name} should be {shape}, found {found}")
    parameters = Parameters(tensors["logits"], tensors["means"], tensors["scale"], family)
    if not parameters.is_finite():
        raise StoreError(f"{path} is damaged: it holds NaN or infinite values")
    try:
        return GaussianMixture.from_parameters(parameters, dtype=dtype)
    except InputError as error:
        raise StoreError(f"{path}: {error}") from error


def _read(path: Path, device: str) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "store", "loading a mixture") from error
    if not path.is_file():
        raise StoreError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    try:
        with safe_open(path, framework="pt", device=device) as archive:
            metadata = archive.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise StoreError(f"{path} is a safetensors file, but of another program")
            version = int(metadata.get("format_version", "0"))
            if version > VERSION:
                raise StoreError(
                    f"{path} has format version {version}, this torchgmm reads up to {VERSION}: "
                    "install a newer one"
                )
            return metadata, {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise StoreError(f"{path} is damaged or no safetensors file: {error}") from error
