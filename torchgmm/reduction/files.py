"""A fitted PCA to and from one safetensors file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from ..errors import StoreError
from ..store import read_tensors, write_tensors
from .pca import PCA

__all__ = ["load_pca", "save_pca"]

_FORMAT, _VERSION = "torchgmm-pca", 1


def save_pca(pca: PCA, path: str | os.PathLike[str]) -> None:
    """Write a fitted PCA to one safetensors file, replaced as a whole or not at all.

    Example:
        >>> import tempfile, torch, torchgmm as tg
        >>> file = tempfile.mkdtemp() + "/pca.safetensors"
        >>> tg.save_pca(tg.PCA(2).fit(torch.randn(50, 3)), file)
        >>> tg.load_pca(file)
        PCA(n_components=2, whiten=False, 3 -> 2)
    """
    pca._require_axes("save_pca")
    settings = {"n_components": pca.n_components, "whiten": pca.whiten}
    described = {"format": _FORMAT, "format_version": str(_VERSION), "pca": json.dumps(settings)}
    tensors = {name: getattr(pca, name).cpu().clone() for name in pca._TENSORS}
    write_tensors(tensors, described, Path(path))


def load_pca(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> PCA:
    """Read a PCA that `save_pca` wrote.

    Raises:
        StoreError: no such file, a damaged one, one of another program or of a later version.
    """
    metadata, tensors = read_tensors(Path(path), str(device), _FORMAT, _VERSION)
    try:
        pca = PCA(**json.loads(metadata["pca"]))
        m, d = tensors["axes"].shape
        shapes = {"mean": (d,), "axes": (m, d), "back": (d, m), "noise_variance": ()}
        for name in pca._TENSORS:
            if tuple(tensors[name].shape) != shapes.get(name, (m,)):
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}")
            if not bool(tensors[name].isfinite().all()):
                raise ValueError(f"{name} holds NaN or infinite values")
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    pca._hold(**{name: tensors[name].double() for name in pca._TENSORS})
    return pca
