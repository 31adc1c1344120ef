"""`select`: the table is what its fits are, choices are the published ones, streams are rows."""

import itertools

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.metrics import adjusted_rand_score

import torchgmm as tg
from tests.cases import blobs
from torchgmm.data import as_source
from torchgmm.selection.criteria import evidence
from torchgmm.selection.parts import Part, fold_of
from torchgmm.selection.starts import Centres, Split, hollow

FAMILIES = tg.families()


def faithful(root):
    return np.genfromtxt(root / "configs/data/faithful.csv", delimiter=",", skip_header=1)


# published choices ------------------------------------------------------------------------------


def test_old_faithful_is_three_tied_components(root):
    # mclust (Scrucca et al. 2016): EEE with 3 components, BIC -2314.4; VVV with 2, -2322.2
    found = tg.select(faithful(root), range(1, 6), ["full", "tied", "diagonal"], generator=0)
    assert (found.n_components, found.covariance) == (3, "tied")
    assert found.best_candidate.value == pytest.approx(2314.4, abs=0.2)
    ks, values = found.curve("full")
    assert values[ks.index(2)] == pytest.approx(2322.19, abs=0.2)


def test_iris_is_two_full_components():
    # mclust's table: VVV -829.98, -574.02, -580.84 with 1, 2, 3 components
    x = datasets.load_iris().data
    found = tg.select(x, range(1, 6), ("full", "tied", "spherical"), generator=0)
    assert (found.n_components, found.covariance) == (2, "full")
    assert found.curve("full")[1][:3] == pytest.approx([829.98, 574.02, 580.84], abs=0.1)


def test_three_kinds_of_wine_share_their_axes():
    # mclust (Scrucca et al. 2016): VVE with 3 components, 158 parameters, log-likelihood -3015.335,
    # BIC -6849.39, five of the 178 wines beside other cultivars. More starts than its one find a
    # better maximum, which is the three cultivars themselves; with a fourth component, which cuts
    # one of these in two, they find BIC of 6780 to 6820, which mclust does not publish.
    x, cultivars = datasets.load_wine(return_X_y=True)
    found = tg.select(x, [1, 2, 3], ("full", "tied", "diagonal", "common_axes"), generator=0)
    assert (found.n_components, found.covariance) == (3, "common_axes")
    best = tg.select(x, [3], "common_axes", n_init=8, generator=0).best
    assert best.n_parameters == 158
    assert float(best.bic(x)) <= 6849.39
    assert float(best.score(x)) * len(x) >= -3015.335
    assert adjusted_rand_score(cultivars, best.predict(x)) == 1


@pytest.mark.parametrize("criterion", ["bic", "icl", "held-out", "cv"])
def test_blobs_are_counted_by_every_criterion(criterion):
    x = blobs(600, 2, 4, 12.0)
    found = tg.select(x, range(2, 7), "spherical", criterion, patience=2, folds=3, generator=0)
    # cross-validation does not punish a fifth component that fits almost nothing
    assert found.n_components in ((4, 5) if criterion in ("held-out", "cv") else (4,))
    assert found.best.n_components == found.n_components
    assert found.criterion == criterion


# the table --------------------------------------------------------------------------------------


