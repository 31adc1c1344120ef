"""k-means on tensors: k-means++ and Lloyd's steps, weighted, in chunks, on the rows' device.

On a device that runs out of memory a run is made again with smaller chunks, from the same draws.
Rows are `(N, D)`, or `(B, N, D)` for B data sets at once; these know nothing of each other.
"""

from __future__ import annotations

from .lloyd import clustered, kmeans
from .nearest import assign, nearest_labels
from .spread import kmeans_plus_plus

__all__ = ["assign", "clustered", "kmeans", "kmeans_plus_plus", "nearest_labels"]
