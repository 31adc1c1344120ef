"""What a job does to be compared with one process: every family, method, start and source."""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import torchgmm as tg
from tests.cases import FAMILIES, Case
from tests.distributed.common import distance
from torchgmm.collective import current, together
from torchgmm.data import LoaderSource, OwnRows, ShardSource, as_source

APART = Case("apart", 3, 0, 4, 2, k=3, n=1201)
X = APART.rows()
W = 0.5 + torch.arange(len(X)).double() % 3
STOP = tg.Tolerance(1e-9)

METHODS = {
    "em": tg.EM(max_iter=8),
    "squarem": tg.SQUAREM(max_iter=9),
    "incremental": tg.IncrementalEM(max_iter=2, n_blocks=5),
    "reduced": tg.VarianceReducedEM(max_iter=3, n_blocks=4),
    "online": tg.OnlineEM(max_iter=1, batch_size=128),
    "gradient": tg.Gradient(max_iter=1, batch_size=200),
    "lbfgs": tg.Gradient(max_iter=2, optimizer="LBFGS"),
}


def fits(folder):
    """name -> a function that fits and gives the parameters."""
    table = {}
    for method in METHODS:
        for family in FAMILIES:
            table[f"{method}-{family}"] = _fit(method, family, init=APART.start(family))
    for seeding in ("kmeans", "k-means++", "random_from_data", "random"):
        table[f"start-{seeding}"] = _fit("em", "full", init=seeding)
    labels = (torch.arange(len(X)) % 4) - 1
    table["start-labels"] = _fit("em", "full", init=labels)
    table["restarts"] = _fit("em", "diagonal", init="random", n_init=3)
    table["weights"] = _fit("em", "full", init="kmeans", weights=W)
    table["weights-online"] = _fit("online", "full", init="kmeans", weights=W * (W > 1))
    table["rescue"] = _rescue("em")
    table["rescue-incremental"] = _rescue("incremental")
    table["rescue-gradient"] = _rescue("gradient")
    table["annealing"] = _fit(tg.Gradient(max_iter=1, annealing=2), "full", init="random_from_data")
    table["rows-per-step"] = _fit(
        tg.OnlineEM(max_iter=5, batch_size=100, rows_per_step=300), "full", init=APART.start("full")
    )
    table["stream"] = _fit("online", "full", x=lambda: iter(X.split(100)), init="kmeans")
    table["batches-of-one"] = _fit(
        tg.OnlineEM(max_iter=1, batch_size=1), "full", x=X[:30], init=APART.start("full")
    )
    table["drift"] = _fit(tg.OnlineEM(max_iter=1, forget=500), "full", init=APART.start("full"))
    for name, source in sources(folder).items():
        table[f"source-{name}"] = _fit("em", "full", x=source, init="kmeans")
        if name not in ("memmap", "batches"):
            table[f"source-{name}-online"] = _fit("online", "full", x=source, init="kmeans")
    table["squarem-fallback"] = _falling_back
    table["shared-m-step"] = _many_features
    for name, source in own_rows().items():
        table[f"own-{name}"] = _fit("em", "full", x=source, init=APART.start("full"))
    table["own-kmeans"] = _fit("em", "full", x=own_rows()["slices"], init="kmeans")
    table["select"] = lambda: _Chosen(tg.select(X, range(1, 5), ["full", "tied"], generator=0))
    table["select-own"] = lambda: _Chosen(
        tg.select(own_rows()["uneven"](), [2, 3], "diagonal", generator=0)
    )
    table["select-cv"] = lambda: _Chosen(
        tg.select(X, [2, 3], "diagonal", "cv", folds=3, weights=W, generator=0)
    )
    return table


def names():
    """Of all fits, without the data."""
    with tempfile.TemporaryDirectory() as folder:
        return list(fits(Path(folder)))


class _Chosen:
    """A search as if it were a fit."""

    def __init__(self, found):
        self.parameters, self.n_steps = found.best.as_parameters(), len(found.candidates)
        self.history, self.log_likelihood = (), found.best_candidate.value


def own_rows():
    """name -> a function that gives this process rows of its own: all rows, in one process."""

    def slices():
        start, stop = current().share(len(X))
        return OwnRows(X[start:stop])

    def uneven():
        if current().size == 1:
            return OwnRows(X)
        return OwnRows(X if current().rank == 1 else None)

    def sampler():
        group = current()
        data = TensorDataset(X)
        share = DistributedSampler(data, group.size, group.rank)  # it shuffles, and repeats rows
        return DataLoader(data, batch_size=64, sampler=share)

    def iterable():
        return OwnRows(_EveryOther(current().rank, current().size))

    return {"slices": slices, "uneven": uneven, "sampler": sampler, "iterable": iterable}


