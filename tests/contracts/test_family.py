"""The contract of a family: one class, one line in `definition.STRUCTURES`, this suite."""

import pytest
import torch

from tests.cases import FAMILIES, FLOATS, drawn, one_of
from tests.definition import STRUCTURES
from torchgmm import InputError, Parameters
from torchgmm.covariance import as_family
from torchgmm.covariance.base import Whitened
from torchgmm.moments import Moments

K, D = 3, 4
# float64, well-conditioned 4 x 4 matrices: a few hundred roundings at most
EXACT = {"rtol": 1e-12, "atol": 1e-12}

MATRICES = [n for n in FAMILIES if as_family(n).covariance_shape(K, D)[-2:] == (D, D)]
every_family = pytest.mark.parametrize("name", FAMILIES)


def dense(name, scale):
    family = as_family(name)
    if scale.dim() - family.n_axes - 1 == 0:
        return STRUCTURES[name].dense(family.covariances(scale), K, D)
    return torch.stack([dense(name, s) for s in scale])


def random_moments(name, seed=0, frame=None):
    """Moments of 50 rows with random responsibilities, by the naive definition."""
    g = torch.Generator().manual_seed(seed)
    x = 3 + torch.randn(50, D, generator=g, dtype=torch.float64)
    r = torch.rand(K, 50, generator=g, dtype=torch.float64)
    frame = torch.randn(K, D, generator=g, dtype=torch.float64) if frame is None else frame
    d = x - frame[:, None]
    scatter = torch.einsum("kn,kni,knj->kij", r, d, d)
    sums = r.sum(-1), torch.einsum("kn,knd->kd", r, d), STRUCTURES[name].reduce(scatter)
    return Moments(*sums, r.new_zeros(()), r.new_tensor(50.0), frame)


def test_every_registered_family_has_its_line_in_the_table():
    assert set(FAMILIES) == set(STRUCTURES)


@every_family
@pytest.mark.parametrize("dtype", FLOATS)
def test_factor_and_unconstrained_are_inverse(name, dtype):
    family, scale = as_family(name), drawn(name, K, D).scale.to(dtype)
    factor = family.factor(scale)
    # exp and log back and forth: some ulps
    tight = {"rtol": 20 * torch.finfo(dtype).eps, "atol": 20 * torch.finfo(dtype).eps}
    torch.testing.assert_close(family.unconstrained(factor), scale, **tight)
    torch.testing.assert_close(family.factor(family.unconstrained(factor)), factor, **tight)


@every_family
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_shapes_are_those_announced(name, batch):
    family, p = as_family(name), drawn(name, K, D, batch)
    assert tuple(p.scale.shape) == (*batch, *family.scale_shape(K, D))
    public = (*batch, *family.covariance_shape(K, D))
    assert tuple(family.covariances(p.scale).shape) == public
    assert tuple(family.precisions(p.scale).shape) == public
    assert family.factor(p.scale).shape == p.scale.shape
    assert family.half_log_det(p.scale, D).shape == (*batch, family.heads(K))
    assert family.dense_tril(p.scale, K, D).shape == (*batch, K, D, D)
    assert family.factor_shape(D) == p.scale.shape[len(batch) + 1 :]
    assert family.n_axes == len(family.factor_shape(D))


@every_family
def test_covariances_and_precisions_are_inverse_matrices(name):
    family, p = as_family(name), drawn(name, K, D)
    to_dense = STRUCTURES[name].dense
    product = to_dense(family.covariances(p.scale), K, D) @ to_dense(
        family.precisions(p.scale), K, D
    )
    torch.testing.assert_close(product, torch.eye(D).double().expand(K, D, D), **EXACT)


@every_family
def test_dense_tril_is_the_cholesky_factor_of_the_covariances(name):
    family, p = as_family(name), drawn(name, K, D)
    factor = family.dense_tril(p.scale, K, D)
    torch.testing.assert_close(factor, torch.linalg.cholesky(dense(name, p.scale)), **EXACT)


