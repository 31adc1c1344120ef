"""Many processes: the only room that knows torch.distributed.

`fit`, `select` and the commands are made *together* by the processes of a job. These are those of
the torch.distributed group that exists, or of one that is made from the environment of torchrun or
SLURM; without either a process works alone and nothing here costs anything.

- Every process reads its share of the rows (`Source.share`), sums moments, and hands them over:
  one flat sum over all processes in float64, after which all hold the same bits and make the same
  M-step. A digest of the parameters goes along, and differences end the fit.
- Whatever else one process tells the others is a sum too, in which the rest are zeros.
- A process that fails says so in the group's store, and the others, which look there while they
  wait, raise a `PeerError` with its words. Who is killed or does not come is named after
  `TORCHGMM_TIMEOUT` seconds.
- `alone()` makes a process work by itself, `among(group)` those of another group.
"""

from __future__ import annotations

from .group import ALONE, Group
from .joining import alone, among, current, restarts, together

__all__ = ["ALONE", "Group", "alone", "among", "current", "restarts", "together"]
