"""Components into clusters: the sums of Baudry et al. (2010), computed here row by row."""

import itertools
import math

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, FLOATS, blobs, drawn


def mixture_of(family="full", k=5, d=2, dtype=torch.float64, seed=0):
    return tg.GaussianMixture.from_parameters(drawn(family, k, d, seed=seed), dtype=dtype)


def naive(r, w, criterion):
    """The whole hierarchy from `r (N, K)` by trying every pair: groupings and entropies."""

    def doubt(t):
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(t > 0, -t * np.log(t), 0) if criterion == "entropy" else t - t * t
        return (w * terms.sum(1)).sum() / w.sum()

    groups = [[k] for k in range(r.shape[1])]
    found = {len(groups): (list(groups), doubt(r))}
    while len(groups) > 1:
        tried = []
        for a, b in itertools.combinations(range(len(groups)), 2):
            joined = [g for i, g in enumerate(groups) if i not in (a, b)] + [groups[a] + groups[b]]
            t = np.stack([r[:, g].sum(1) for g in joined], 1)
            tried.append((doubt(t), joined))
        level, groups = min(tried, key=lambda one: one[0])
        found[len(groups)] = (groups, level)
    return found


@pytest.mark.parametrize("criterion", ["entropy", "quadratic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_step_is_the_best_pair_of_all(family, criterion):
    mixture = mixture_of(family, 6, 2)
    x = mixture.sample((400,), torch.Generator().manual_seed(1))
    w = torch.rand(400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = tg.cluster(mixture, x, w, criterion=criterion)
    expected = naive(mixture.responsibilities(x).detach().numpy(), w.numpy(), criterion)
    for g, (groups, level) in expected.items():
        # sums of 400 terms in another order; the last entropy is 0 but for that
        assert found.entropy[g - 1] == pytest.approx(level, rel=1e-10, abs=1e-12)
        mine = found.groups(g).tolist()
        assert {tuple(k for k in range(6) if mine[k] == c) for c in range(g)} == {
            tuple(sorted(group)) for group in groups
        }
    assert found.n_rows == pytest.approx(float(w.sum()))


def test_icls_entropy_is_that_of_all_components():
    # ICL = BIC + 2 sum of entropies: both faces tell the same number
    mixture = mixture_of()
    x = mixture.sample((300,))
    found = tg.cluster(mixture, x)
    own = float(mixture.icl(x) - mixture.bic(x)) / 2 / 300
    assert found.entropy[-1] == pytest.approx(own, rel=1e-9)
    assert float(mixture.membership_entropy(x).detach().mean()) == pytest.approx(own, rel=1e-9)


def cross(n=2000, seed=0):
    """Baudry et al.'s example 4.1 in kind: two round groups, and two crossed ellipses each."""
    g = torch.Generator().manual_seed(seed)
    long = torch.randn(n, 2, generator=g, dtype=torch.float64) * torch.tensor([2.0, 0.2])
    turned = torch.randn(n, 2, generator=g, dtype=torch.float64) * torch.tensor([0.2, 2.0])
    x = torch.cat([long, turned])
    return torch.cat([x, x + 12, torch.randn(n, 2, generator=g, dtype=torch.float64) + 6])


def test_crossed_ellipses_are_one_cluster_each():
    x = cross()
    arms = torch.arange(5).repeat_interleave(2000)  # the density wants one Gaussian for each
    mixture = tg.GaussianMixture(5, dtype=torch.float64)
    mixture.fit(x, init=arms)
    assert float(mixture.bic(x)) < float(tg.select(x, [3], "full", generator=0).best.bic(x))
    found = tg.cluster(mixture, x)
    assert found.n_clusters == 3
    truth = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor([4000, 4000, 2000]))
    labels = found.predict(x)
    table = torch.zeros(3, 3).index_put_((labels, truth), torch.ones(len(x)), accumulate=True)
    assert float(table.amax(1).sum()) / len(x) > 0.995
    # the density is as it was: shares of the clusters are sums of weights
    assert sorted(found.weights().tolist()) == pytest.approx([0.2, 0.4, 0.4], abs=0.02)


def test_clear_components_stay_clusters():
    x = blobs(800, 2, 4, 15.0)
    mixture = tg.GaussianMixture(4, dtype=torch.float64)
    mixture.fit(x, generator=0)
    found = tg.cluster(mixture, x)
    assert found.entropy[-1] < 1e-6
    assert found.n_clusters == 4
    assert torch.equal(found.predict(x), mixture.predict(x))


@pytest.mark.parametrize("dtype", FLOATS)
def test_memberships_and_labels_are_sums_over_components(dtype):
    mixture = mixture_of("full", 5, 3, dtype)
    x = mixture.sample((200,))
    found = tg.cluster(mixture, x)
    for g in range(1, 6):
        groups = found.groups(g)
        r = mixture.responsibilities(x)
        expected = torch.stack([r[:, groups == c].sum(1) for c in range(g)], 1)
        mine = found.responsibilities(x, g)
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, expected)
        assert torch.equal(found.predict(x, g), expected.argmax(1))
        assert groups.unique().tolist() == list(range(g))
        assert float(found.weights(g).sum().detach()) == pytest.approx(1)
    found.responsibilities(x.requires_grad_(), 2)[:, 0].sum().backward()
    assert x.grad is not None


def test_clusters_nest():
    mixture = mixture_of(k=7)
    found = tg.cluster(mixture, mixture.sample((500,)))
    for g in range(1, 7):
        coarse, fine = found.groups(g), found.groups(g + 1)
        pairs = {(int(a), int(b)) for a, b in zip(fine, coarse, strict=True)}
        assert len(pairs) == g + 1  # every fine cluster lies in one coarse cluster
        assert found.entropy[g - 1] <= found.entropy[g] + 1e-12


@pytest.mark.parametrize("criterion", ["entropy", "quadratic"])
def test_sources_give_what_the_array_gives(tmp_path, criterion, monkeypatch):
    mixture = mixture_of(k=5)
    x = mixture.sample((900,))
    np.save(tmp_path / "rows.npy", x.numpy())
    whole = tg.cluster(mixture, x, criterion=criterion)
    monkeypatch.setattr("torchgmm.clusters.doubt._KEPT", 0)  # nothing is kept: every pass reads
    for data in (tmp_path / "rows.npy", lambda: iter(x.split(70)), x):
        found = tg.cluster(mixture, data, criterion=criterion)
        assert found.joined == whole.joined
        assert found.entropy == pytest.approx(whole.entropy, rel=1e-10, abs=1e-12)


def test_a_weight_is_so_many_rows_and_zero_is_none():
    mixture = mixture_of(k=4)
    x = mixture.sample((200,))
    w = torch.randint(0, 3, (200,))
    spoilt = x.clone()
    spoilt[w == 0] = torch.nan
    for criterion in ("entropy", "quadratic"):
        one = tg.cluster(mixture, spoilt, w, criterion=criterion)
        other = tg.cluster(mixture, x.repeat_interleave(w, 0), criterion=criterion)
        assert one.joined == other.joined
        assert one.entropy == pytest.approx(other.entropy, rel=1e-10, abs=1e-12)


def test_mixed_precision_stays_outside():
    mixture = mixture_of(k=4, dtype=torch.float32)
    x = mixture.sample((300,))
    expected = tg.cluster(mixture, x), tg.calibrate(mixture, x), mixture.mahalanobis(x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = tg.cluster(mixture, x), tg.calibrate(mixture, x), mixture.mahalanobis(x).detach()
    assert found[0].entropy == expected[0].entropy
    assert torch.equal(found[1].distance, expected[1].distance)
    assert torch.equal(found[2], expected[2])


def test_a_stream_is_read_once_or_refused():
    mixture = mixture_of(k=4)
    x = mixture.sample((300,))
    whole = tg.cluster(mixture, x, criterion="quadratic")
    found = tg.cluster(mixture, iter(x.split(50)), criterion="quadratic")
    assert found.joined == whole.joined
    with pytest.raises(tg.InputError, match="read only once, but the entropy is summed again"):
        tg.cluster(mixture, iter(x.split(50)))


def test_one_and_two_components():
    x = blobs(100, 2, 2, 1.0)
    for k in (1, 2):
        mixture = tg.GaussianMixture(k, dtype=torch.float64)
        mixture.fit(x, generator=0)
        found = tg.cluster(mixture, x)
        assert (found.n_clusters, len(found.entropy), len(found.joined)) == (k, k, k - 1)
        assert found.entropy[0] == 0.0
        assert found.predict(x, 1).tolist() == [0] * 100


def test_tables():
    mixture = mixture_of(k=4)
    found = tg.cluster(mixture, mixture.sample((300,)))
    lines = found.to_markdown().splitlines()
    assert len(lines) == 2 + 4
    assert sum(line.startswith("| **") for line in lines) == 1
    assert "{0}, {1}, {2}, {3}" in lines[-1]
    assert str(found).startswith(f"4 component(s) in {found.n_clusters} cluster(s)")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m, x: tg.cluster(m, x, criterion="gini"), "criterion must be one of entropy, quad"),
        (lambda m, x: tg.cluster(m, x[:, :1]), "rows have 1 columns"),
        (lambda m, x: tg.cluster(m, x * math.nan), "NaN or infinite"),
        (lambda m, x: tg.cluster(m, x, -torch.ones(20)), "negative"),
        (lambda m, x: tg.cluster(m, x).groups(5), "n_clusters=5 is more than the 4 components"),
        (lambda m, x: tg.cluster(m, x).predict(x, 0), "at least 1"),
        (lambda m, x: tg.cluster(tg.GaussianMixture(2, 2, batch_shape=(3,)), x), "one mixture is"),
    ],
)
def test_wrong_settings_are_refused(call, text):
    mixture = mixture_of(k=4)
    with pytest.raises(tg.InputError, match=text):
        call(mixture, mixture.sample((20,)))


def test_a_mixture_without_features_is_refused():
    with pytest.raises(tg.TorchGMMError, match="known n_features"):
        tg.cluster(tg.GaussianMixture(2), torch.zeros(3, 2))