class _EveryOther(torch.utils.data.IterableDataset):
    """Rows by the number of the process, as `split_dataset_by_node` deals them out."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def __iter__(self):
        return iter(X[self.rank :: self.size])


def streams():
    """name -> a fit to rows that come once, or that each process has of its own, by batches."""

    def own():
        start, stop = current().share(len(X))
        return OwnRows(X[start : stop - 100 * current().rank])  # other numbers in each

    def once():
        start, stop = current().share(len(X))
        return OwnRows(iter(X[start:stop].split(90 + current().rank)))

    online, gradient = tg.OnlineEM(max_iter=4, batch_size=150), tg.Gradient(max_iter=30)
    return {
        "own-online": _fit(online, "full", x=own, init="kmeans"),
        "own-gradient": _fit(gradient, "full", x=own, init="kmeans"),
        "own-lbfgs": _fit(tg.Gradient(optimizer="LBFGS"), "full", x=own, init="kmeans"),
        "own-stream": _fit(online, "full", x=once, init="kmeans"),
    }


def parallel_gradients():
    """The gradient of a mixture under torch's DistributedDataParallel, and of one process."""
    from torch.nn.parallel import DistributedDataParallel

    gradients = []
    for wrap in (DistributedDataParallel, lambda module: module):
        mixture = tg.GaussianMixture.from_parameters(APART.start("full"), dtype=torch.float64)
        many = wrap is DistributedDataParallel
        start, stop = (600 * torch.distributed.get_rank(), 600) if many else (0, 1200)
        module = wrap(mixture)  # kept until its gradients are there
        loss = -module(X[start : start + stop]).mean()
        loss.backward()
        gradients.append([p.grad for p in mixture.parameters()])
    return max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))


def levels():
    """How good the fits of `streams` are: each method's, and exact EM's."""
    warnings.simplefilter("ignore")
    best = tg.GaussianMixture(3, dtype=torch.float64)
    with tg.alone():
        best.fit(X, generator=0, stop=STOP)
    found = {"em": float(best.score(X))}
    for name, call in streams().items():
        mixture = tg.GaussianMixture.from_parameters(_do(call).parameters)
        found[name] = float(mixture.score(X))
    return found


def sources(folder):
    """name -> a function that opens the same rows in another place."""
    for i, part in enumerate(np.split(X.numpy(), [10, 400, 401, 900])):
        np.save(folder / f"part-{i}.npy", part)
    np.save(folder / "one.npy", X.numpy())

    def write_parquet():
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({f"c{j}": X[:, j].numpy() for j in range(X.shape[1])})
        pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=250)

    write_parquet()
    files = sorted(folder.glob("part-*.npy"))
    encoder = torch.nn.Identity()
    return {
        "files": lambda: ShardSource(files, block_rows=100),
        "parquet": lambda: ShardSource(folder / "rows.parquet", block_rows=100),
        "memmap": lambda: np.load(folder / "one.npy", mmap_mode="r"),
        "dataset": lambda: list_of_rows(),
        "loader": lambda: DataLoader(TensorDataset(X, W), batch_size=64),
        "batches": lambda: LoaderSource(lambda: iter(X.split(100))),
        "encoded": lambda: as_source(X, encoder=encoder),
    }


class _Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i]


def list_of_rows():
    return _Rows()


def _fit(method, family, x=X, **options):
    def run():
        mixture = tg.GaussianMixture(3, covariance=family, dtype=torch.float64)
        made = METHODS[method] if isinstance(method, str) else method
        rows = x() if callable(x) else x
        return mixture.fit(rows, made, generator=0, stop=STOP, **options)

    return run


def _falling_back():
    """An extrapolation that loses likelihood: the rows are read once more in that step."""
    x = Case("overlap", 2, 0, 1.5, 4, k=3, n=400).rows(seed=3)
    mixture = tg.GaussianMixture(3, dtype=torch.float64)
    method = tg.SQUAREM(max_iter=7)
    result = mixture.fit(x, method, init="random_from_data", generator=3, stop=tg.Tolerance(0))
    assert 2 * len(x) in [step.rows for step in result.history]
    return result


def _many_features():
    """So many that each process makes the M-step of some components."""
    x = torch.randn(400, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :2] *= 4
    mixture = tg.GaussianMixture(5, dtype=torch.float64)
    return mixture.fit(x, tg.EM(3, reg_covar=0.5), init="kmeans", generator=0, stop=tg.Tolerance(0))


def _rescue(method):
    """A component far from all rows, which is moved to the row that is explained worst."""
    start = APART.start("full")
    means = start.means.clone()
    means[0] += 60

    def run():
        mixture = tg.GaussianMixture(3, dtype=torch.float64)
        begin = tg.Parameters(start.logits, means, start.scale, start.family)
        result = mixture.fit(X, METHODS[method], init=begin, generator=0, stop=STOP)
        assert result.rescued
        return result

    return run


@together
def _do(call):
    """Data that depend on the processes are made inside the call, too."""
    return call()


def compare(folder):
    """name -> the distance from the answer of one process, and whether all processes have it."""
    warnings.simplefilter("ignore")
    answers = {}
    for name, call in fits(Path(folder)).items():
        began = time.time()
        try:
            found = _do(call)
        except Exception as error:
            raise AssertionError(f"{name}: {error!r}") from error
        with tg.alone():
            single = call()
        answers[name] = {
            "distance": distance(found.parameters, single.parameters),
            "steps": [found.n_steps, single.n_steps],
            "rows": [s.rows for s in found.history] == [s.rows for s in single.history],
            "level": abs(found.log_likelihood - single.log_likelihood),
            "n_bytes": [step.n_bytes for step in found.history],
            "seconds": time.time() - began,
            "digest": float(found.parameters.means.sum()).hex(),
        }
    run = fits(Path(folder))["em-full"]
    first, second = (_do(run).parameters for _ in range(2))
    with tg.alone():
        alone = run()
    answers["em-full"]["again"] = all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("logits", "means", "scale")
    )
    answers["em-full"]["alone"] = sum(step.n_bytes for step in alone.history)
    return answers
