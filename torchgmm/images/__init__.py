"""What a mixture of image patches is good for: pictures without their noise."""

from __future__ import annotations

from ..data import read_grey
from .epll import denoise
from .quality import psnr

__all__ = ["denoise", "psnr", "read_grey"]
