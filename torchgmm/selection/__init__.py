"""Choice of the number of components and of the covariance family: searches and a test."""

from __future__ import annotations

from .bootstrap import BootstrapTest, bootstrap_test
from .result import Candidate, Comparison, Selection
from .search import select

__all__ = ["BootstrapTest", "Candidate", "Comparison", "Selection", "bootstrap_test", "select"]
