"""What the suites of the estimator share."""

import numpy as np
import sklearn.mixture
from sklearn.datasets import make_blobs

from torchgmm.sklearn import GaussianMixture

THEIRS = ("full", "tied", "diag", "spherical")
OTHERS = ("tied_diagonal", "tied_spherical")
ARRAYS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def overlapping(n=300, d=3, k=3, seed=0):
    """Blobs that touch, with some correlation: no fit of them ends in two steps."""
    x, _ = make_blobs(n, d, centers=k, cluster_std=2.5, random_state=seed)
    return x @ (np.eye(d) + 0.3 * np.triu(np.ones((d, d)), 1))


def pair(k=3, **params):
    """scikit-learn's estimator and ours with the same parameters."""
    return sklearn.mixture.GaussianMixture(k, **params), GaussianMixture(k, **params)


def assert_same_fit(theirs, ours, rtol=1e-8, atol=1e-8):
    """Everything that a fit leaves; sums in another order are all that may differ."""
    for name in ARRAYS:
        a, b = getattr(theirs, name), np.asarray(getattr(ours, name))
        assert a.shape == b.shape, name
        assert a.dtype == b.dtype, name
        scale = max(1.0, float(np.abs(a).max()))
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol * scale, err_msg=name)
    assert ours.converged_ == theirs.converged_
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.n_features_in_ == theirs.n_features_in_
