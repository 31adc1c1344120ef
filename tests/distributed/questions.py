"""What a job says of rows without a fit: every process sees its share, all give one answer."""

import torchgmm as tg
from tests.cases import drawn
from tests.distributed.table import W, X, own_rows
from torchgmm.collective import together


@together
def _asked(rows):
    """Rows that depend on the processes are made inside the call."""
    return [number for question in QUESTIONS for number in question(rows())]


def _mixture():
    return tg.GaussianMixture.from_parameters(drawn("full", 4, X.shape[1]))


def _clusters(criterion):
    def question(rows):
        found = tg.cluster(_mixture(), rows, criterion=criterion)
        joined = [float(number) for pair in found.joined for number in pair]
        return [found.n_rows, *found.entropy, *joined]

    return question


def _calibration(rows):
    found = tg.calibrate(_mixture(), rows)
    return [found.log_likelihood, found.n_rows, *found.distance.tolist()]


def _pca(rows):
    found = tg.PCA(2, whiten=True).fit(rows)
    return [*found.mean.tolist(), *found.axes.flatten().tolist(), float(found.noise_variance)]


QUESTIONS = [_clusters("entropy"), _clusters("quadratic"), _calibration, _pca]
ROWS = {
    "all": lambda: X,
    "weighted": lambda: tg.as_source(X, W * (W > 1)),
    "own": lambda: own_rows()["slices"](),
}


def compare():
    """name -> the answers of the job, and the largest difference from those of one process."""
    said = {}
    for name, rows in ROWS.items():
        found = _asked(rows)
        with tg.alone():
            single = _asked(ROWS["all" if name == "own" else name])
        apart = max(abs(a - b) for a, b in zip(found, single, strict=True))
        said[name] = {"answers": found, "apart": apart}
    return said