def test_every_figure_is_that_of_its_mixture():
    x = blobs(150, 3, 3, 6.0)
    w = torch.rand(150, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for weights in (None, w):
        found = tg.select(x, [1, 3], FAMILIES, "aic", weights=weights, generator=0)
        for c in found.candidates:
            mixture = tg.GaussianMixture.from_parameters(c.parameters)
            assert c.n_parameters == mixture.n_parameters
            assert c.log_likelihood == pytest.approx(float(mixture.score(x, weights)), rel=1e-9)
            for name in ("bic", "aic", "icl"):
                own = float(getattr(mixture, name)(x, weights))
                assert getattr(c, name) == pytest.approx(own, rel=1e-9), name
            assert c.value == c.aic
        assert found.best_candidate.value == min(c.value for c in found.candidates)
        torch.testing.assert_close(found.best.means, found.best_candidate.parameters.means,
                                   check_dtype=False)  # fmt: skip


def test_a_weight_of_two_is_two_rows():
    x = blobs(200, 2, 3, 5.0)
    w = torch.ones(200)
    w[::3] = 2
    twice = torch.cat([x, x[::3]])
    one = tg.select(x, [1], FAMILIES, weights=w, generator=0)
    other = tg.select(twice, [1], FAMILIES, generator=0)
    for a, b in zip(one.candidates, other.candidates, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-9)


def test_the_fits_are_at_least_as_good_as_from_kmeans_alone():
    # one of the starts of a candidate is a k-means start; the split can only add to it
    x = blobs(900, 3, 6, 4.0, seed=3)
    found = tg.select(x, range(1, 8), "full", patience=None, generator=0)
    for c in found.candidates:
        alone = tg.GaussianMixture(c.n_components, dtype=torch.float64)
        alone.fit(x, tg.EM(max_iter=300), stop=tg.Tolerance(1e-4), generator=0)
        # the two k-means runs draw other centres; a twentieth of a nat apart is another optimum
        assert c.log_likelihood > float(alone.score(x)) - 0.05


def test_patience_leaves_a_family_that_has_turned():
    x = blobs(500, 2, 2, 10.0)
    told = []
    found = tg.select(x, range(1, 21), ["spherical", "full"], patience=3, generator=0,
                      on_candidate=told.append)  # fmt: skip
    assert [c.n_components for c in found.candidates] == [*range(1, 6), *range(1, 6)]
    assert tuple(told) == found.candidates
    whole = tg.select(x, range(1, 9), "spherical", patience=None, generator=0)
    assert len(whole.candidates) == 8


def test_tables_and_pictures():
    x = blobs(300, 2, 2, 8.0)
    for criterion in ("bic", "held-out"):
        found = tg.select(x, range(1, 4), ["full", "tied"], criterion, generator=0)
        lines = found.to_markdown().splitlines()
        assert len(lines) == 2 + len(found.candidates)
        assert len({line.count("|") for line in lines}) == 1
        assert sum(line.startswith("| **") for line in lines) == 1
        assert f"| **{found.n_components}** | **{found.covariance}** |" in found.to_markdown()
        assert str(found).startswith(f"{found.n_components} {found.covariance} component(s) by")
        ax = found.plot()
        assert [line.get_label() for line in ax.get_lines()] == ["full", "tied", "chosen"]
        assert found.plot(ax) is ax
    frame = pytest.importorskip("pandas") and found.to_pandas()
    assert len(frame) == len(found.candidates)
    assert {"n_components", "covariance", "value", "bic", "seconds"} <= set(frame.columns)


def test_the_same_seed_gives_the_same_table():
    x = blobs(300, 2, 3, 3.0)
    one, other = (tg.select(x, [1, 2, 4], ["full", "tied"], generator=7) for _ in range(2))
    assert [c.value for c in one.candidates] == [c.value for c in other.candidates]


# sources ----------------------------------------------------------------------------------------


def test_streams_give_what_the_array_gives(tmp_path):
    x = blobs(600, 2, 3, 6.0)
    np.save(tmp_path / "rows.npy", x.numpy())

    def batches():
        return iter(x.split(100))

    expected = tg.select(x, range(1, 5), "full", generator=0)
    for data in (tmp_path / "rows.npy", batches, torch.utils.data.DataLoader(x, batch_size=64)):
        found = tg.select(data, range(1, 5), "full", generator=0)
        assert found.n_components == expected.n_components
        # the sample is in another order, the optimum is not
        assert found.best_candidate.value == pytest.approx(expected.best_candidate.value, abs=0.5)
    cut = tg.select(batches, [1, 3], "full", "cv", folds=2, generator=0)
    assert cut.n_components > 1


def test_every_method_can_be_asked():
    x = blobs(3000, 2, 3, 8.0)
    for method in (tg.OnlineEM(max_iter=3), tg.IncrementalEM(max_iter=5)):
        found = tg.select(x, [2, 3, 4], "spherical", method=method, generator=0)
        assert found.n_components == 3


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_folds_do_not_depend_on_how_rows_are_cut(rows):
    x = torch.arange(100.0)[:, None]
    whole = as_source(x)
    small = as_source(list(x.split(rows)))
    for fold in range(3):
        parts = [
            torch.cat([b.x for b in Part(s, fold, 3, inside=True, seed=5).blocks()])
            for s in (whole, small)
        ]
        assert torch.equal(*parts)
        rest = torch.cat([b.x for b in Part(whole, fold, 3, inside=False, seed=5).blocks()])
        assert sorted([*parts[0].flatten().tolist(), *rest.flatten().tolist()]) == [*range(100)]


def test_folds_are_of_equal_size_and_drawn_by_the_seed():
    folds = fold_of(np.arange(50_000), 5, 1)
    # the deviation of a binomial count is 89
    assert np.abs(np.bincount(folds) - 10_000).max() < 5 * 89
    assert 0.15 < (folds == fold_of(np.arange(50_000), 5, 2)).mean() < 0.25
    assert 0.15 < (folds[1:] == folds[:-1]).mean() < 0.25


# starts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_split_explains_at_least_what_it_was_made_of(family):
    x = blobs(600, 2, 4, 9.0)
    source = as_source(x)
    mixture = tg.GaussianMixture(2, covariance=family, dtype=torch.float64)
    result = mixture.fit(x, generator=0)
    generator = torch.Generator().manual_seed(0)
    split = Split(result.parameters)(source, 4, result.parameters.family, 1e-6, generator)
    assert split.n_components == 4
    assert split.is_finite()
    assert float(split.log_weights.exp().sum()) == pytest.approx(1)
    before, after = (evidence(source, p).mean for p in (result.parameters, split))
    # two components over two blobs each: a cut between them explains much more
    assert after > before + 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_units_have_no_part_where_features_have_variances_of_their_own(family):
    x = blobs(400, 3, 4, 7.0)
    unit = torch.tensor([1.0, 30.0, 1000.0], dtype=torch.float64)
    exact = {"method": tg.EM(max_iter=300, reg_covar=0.0), "patience": None, "generator": 0}
    one, other = (tg.select(rows, range(1, 7), family, **exact) for rows in (x, x * unit))
    # whose components are round, or whose axes are at right angles, in one unit only
    if family in ("spherical", "tied_spherical", "common_axes"):
        assert one.curve(family)[1] != pytest.approx(other.curve(family)[1])
        return
    shift = 2 * len(x) * float(unit.log().sum())
    assert one.n_components == other.n_components == 4
    # the same fits, to where rounding lets them stop
    assert other.curve(family)[1] == pytest.approx([v + shift for v in one.curve(family)[1]], 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_may_be_stored_one_after_the_other(family):
    x = blobs(200, 2, 3, 6.0).numpy()
    one, other = (
        tg.select(rows, [1, 2, 3], family, generator=0) for rows in (x, np.asfortranarray(x))
    )
    assert one.curve(family)[1] == pytest.approx(other.curve(family)[1], rel=1e-6)


def test_hollow_components_are_no_candidates():
    # a tenth of the rows has one and the same second value: a component of no width fits them
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=g, dtype=torch.float64)
    x[:40, 1] = 0.5
    found = tg.select(x, range(1, 6), ["diagonal", "full"], patience=None, generator=0)
    whole = torch.cov(x.T)
    for c in found.candidates:
        if c.parameters is not None:
            assert hollow(c.parameters, 1e-6, whole) == []
    assert found.n_components == 1
    start = torch.tensor([[0.0, 0.5], [0.0, -0.5]], dtype=torch.float64)
    narrow = tg.Parameters.from_covariances(
        torch.tensor([0.1, 0.9], dtype=torch.float64), start,
        torch.tensor([[1.0, 1e-6], [1.0, 1.0]], dtype=torch.float64), "diagonal",
    )  # fmt: skip
    assert hollow(narrow, 1e-6, whole) == [0]


@pytest.mark.parametrize("value", [1.0, 0.1, 1e7 / 3])  # some have a mean that is not the value
def test_a_constant_column_is_no_reason_to_refuse_all(value):
    x = blobs(200, 2, 2, 8.0)
    x = torch.cat([x, torch.full((200, 1), value, dtype=torch.float64)], 1)
    for family in ("full", "diagonal", ["full", "spherical"]):
        assert tg.select(x, [1, 2, 3], family, generator=0).n_components == 2


def test_centres_give_the_clusters_of_their_rows():
    x = blobs(300, 2, 3, 12.0)
    centres = x[:3]
    family = tg.GaussianMixture(3).family
    start = Centres(centres)(as_source(x), 3, family, 0.0, torch.Generator())
    labels = torch.cdist(x, centres).argmin(1)
    for k in range(3):
        torch.testing.assert_close(start.means[k], x[labels == k].mean(0))
    share = labels.bincount() / len(x)
    torch.testing.assert_close(start.log_weights.exp().float(), share)


# what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_components": []}, "n_components is empty"),
        ({"n_components": [0]}, "at least 1"),
        ({"covariance": []}, "covariance is empty"),
        ({"covariance": "round"}, "covariance must be one of"),
        ({"criterion": "dic"}, "criterion must be one of bic, aic, icl, held-out, cv"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"n_init": 0}, "n_init must be at least 1"),
        ({"weights": -torch.ones(50)}, "negative"),
    ],
)
def test_wrong_settings_are_refused(options, text):
    with pytest.raises(tg.InputError, match=text):
        tg.select(blobs(50), **options)


