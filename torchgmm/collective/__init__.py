"""Many processes: the only room that knows torch.distributed."""

from __future__ import annotations

from .group import ALONE, Group
from .joining import alone, among, current, restarts, together

__all__ = ["ALONE", "Group", "alone", "among", "current", "restarts", "together"]
