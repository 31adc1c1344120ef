"""Choice of the number of components and of the covariance family."""

from __future__ import annotations

from .result import Candidate, Comparison, Selection
from .search import select

__all__ = ["Candidate", "Comparison", "Selection", "select"]