@every_family
def test_half_log_det_is_half_the_log_determinant(name):
    family, p = as_family(name), drawn(name, K, D)
    expected = torch.linalg.slogdet(dense(name, p.scale)).logabsdet / 2
    torch.testing.assert_close(family.half_log_det(p.scale, D).expand(K), expected, **EXACT)


@every_family
@pytest.mark.parametrize("batch", [(), (2,)])
def test_covariances_make_the_round_trip(name, batch):
    family, p = as_family(name), drawn(name, K, D, batch)
    public = family.covariances(p.scale)
    again = family.from_covariances(public, D)
    torch.testing.assert_close(again, p.scale, **EXACT)
    torch.testing.assert_close(family.covariances(again), public, **EXACT)


@every_family
def test_any_unconstrained_value_is_a_covariance(name):
    g = torch.Generator().manual_seed(0)
    scale = 2 * torch.randn(as_family(name).scale_shape(K, D), generator=g, dtype=torch.float64)
    values = torch.linalg.eigvalsh(dense(name, scale))
    assert bool((values > 0).all())


@every_family
def test_what_is_not_positive_is_refused(name):
    family, p = as_family(name), drawn(name, K, D)
    with pytest.raises(InputError, match=r"positive definite|above zero"):
        family.from_covariances(-family.covariances(p.scale), D)
    with pytest.raises(InputError, match=r"positive definite|above zero"):
        family.from_covariances(torch.zeros_like(family.covariances(p.scale)), D)


@pytest.mark.parametrize("name", MATRICES)
def test_what_is_not_symmetric_is_refused(name):
    family, p = as_family(name), drawn(name, K, D)
    bad = family.covariances(p.scale).clone()
    bad[..., 0, 1] += 0.25
    with pytest.raises(InputError, match=r"symmetric.*0\.25"):
        family.from_covariances(bad, D)


@every_family
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c[None], r"covariances must have shape .* to go with means \(3, 4\)"),
        (lambda c: torch.cat([c.reshape(-1), c.reshape(-1)]), "covariances must have shape"),
        (lambda c: c * torch.nan, "covariances hold NaN"),
    ],
    ids=["one axis more", "twice as many", "NaN"],
)
def test_covariances_that_do_not_go_with_the_means_are_refused(name, spoil, message):
    p = drawn(name, K, D)
    weights = torch.full((K,), 1 / K, dtype=torch.float64)
    with pytest.raises(InputError, match=message):
        Parameters.from_covariances(weights, p.means, spoil(p.family.covariances(p.scale)), name)


@every_family
@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 4), (7, 2), (2, 10)])
def test_the_number_of_parameters_is_the_formula(name, k, d):
    assert as_family(name).n_parameters(k, d) == STRUCTURES[name].n_parameters(k, d)


@every_family
def test_moments_moved_are_moments_about_the_other_frame(name):
    here = random_moments(name)
    elsewhere = torch.randn(K, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    moved = as_family(name).moved(here, elsewhere)
    expected = random_moments(name, frame=elsewhere)
    for field in ("weight", "first", "second", "frame"):
        torch.testing.assert_close(getattr(moved, field), getattr(expected, field), **EXACT)
    back = as_family(name).moved(moved, here.frame)
    torch.testing.assert_close(back.second, here.second, **EXACT)


@every_family
def test_outer_is_the_familys_part_of_the_product(name):
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, K, D, generator=g, dtype=torch.float64)
    expected = STRUCTURES[name].reduce(a[:, :, None] * b[:, None, :])
    torch.testing.assert_close(as_family(name).outer(a, b), expected, **EXACT)


