"""PCA beside scikit-learn's, on every source; a mixture behind it, asked in the rows' features."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from sklearn import datasets, decomposition
from torch.utils.data import DataLoader

import torchgmm as tg
from tests.cases import FAMILIES, drawn
from torchgmm.data import as_source


def rows(n=300, d=6, seed=0, offset=0.0):
    """Correlated rows with a spectrum over two decades."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    spread = torch.logspace(1, -1, d, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) * spread @ turn + offset


def assert_as_scikit_learn(own, x, **options):
    other = decomposition.PCA(svd_solver="full", **options).fit(np.asarray(x, dtype=np.float64))
    m = len(own.axes)
    assert m == other.n_components_
    near = {"rtol": 1e-7, "atol": 1e-9 * float(np.abs(np.asarray(x)).max())}
    np.testing.assert_allclose(own.mean, other.mean_, **near)
    np.testing.assert_allclose(own.explained_variance, other.explained_variance_, **near)
    ratio = other.explained_variance_ratio_
    np.testing.assert_allclose(own.explained_variance_ratio, ratio, **near)
    np.testing.assert_allclose(own.noise_variance, other.noise_variance_, **near)
    # axes and their signs: both make the largest entry positive
    sign = np.sign(np.take_along_axis(
        other.components_, np.abs(other.components_).argmax(1)[:, None], 1))  # fmt: skip
    np.testing.assert_allclose(own.components, other.components_ * sign, rtol=1e-6, atol=1e-7)
    z = other.transform(np.asarray(x, dtype=np.float64)) * sign[:, 0]
    np.testing.assert_allclose(own(torch.as_tensor(x).double()), z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("n_components", [1, 4, 6, None, 0.5, 0.9, 0.999])
def test_it_is_scikit_learns(n_components, whiten):
    for x in (rows(), rows(offset=1e5), datasets.load_wine().data):
        own = tg.PCA(n_components, whiten=whiten).fit(x)
        assert_as_scikit_learn(own, x, n_components=n_components, whiten=whiten)


def test_every_source_gives_the_same(tmp_path):
    x = rows(700)
    whole = tg.PCA(3).fit(x)
    np.save(tmp_path / "rows.npy", x.numpy())
    sources = {
        "file": tmp_path / "rows.npy",
        "loader": DataLoader(x, batch_size=64),
        "once": iter(x.split(50)),
        "array": x.numpy(),
        "encoded": as_source(x.reshape(-1, 2, 3), encoder=torch.nn.Flatten()),
    }
    for name, source in sources.items():
        own = tg.PCA(3).fit(source)
        for tensor in ("mean", "axes", "explained_variance", "noise_variance"):
            torch.testing.assert_close(getattr(own, tensor), getattr(whole, tensor), msg=name)


def test_a_weight_is_so_many_rows_and_zero_is_none():
    x = rows(100)
    w = torch.randint(0, 4, (100,), generator=torch.Generator().manual_seed(0))
    w[0] = 0
    spoilt = x.clone()
    spoilt[w == 0] = math.inf
    one, other = tg.PCA(2).fit(spoilt, w), tg.PCA(2).fit(x.repeat_interleave(w, 0))
    torch.testing.assert_close(one.axes, other.axes)
    torch.testing.assert_close(one.explained_variance, other.explained_variance)


def test_float32_rows_keep_the_digits_of_their_numbers():
    x = rows(offset=1e4).float()
    own = tg.PCA(4, whiten=True).fit(x)
    exact = tg.PCA(4, whiten=True).fit(x.double())
    torch.testing.assert_close(own.axes, exact.axes)
    z = own(x)
    assert z.dtype == torch.float32
    # centred in float64, rounded once
    torch.testing.assert_close(z, exact(x.double()).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("whiten", [False, True])
def test_it_inverts(whiten):
    x = rows()
    pca = tg.PCA(3, whiten=whiten).fit(x)
    z = torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(pca(pca.inverse(z)), z)
    back = pca.inverse(pca(x))
    torch.testing.assert_close((x - back) @ pca.components.mT, torch.zeros(300, 3).double())
    lost = (x - back).square().sum(-1).mean() * 300 / 299
    torch.testing.assert_close(lost, 3 * pca.noise_variance)
    every = tg.PCA(whiten=whiten).fit(x)
    torch.testing.assert_close(every.inverse(every(x)), x)
    assert torch.autograd.gradcheck(pca, x[:3].clone().requires_grad_())


# behind it: mixtures ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("whiten", [False, True])
def test_densities_are_in_the_units_of_the_rows(family, whiten):
    x = rows()
    pca = tg.PCA(6, whiten=whiten).fit(x)
    mixture = tg.GaussianMixture.from_parameters(drawn(family, 3, 6))
    model = tg.Reduced(pca, mixture)
    # all axes kept: the density is that of the row
    moved = tg.affine(mixture, pca.back, pca.mean)
    torch.testing.assert_close(model.log_prob(x), moved.log_prob(x))
    torch.testing.assert_close(model.full().log_prob(x), moved.log_prob(x), check_dtype=False)
    torch.testing.assert_close(model.responsibilities(x), moved.responsibilities(x))
    assert torch.equal(model.predict(x), moved.predict(x))
    assert float(model.score(x)) == pytest.approx(float(moved.score(x)))
    torch.testing.assert_close(model(x), model.log_prob(x))


def test_whitening_does_not_change_the_density():
    x = rows()
    levels = []
    for whiten in (False, True):
        model = tg.Reduced(tg.PCA(3, whiten=whiten), tg.GaussianMixture(1, dtype=torch.float64))
        model.fit(x, tg.EM(reg_covar=0.0))
        levels.append(model.log_prob(x))
    torch.testing.assert_close(*levels)
    # one Gaussian: the density of the three leading coordinates
    z = tg.PCA(3).fit(x)(x).numpy()
    from scipy.stats import multivariate_normal

    expected = multivariate_normal(z.mean(0), np.cov(z.T, bias=True)).logpdf(z)
    np.testing.assert_allclose(levels[0].detach(), expected)


@pytest.mark.parametrize("whiten", [False, True])
def test_with_noise_it_is_probabilistic_pca(whiten):
    x = rows()
    other = decomposition.PCA(2).fit(x.numpy())
    pca = tg.PCA(2, whiten=whiten).fit(x)
    variance = torch.ones(2).double() if whiten else pca.explained_variance
    mixture = tg.GaussianMixture.from_covariances(
        [1.0], [[0.0, 0.0]], variance[None], "diagonal", dtype=torch.float64
    )
    full = tg.Reduced(pca, mixture).full()
    np.testing.assert_allclose(full.log_prob(x).detach(), other.score_samples(x.numpy()))
    np.testing.assert_allclose(full.covariances.detach()[0], other.get_covariance(), atol=1e-9)


def test_draws_are_rows_and_fits_take_everything(tmp_path):
    x = torch.cat([rows(), rows(seed=1) + 20]).float()
    np.save(tmp_path / "rows.npy", x.numpy())
    model = tg.Reduced(tg.PCA(2, whiten=True), tg.GaussianMixture(2))
    result = model.fit(tmp_path / "rows.npy", tg.EM(), generator=0, n_init=2)
    assert result.converged
    drawn_rows = model.sample((4, 500), torch.Generator().manual_seed(0))
    assert drawn_rows.shape == (4, 500, 6)
    off = model.front.inverse(model.front(drawn_rows.reshape(-1, 6))) - drawn_rows.reshape(-1, 6)
    assert float(off.abs().max()) < 1e-4  # they lie in the plane, to float32
    # 2000 draws of rows with deviations near 20
    assert float((drawn_rows.mean((0, 1)) - x.mean(0)).abs().max()) < 2.5
    weighted = tg.Reduced(tg.PCA(2), tg.GaussianMixture(1))
    weighted.fit(x, weights=torch.cat([torch.ones(300), torch.zeros(300)]))
    assert float(weighted.score(x[:300])) > float(weighted.score(x[300:])) + 5
    once = tg.Reduced(tg.PCA(2).fit(x), tg.GaussianMixture(2))
    once.fit(iter(x.split(50)), tg.OnlineEM(), generator=0)
    assert float(once.score(x)) > float(model.score(x)) - 1
    with pytest.raises(tg.InputError, match="read only once, but the axes are learnt before"):
        tg.Reduced(tg.PCA(2), tg.GaussianMixture(2)).fit(iter(x.split(50)), tg.OnlineEM())


def test_it_encodes_for_any_fit():
    images = rows(200, 12).reshape(200, 3, 4).float()
    pca = tg.PCA(4).fit(images.flatten(1))
    one, other = (tg.GaussianMixture(2) for _ in range(2))
    one.fit(images, encoder=pca, generator=0)
    other.fit(pca(images), generator=0)
    torch.testing.assert_close(one.means, other.means)


# as a module, and on disk -------------------------------------------------------------------------


def test_it_is_a_module(tmp_path):
    x = rows()
    pca = tg.PCA(3, whiten=True).fit(x)
    assert not list(pca.parameters())
    fresh = tg.PCA(3, whiten=True)
    fresh.load_state_dict(pca.state_dict())
    stream = io.BytesIO()
    torch.save(pca, stream)
    stream.seek(0)
    tg.save_pca(pca, tmp_path / "pca.safetensors")
    for other in (
        fresh,
        copy.deepcopy(pca),
        torch.load(stream, weights_only=False),
        tg.load_pca(tmp_path / "pca.safetensors"),
        pca.half(),
        torch.nn.Sequential(pca, tg.GaussianMixture(2, 3)).double()[0],
    ):
        assert torch.equal(other(x), pca(x))
        assert repr(other) == "PCA(n_components=3, whiten=True, 6 -> 3)"
    model = tg.Reduced(tg.PCA(3), tg.GaussianMixture(2))
    model.fit(x, generator=0)
    again = tg.Reduced(tg.PCA(3), tg.GaussianMixture(2))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.log_prob(x), model.log_prob(x))


def test_damaged_files_are_refused(tmp_path):
    file = tmp_path / "pca.safetensors"
    tg.save_pca(tg.PCA(2).fit(rows()), file)
    tg.save(tg.GaussianMixture(2, 2), tmp_path / "mixture.safetensors")
    with pytest.raises(tg.TorchGMMError, match="not of the format torchgmm-pca"):
        tg.load_pca(tmp_path / "mixture.safetensors")
    with pytest.raises(tg.TorchGMMError, match="not of the format torchgmm"):
        tg.load(file)
    with pytest.raises(tg.TorchGMMError, match="does not exist"):
        tg.load_pca(tmp_path / "nothing")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(tg.TorchGMMError, match="damaged"):
        tg.load_pca(file)
    pca = tg.PCA(2).fit(rows())
    pca.mean[0] = math.nan
    tg.save_pca(pca, file)
    with pytest.raises(tg.TorchGMMError, match="mean holds NaN"):
        tg.load_pca(file)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: tg.PCA(0), "at least 1"),
        (lambda x: tg.PCA(1.5), "share of the variance between 0 and 1, got 1.5"),
        (lambda x: tg.PCA("2"), "must be an integer"),
        (lambda x: tg.PCA(7).fit(x), "n_components=7 is more than the 6 features"),
        (lambda x: tg.PCA(2).fit(x[:1]), "1 row.s. have no variance"),
        (lambda x: tg.PCA(2).fit(x * math.nan), "NaN or infinite"),
        (lambda x: tg.PCA(2).fit(x, torch.zeros(300)), "all 300 weights are zero"),
        (lambda x: tg.PCA(2).fit(x)(x[:, :2]), r"rows must be \(N, 6\), got shape \(300, 2\)"),
        (lambda x: tg.PCA(2).fit(x).inverse(x), "z must have 2 columns, got 6"),
        (lambda x: tg.PCA(whiten=True).fit(x[:, [0, 0, 1]]), "only 2 of 3 components have var"),
        (lambda x: tg.Reduced(tg.PCA(2).fit(x), tg.GaussianMixture(2, 3)), "front gives 2 comp"),
    ],
)
def test_wrong_settings_are_refused(call, text):
    with pytest.raises(tg.InputError, match=text):
        call(rows())


def test_what_is_not_fitted_says_so():
    for call in (lambda p: p(rows()), lambda p: p.inverse(rows()), lambda p: p.log_det):
        with pytest.raises(tg.InputError, match="needs axes: fit the PCA first"):
            call(tg.PCA(2))
    x = rows()[:, :1] * torch.ones(1, 3)
    model = tg.Reduced(tg.PCA(1), tg.GaussianMixture(1))
    model.fit(x)
    model.front.noise_variance.zero_()
    with pytest.raises(tg.InputError, match="2 axes were left out and have noise_variance=0"):
        model.full()
    assert model.full(0.1).n_features == 3
