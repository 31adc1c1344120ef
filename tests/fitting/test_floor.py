"""A floor relative to the variance of every feature: no unit of a column changes the fit."""

import math

import pytest
import torch

import torchgmm as tg
from torchgmm import EM, InputError, RelativeFloor
from torchgmm.covariance import as_family, floor_of
from torchgmm.fitting import ShrunkEM, fit
from torchgmm.kernels import as_kernel
from torchgmm.parameters import from_moments

# how many steps a fit makes is counted here
pytestmark = pytest.mark.filterwarnings("ignore::torchgmm.errors.ConvergenceWarning")
FAMILIES = tg.families()
PER_FEATURE = ("full", "tied", "diagonal", "tied_diagonal")
SHARE = 1e-3
FLOOR = RelativeFloor(SHARE)
METHODS = {
    "em": EM(8, reg_covar=FLOOR),
    "squarem": tg.SQUAREM(4, reg_covar=FLOOR),
    "incremental": tg.IncrementalEM(4, n_blocks=4, reg_covar=FLOOR),
    "reduced": tg.VarianceReducedEM(4, n_blocks=4, reg_covar=FLOOR),
    "online": tg.OnlineEM(3, batch_size=64, reg_covar=FLOOR),
    "shrunk": ShrunkEM(8, reg_covar=FLOOR, shrinkage=0.0),
}
generator = torch.Generator().manual_seed(3)
LABELS = torch.arange(300) % 3
X = torch.randn(300, 3, generator=generator, dtype=torch.float64)
X = X @ torch.tensor([[1.0, 0.5, 0.2], [0, 1, -0.4], [0, 0, 1]], dtype=torch.float64)
X += 3 * torch.eye(3, dtype=torch.float64)[LABELS]
UNITS = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)


def fitted(x, method, family="full", k=3, init=LABELS, **options):
    mixture = tg.GaussianMixture(k, covariance=family, dtype=x.dtype)
    options = {"stop": tg.Tolerance(0.0), "generator": 0} | options
    return mixture, fit(mixture, x, method, init=init, **options)


def moments_of(x, name, frame_at=0.0):
    """Of all rows under three components of covariance 1, about their means or beside them."""
    family = as_family(name)
    means = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    unit = tg.Parameters(means[0] * 0, means, means.new_zeros(family.scale_shape(3, 3)), family)
    found = as_kernel("dense").accumulate(x, None, unit)
    return family.moved(found, found.frame + frame_at), family


@pytest.mark.parametrize("frame_at", [0.0, -5.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_floors_are_shares_of_the_variances_of_all_rows(name, frame_at):
    x = X * torch.tensor([0.1, 1.0, 7.0]) + 2
    moments, family = moments_of(x, name, frame_at=frame_at)
    variances = x.var(0, correction=0)
    if name in ("spherical", "tied_spherical"):
        variances = variances.mean(0, keepdim=True)
    torch.testing.assert_close(FLOOR.of(moments, family)[0], SHARE * variances)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_floor_is_added_to_the_maximum(name):
    moments, family = moments_of(X, name)
    bare, _ = from_moments(moments, family, 0.0)
    raised, hopeless = from_moments(moments, family, FLOOR)
    assert not hopeless.any()
    more = family.covariances(raised.scale) - family.covariances(bare.scale)
    floors = FLOOR.of(moments, family).squeeze(-2)
    if family.n_axes == 2:
        floors = floors.diag_embed()
    if family.coupled:  # the axes follow the floor; what all variances together gain is known
        more, floors = (t.diagonal(dim1=-2, dim2=-1).sum(-1) for t in (more, floors))
    assert (more - floors).abs().max() < 1e-12  # differences of float64 numbers of about 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", PER_FEATURE)
@pytest.mark.parametrize("method", METHODS)
def test_other_units_of_the_columns_give_the_same_fit(method, family, dtype):
    if method == "shrunk":
        family = "diagonal"  # what is drawn towards round covariances has one unit; here by nothing
    plain, result = fitted(X.to(dtype), METHODS[method], family)
    scaled, other = fitted((X * UNITS).to(dtype), METHODS[method], family)
    # float32 rows in other units are rounded anew, by 6e-8 of each; the steps let it grow
    exact = {torch.float32: 2e-4, torch.float64: 1e-8}[dtype]
    units = UNITS.to(dtype)
    torch.testing.assert_close(scaled.means / units, plain.means, rtol=exact, atol=exact)
    torch.testing.assert_close(scaled.weights, plain.weights, rtol=exact, atol=exact)
    over = units**2 if family.endswith("diagonal") else units[:, None] * units
    torch.testing.assert_close(scaled.covariances / over, plain.covariances, rtol=exact, atol=exact)
    for one, two in zip(result.history, other.history, strict=True):  # log |units| is 0 here
        assert two.log_likelihood == pytest.approx(one.log_likelihood, abs=10 * exact)


@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_a_component_on_copies_of_a_row_has_the_floor_for_a_covariance(family):
    x = (X * UNITS).float()
    x[LABELS == 2] = x[2].clone()
    mixture, result = fitted(x, EM(3, reg_covar=FLOOR), family)
    wanted = SHARE * x.double().var(0, correction=0)
    own = mixture.covariances[2].double()
    own = own.diagonal() if family == "full" else own
    # the mixture holds float32 logs of deviations
    torch.testing.assert_close(own, wanted, rtol=1e-5, atol=0)
    assert result.collapsed == 1


def test_a_feature_that_is_constant_counts_as_one_of_variance_1():
    x = torch.cat([X, torch.full((300, 1), 1e6)], 1)
    mixture, _ = fitted(x, EM(3, reg_covar=FLOOR), "full")
    torch.testing.assert_close(
        mixture.covariances[:, 3, 3], torch.full((3,), SHARE, dtype=torch.float64)
    )
    assert mixture.log_prob(x).isfinite().all()


def test_columns_that_say_the_same_are_repaired_in_their_own_units():
    x = torch.cat([X * UNITS, (X * UNITS)[:, :1] * 1e9], 1)
    mixture, _ = fitted(x, EM(3, reg_covar=RelativeFloor(1e-18)), "full")
    assert mixture.log_prob(x).isfinite().all()
    sure = mixture.covariances.diagonal(dim1=-2, dim2=-1)
    within = torch.stack([x[k == LABELS].var(0, correction=0) for k in range(3)])
    assert (sure > 0.2 * within).all()
    assert (sure < 5 * within).all()


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "random", LABELS])
@pytest.mark.parametrize("family", ["full", "tied_spherical", "diagonal"])
def test_every_start_has_it(init, family):
    x = X.clone()
    x[:, 2] = x[0, 2]  # no spread of its own: without a floor an error
    mixture, _ = fitted(x, EM(0, reg_covar=FLOOR), family, init=init)
    assert mixture.covariances.isfinite().all()
    with pytest.raises(ArithmeticError, match="reg_covar=0"):
        tg.fit(tg.GaussianMixture(3, dtype=torch.float64), x, EM(0, reg_covar=0.0), init=init)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_mixture_of_a_batch_has_its_own(family):
    tables = torch.stack([X, X * UNITS, X * 3 - 1])
    labels = LABELS.expand(3, -1)
    many = tg.GaussianMixture(3, covariance=family, batch_shape=(3,), dtype=torch.float64)
    fit(many, tables, METHODS["em"], init=labels, stop=tg.Tolerance(0.0))
    for b, table in enumerate(tables):
        alone, _ = fitted(table, METHODS["em"], family)
        torch.testing.assert_close(many[b].means, alone.means, rtol=1e-9, atol=0)
        torch.testing.assert_close(many[b].covariances, alone.covariances, rtol=1e-6, atol=0)