@every_family
@pytest.mark.parametrize("batch", [(), (2,)])
def test_unit_second_is_the_familys_part_of_weighted_identities(name, batch):
    weight = torch.rand(*batch, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = as_family(name).unit_second(weight, D)
    each = weight.reshape(-1, K)[:, :, None, None] * torch.eye(D).double()
    expected = torch.stack([STRUCTURES[name].reduce(one) for one in each])
    torch.testing.assert_close(got, expected.reshape(got.shape), **EXACT)


@every_family
def test_scatter_is_the_familys_part_of_the_weighted_sum(name):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(K, 20, D, generator=g, dtype=torch.float64)
    r = torch.rand(K, 20, generator=g, dtype=torch.float64)
    expected = STRUCTURES[name].reduce(torch.einsum("kn,kni,knj->kij", r, z, z))
    squares = z * z
    got = as_family(name).scatter(Whitened(z, squares, squares.sum(-1)), r)
    torch.testing.assert_close(got, expected, **EXACT)


@every_family
def test_colour_undoes_whiten(name):
    family, p = as_family(name), drawn(name, K, D)
    d = torch.randn(K, 1, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = family.whiten(d, family.whitener(p.scale), None, None)
    factor = family.factor(p.scale)
    torch.testing.assert_close(family.colour(z.squeeze(-2), factor), d.squeeze(-2), **EXACT)


@every_family
def test_colouring_second_moments_is_colouring_the_vectors(name):
    family, p = as_family(name), drawn(name, K, D)
    factor = family.factor(p.scale)
    z = torch.randn(K, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coloured = family.colour(z, factor)
    got = family.colour_second(family.outer(z, z), factor)
    torch.testing.assert_close(got, family.outer(coloured, coloured), **EXACT)


@every_family
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_estimate_is_the_mean_scatter_plus_the_floor(name, floor):
    family, m = as_family(name), random_moments(name)
    scale, hopeless = family.estimate(m, floor)
    g = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(50, D, generator=g, dtype=torch.float64)
    r = torch.rand(K, 50, generator=g, dtype=torch.float64)
    own = torch.einsum("kn,nd->kd", r, x) / r.sum(-1, keepdim=True)
    d = x - own[:, None]
    scatter = torch.einsum("kn,kni,knj->kij", r, d, d)
    scatter = scatter + floor * r.sum(-1)[:, None, None] * torch.eye(D).double()
    expected = STRUCTURES[name].estimate(scatter, r.sum(-1))
    tight = {"rtol": 0, "atol": STRUCTURES[name].digits * float(expected.abs().max())}
    torch.testing.assert_close(family.covariances(scale), expected, **tight)
    assert not bool(hopeless.any())


@every_family
def test_no_spread_and_no_floor_is_reported_not_hidden(name):
    m = random_moments(name)
    family = as_family(name)
    still = Moments(m.weight, 0 * m.first, 0 * m.second, m.log_prob, m.rows, m.frame)
    assert bool(family.estimate(still, 0.0)[1].all())
    scale, hopeless = family.estimate(still, 0.25)
    assert not bool(hopeless.any())
    expected = STRUCTURES[name].estimate(
        0.25 * torch.eye(D).double().expand(K, D, D), torch.ones(K)
    )
    torch.testing.assert_close(family.covariances(scale), expected, **EXACT)


@every_family
@pytest.mark.parametrize("batch", [(2,), (2, 2)])
def test_a_batch_is_a_loop(name, batch):
    family, p = as_family(name), drawn(name, K, D, batch)
    for form in (
        lambda s: family.factor(s),
        lambda s: family.covariances(s),
        lambda s: family.precisions(s),
        lambda s: family.half_log_det(s, D),
        lambda s: family.dense_tril(s, K, D),
        lambda s: family.whitener(s),
    ):
        joined = form(p.scale)
        for index in torch.cartesian_prod(*map(torch.arange, batch)).reshape(-1, len(batch)):
            at = tuple(index.tolist())
            torch.testing.assert_close(joined[at], form(one_of(p, at).scale), **EXACT)


@every_family
def test_it_is_known_by_its_name_and_equal_to_itself(name):
    family = as_family(name)
    assert as_family(family) is family
    assert family == type(family)()
    assert hash(family) == hash(type(family)())
    assert [as_family(other) == family for other in FAMILIES].count(True) == 1
    assert type(family).__name__ in repr(family)


def test_the_names_of_scikit_learn_work():
    for name in ("full", "tied", "spherical"):
        assert as_family(name).name == name
    assert as_family("diag").name == "diagonal"


@pytest.mark.parametrize("unknown", ["sphere", "", None, 3, ["full"]])
def test_an_unknown_name_is_refused_with_the_known_ones(unknown):
    with pytest.raises(InputError, match=r"covariance must be one of.*full.*got"):
        as_family(unknown)
