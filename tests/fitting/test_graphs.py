"""A step as a CUDA graph: the host's side of it, with a graph that replays by calling."""

import warnings

import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, Case
from torchgmm.data import ArraySource
from torchgmm.fitting import Observer, ahead, graphs

CASE = Case("blobs", 3, 0, 2, 1, k=3, n=600)


def rows(dtype=torch.float32):
    source = ArraySource(CASE.rows(dtype))
    source.on_host = False  # as rows on a GPU
    return source


def tensors(made):
    after, step, wrong = made
    p = after.parameters
    return p.logits, p.means, p.scale, step.numbers, wrong


@pytest.fixture
def calls(monkeypatch):
    """Every recording and replay, in order."""
    seen = []

    def recorded(call, device):
        seen.append("recorded")
        made = call()

        def replay():
            seen.append("replayed")
            for mine, new in zip(tensors(made), tensors(call()), strict=True):
                mine.copy_(new)

        return made, replay

    monkeypatch.setattr(graphs, "recorded", recorded)
    monkeypatch.setattr(graphs, "_can_capture", lambda device: True)
    return seen


def fitted(data=None, family="full", stop=1e-4, n_init=1, init="kmeans", **method):
    mixture = tg.GaussianMixture(CASE.k, covariance=family)
    method = tg.EM(**{"max_iter": 40, **method})
    options = {"stop": tg.Tolerance(stop), "generator": 0, "n_init": n_init, "init": init}
    options["observers"] = [Observer()]  # with whom runs come one after the other
    result = mixture.fit(data or rows(), method, **options)
    levels = [step.log_likelihood for step in result.history]
    return levels, [t.tolist() for t in mixture.parameters()], result.status


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_is_the_same(family, calls):
    expected = fitted(family=family)
    assert not calls
    assert fitted(family=family, check_every=5) == expected
    assert calls.count("recorded") == 1
    # the first compares, and of the last five some may be in vain
    assert len(calls) - 2 >= len(expected[0]) - 1


def test_alone_it_is_asked_for_by_name(calls, monkeypatch):
    expected = fitted()
    monkeypatch.setattr(ahead, "_waited_for", lambda device: True)
    assert fitted() == expected
    assert not calls
    assert fitted(cuda_graph="always") == expected
    assert calls.count("recorded") == 1
    calls.clear()
    assert fitted(cuda_graph="never", check_every=5) == expected
    assert not calls


def test_a_graph_is_recorded_again_when_a_component_was_replaced(calls):
    start = CASE.start("full")
    start.means[1:] = 1e3
    expected = fitted(init=start, stop=0, max_iter=12)
    assert fitted(init=start, stop=0, max_iter=12, check_every=5) == expected
    assert calls.count("recorded") <= graphs._CAPTURES


def test_runs_share_it(calls):
    assert fitted(n_init=3, cuda_graph="always", check_every=4) == fitted(n_init=3)
    assert calls.count("recorded") == 1


def test_large_steps_are_not_recorded(calls, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST", 100)
    fitted(check_every=5)
    assert not calls


@pytest.mark.parametrize("where", ["host", "reads"])
def test_rows_that_come_to_other_places_are_not(where, calls):
    data = rows()
    setattr(data, *{"host": ("on_host", True), "reads": ("reads", True)}[where])
    fitted(data, check_every=5, cuda_graph="always")
    assert not calls


def refused(call, device):
    raise RuntimeError("operation not permitted when stream is capturing")


def wrong(call, device):
    made = call()
    return made, lambda: made[0].parameters.means.zero_()


@pytest.mark.parametrize(
    ("recorded", "why"), [(refused, "not permitted"), (wrong, "its replay gives other numbers")]
)
def test_one_that_does_not_work_is_told_once_and_does_no_harm(recorded, why, calls, monkeypatch):
    monkeypatch.setattr(graphs, "recorded", recorded)
    expected = fitted()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert fitted(check_every=5) == expected
    with pytest.warns(RuntimeWarning, match=why) as told:
        assert fitted(check_every=5, cuda_graph="always") == expected
    assert len([w for w in told if w.category is RuntimeWarning]) == 1


def test_other_words_are_refused():
    with pytest.raises(tg.InputError, match="auto, always or never"):
        tg.EM(cuda_graph="yes")
    with pytest.raises(tg.InputError, match="SQUAREM looks at every step"):
        tg.SQUAREM(cuda_graph="always")


@pytest.mark.cuda
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("every", [1, 10])
def test_on_a_gpu(family, every):
    """Recorded for good: no warning, and the bits of the fit that looks at every step."""
    x, start = CASE.rows(torch.float32).cuda(), CASE.start(family).to(device=torch.device("cuda"))
    found = []
    for method in (
        tg.EM(max_iter=20, check_every=every, cuda_graph="always"),
        tg.EM(max_iter=20, cuda_graph="never"),
    ):
        mixture = tg.GaussianMixture(CASE.k, covariance=family, device="cuda")
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            result = mixture.fit(x, method, init=start, stop=tg.Tolerance(0))
        found.append([step.log_likelihood for step in result.history])
    assert found[0] == found[1]