def test_a_stream_that_ends_is_refused():
    with pytest.raises(tg.InputError, match="can be read only once"):
        tg.select(iter(blobs(50).split(10)), [1])


def test_more_components_than_rows_say_so():
    x = blobs(6, 2, 1)
    found = tg.select(x, [1, 5, 9], "spherical", patience=None, generator=0)
    assert "6 row(s) cannot be fitted with 9" in found.candidates[-1].note
    assert np.isnan(found.candidates[-1].value)
    assert "cannot be fitted" in found.to_markdown()
    with pytest.raises(tg.InputError, match="no candidate could be fitted"):
        tg.select(x, [9, 12], generator=0)


def test_no_spread_and_no_floor_is_no_candidate():
    x = torch.cat([blobs(60), torch.ones(60, 1, dtype=torch.float64)], 1)
    with pytest.raises(tg.InputError, match="no candidate could be fitted: the rows of"):
        tg.select(x, [1, 2], "full", method=tg.EM(reg_covar=0.0), generator=0)


def test_two_starts_are_two_ways():
    # the split and k-means disagree on data with nested scales; the better one is kept
    g = torch.Generator().manual_seed(2)
    wide = 10 * torch.randn(300, 2, generator=g, dtype=torch.float64)
    narrow = 0.1 * torch.randn(300, 2, generator=g, dtype=torch.float64)
    found = tg.select(torch.cat([wide, narrow]), range(1, 5), "spherical", generator=0)
    assert found.n_components == 2
    spread = found.best.covariances.sqrt().sort().values.tolist()
    assert spread == pytest.approx([0.1, 10.0], rel=0.15)


def test_all_orders_of_families_give_the_same_choice():
    x = blobs(300, 2, 3, 7.0)
    chosen = set()
    for order in itertools.permutations(["full", "tied"]):
        found = tg.select(x, range(1, 5), order, generator=0)
        chosen.add((found.n_components, found.covariance))
    assert len(chosen) == 1
