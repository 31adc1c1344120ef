"""Searches, estimators and files on a device without float64."""

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.without_float64 import apple
from tests.without_float64.apple import THERE, placed, there
from tests.without_float64.common import CASE, WEIGHTS, X, close, mixture_of


def test_a_mixture_is_built_and_sized_there(far):
    for mixture in (tg.GaussianMixture(3, device=THERE), tg.GaussianMixture(3, 3, device=THERE)):
        mixture.fit(there(X), generator=0)
        assert {t.device for t in mixture.parameters()} == {THERE}


@pytest.mark.parametrize("options", [{}, {"n_init": 2}, {"criterion": "cv", "folds": 2}], ids=str)
def test_a_search_is_that_on_the_cpu(options, monkeypatch):
    kinds = {"n_components": [2, 3], "covariance": ["full", "tied"], "generator": 0, **options}
    wanted = tg.select(X, **kinds)
    with apple.device(monkeypatch):
        found = tg.select(there(X), **kinds)
        assert found.best.device == THERE
    values = [[one.value for one in table.candidates] for table in (found, wanted)]
    close(torch.tensor(values[0]), torch.tensor(values[1]))


def test_a_test_is_made_on_the_cpu(monkeypatch):
    options = {"n_replicates": 3, "generator": 0}
    wanted = tg.bootstrap_test(X[:90], 1, **options)
    with apple.device(monkeypatch):
        found = tg.bootstrap_test(there(X[:90]), 1, **options)
    assert found.statistic == pytest.approx(wanted.statistic)
    assert found.p_value == wanted.p_value


@pytest.mark.parametrize("criterion", ["entropy", "quadratic"])
def test_clusters_are_those_on_the_cpu(criterion, monkeypatch):
    mixture = mixture_of("full")
    wanted = tg.cluster(mixture, X, WEIGHTS, criterion=criterion)
    with apple.device(monkeypatch):
        found = tg.cluster(placed(mixture), there(X), WEIGHTS, criterion=criterion)
        assert found.joined == wanted.joined
        close(torch.tensor(found.entropy), torch.tensor(wanted.entropy))


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_the_estimator_computes_there(kind, monkeypatch):
    from torchgmm.sklearn import GaussianMixture

    rows = X.double().numpy()
    wanted = GaussianMixture(3, init_params="kmeans", random_state=0).fit(rows)
    with apple.device(monkeypatch):
        rows = there(X) if kind == "tensor" else rows
        given = {"means_init": wanted.means_, "device": THERE}
        own = GaussianMixture(3, random_state=0, **given).fit(rows)
        assert len(own.lower_bounds_) > 1
        assert own.score(rows) == pytest.approx(wanted.score(X.double().numpy()), abs=1e-3)
        assert own.bic(rows) == pytest.approx(wanted.bic(X.double().numpy()), rel=1e-3)
        answer = own.predict_proba(rows)
        assert isinstance(answer, apple.There if kind == "tensor" else np.ndarray)
        own.partial_fit(rows)


def test_the_classifier_computes_there(monkeypatch):
    from torchgmm.sklearn import GaussianMixtureClassifier

    rows, labels = X.double().numpy(), (X[:, 0] > 0).long().numpy()
    wanted = GaussianMixtureClassifier(random_state=0).fit(rows, labels)
    with apple.device(monkeypatch):
        own = GaussianMixtureClassifier(random_state=0, device=THERE).fit(rows, labels)
        answers = own.predict_log_proba(rows)
        own.partial_fit(rows, labels)
    close(torch.from_numpy(answers), torch.from_numpy(wanted.predict_log_proba(rows)), 1e-3)


def test_files_are_read_into_it(monkeypatch, tmp_path):
    path = tmp_path / "mixture.safetensors"
    tg.save(tg.GaussianMixture.from_parameters(CASE.start("full")), path)  # float64
    with apple.device(monkeypatch):
        mixture = tg.load(path, device=THERE)
        assert (mixture.device, mixture.dtype) == (THERE, torch.float32)
        tg.save(mixture, path)
    assert tg.load(path).dtype == torch.float32
