"""A mixture to and from one safetensors file; never a pickle."""

from __future__ import annotations

import glob
import json
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .covariance import as_family
from .errors import InputError, MissingExtraError, StoreError
from .exact import exact_device, has_float64
from .mixture import GaussianMixture
from .parameters import Parameters

__all__ = ["drop_stale", "load", "read_tensors", "save", "write_tensors"]

FORMAT = "torchgmm"
VERSION = 1
_TENSORS = ("logits", "means", "scale")
_STALE = 60.0  # seconds


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
    parameters = mixture.as_parameters()
    described = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "covariance": mixture.covariance,
        "batch_shape": json.dumps(list(mixture.batch_shape)),
        "n_components": str(mixture.n_components),
        "n_features": str(mixture.n_features),
        "dtype": str(mixture.dtype).removeprefix("torch."),
    }
    tensors = {name: getattr(parameters, name).detach().cpu().contiguous() for name in _TENSORS}
    write_tensors(tensors, described, Path(path))


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
        dtype: theirs; the file's if not given, and float32 on a device without float64.

    Raises:
        StoreError: no such file, a damaged one, one of another program or of a later version.
    """
    place = torch.device(device)
    metadata, tensors = read_tensors(Path(path), str(exact_device(place)), FORMAT, VERSION)
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
    if not _is_sound(parameters):
        raise StoreError(f"{path} is damaged: it holds NaN or infinite values")
    if not has_float64(place):
        parameters = parameters.to(dtype or torch.float32).to(device=place)
    try:
        return GaussianMixture.from_parameters(parameters, dtype=dtype)
    except InputError as error:
        raise StoreError(f"{path}: {error}") from error


def _is_sound(parameters: Parameters) -> bool:
    """Whether all is finite, but for the -inf that is the logit of a weight of zero."""
    logits = parameters.logits
    some = torch.where(logits == -torch.inf, 0, logits)
    return (
        bool((logits > -torch.inf).any(-1).all()) and replace(parameters, logits=some).is_finite()
    )


def write_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], target: Path) -> None:
    """One safetensors file, on the disk as a whole or not at all.

    Raises:
        StoreError: the disk is full or the folder cannot be written; an older file is intact.
    """
    try:
        from safetensors.torch import save as to_bytes
    except ImportError as error:
        raise MissingExtraError("safetensors", "store", f"writing {target.name}") from error
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    drop_stale(target, f"{target.name}.")
    try:
        with partial.open("wb") as file:
            file.write(to_bytes(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())  # the name must not outlive a power cut without the bytes
        partial.replace(target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error}") from error
    finally:
        with suppress(OSError):  # the folder itself may be none
            partial.unlink(missing_ok=True)


def drop_stale(target: Path, prefix: str) -> None:
    """Delete what processes that are gone (SIGKILL) left of writing `target`.

    Args:
        target: the file that is about to be written.
        prefix: such a file is `PREFIX` + number of the process + `.partial`, beside it.
    """
    for left in target.parent.glob(f"{glob.escape(prefix)}*.partial"):
        number = left.name.removeprefix(prefix).removesuffix(".partial")
        with suppress(OSError):  # somebody else may have been faster
            # a minute: on a disk that machines share, the number may be of another one's process
            old = time.time() - left.stat().st_mtime > _STALE
            if number.isdecimal() and old and not _alive(int(number)):
                left.unlink()


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # there is no harmless signal there
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def read_tensors(
    path: Path, device: str, file_format: str, newest: int
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file of one of our formats.

    Raises:
        StoreError: no such file, a damaged one, one of another program or of a later version.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "store", f"reading {path.name}") from error
    if not path.is_file():
        raise StoreError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    try:
        with safe_open(path, framework="pt", device=device) as archive:
            metadata = archive.metadata() or {}
            found = metadata.get("format")
            if found != file_format:
                whose = f"is a {found} file" if found else "is a safetensors file"
                raise StoreError(f"{path} {whose}, not of the format {file_format}")
            version = int(metadata.get("format_version", "0"))
            if version > newest:
                raise StoreError(
                    f"{path} has format version {version}, this torchgmm reads up to {newest}: "
                    "install a newer one"
                )
            return metadata, {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise StoreError(f"{path} is damaged or no safetensors file: {error}") from error
