"""Components into clusters: those that overlap so much that they are one group of rows.

A mixture takes as many Gaussians as the shape of the density wants, and several of them may stand
for one group that is not Gaussian. Baudry, Raftery, Celeux, Lo & Gottardo (2010, Journal of
Computational and Graphical Statistics 19) keep the density and join components into clusters,
step by step, each time the two whose union takes most doubt about the memberships away.
"""

from __future__ import annotations

from .joining import cluster
from .result import Clusters

__all__ = ["Clusters", "cluster"]