def test_replaced_components_of_a_batch_take_it_too():
    tables = torch.stack([X, X * UNITS])
    starts = torch.stack([LABELS.clone(), LABELS.clone()])
    many = tg.GaussianMixture(3, 3, batch_shape=(2,), dtype=torch.float64)
    start = fit(many, tables, EM(1, reg_covar=FLOOR), init=starts).parameters
    # far from all rows: empty after the first E-step
    means = start.means.clone()
    means[:, 0] = 1e4 * tables.abs().amax(1)
    begun = tg.Parameters(start.logits, means, start.scale, start.family)
    result = fit(many, tables, EM(2, reg_covar=FLOOR), init=begun, stop=tg.Tolerance(0.0))
    assert [one.rescued for one in result] == [1, 1]
    torch.testing.assert_close(many[1].means / UNITS, many[0].means, rtol=1e-6, atol=1e-6)


def test_a_search_leaves_out_components_on_copies_in_any_unit():
    x = X * UNITS
    x[LABELS == 2] = x[2].clone()
    found = tg.select(
        x, [2, 3], "full", method=EM(50, reg_covar=RelativeFloor(1e-6)), generator=0, patience=None
    )
    assert found.n_components == 2
    assert "no spread but the floor" in found.candidates[1].note


def test_online_em_never_meets_an_absolute_floor():
    tiny = (X * 1e-6).float()
    mixture, _ = fitted(tiny, METHODS["online"])
    ratio = mixture.covariances.double().diagonal(dim1=-2, dim2=-1).mean() / 1e-12
    assert 0.1 < ratio < 10


@pytest.mark.parametrize("share", [0, -1.0, math.nan, math.inf])
def test_a_share_is_above_0(share):
    with pytest.raises(InputError, match="share must be above 0"):
        RelativeFloor(share)


@pytest.mark.parametrize("value", ["1e-6", None, -1.0, math.nan, math.inf, torch.ones(3)])
def test_other_floors_are_refused(value):
    with pytest.raises(InputError, match=r"reg_covar must be (a number|at least 0)"):
        EM(reg_covar=value)


def test_gradients_say_that_they_have_no_moments_to_follow():
    with pytest.raises(InputError, match="give reg_covar a number"):
        tg.Gradient(reg_covar=FLOOR)


def test_numbers_pass_as_they_are():
    moments, family = moments_of(X, "full")
    assert floor_of(0.5, moments, family) == 0.5
    assert floor_of(0, moments, family) == 0


def test_a_config_names_it(tmp_path, capsys):
    from torchgmm.cli import main

    rows, config = tmp_path / "rows.csv", tmp_path / "fit.yaml"
    rows.write_text("a,b,c\n" + "\n".join(",".join(map(repr, r)) for r in (X * UNITS).tolist()))
    config.write_text(
        f"data: {rows}\nmixture:\n  n_components: 2\nout: {tmp_path / 'run'}\npicture: none\n"
        "method:\n  class_path: EM\n  init_args:\n    max_iter: 2\n    reg_covar:\n"
        "      class_path: torchgmm.RelativeFloor\n      init_args:\n        share: 0.001\n"
    )
    assert main(["fit", str(config)]) == 0
    assert "share: 0.001" in (tmp_path / "run" / "config.yaml").read_text()
    assert main(["fit", str(tmp_path / "run" / "config.yaml")]) == 0
    found = tg.load(tmp_path / "run" / "mixture.safetensors")
    assert found.covariances[..., 0, 0].max() < 1e-10  # and not an absolute 1e-6
