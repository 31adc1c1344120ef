"""All that a mixture can do, on the device: `--device cuda` runs it on a GPU, else the CPU does.

Rows lie on the device, or on the host and are sent there block by block; the answers agree with
those of the CPU.
"""

import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, Case
from torchgmm.data import ArraySource

CASE = Case("blobs", 3, 0, 6, 4, k=3, n=600)
METHODS = (
    tg.EM(max_iter=4),
    tg.SQUAREM(max_iter=4),
    tg.IncrementalEM(max_iter=2, n_blocks=3),
    tg.VarianceReducedEM(max_iter=2, n_blocks=3),
    tg.OnlineEM(max_iter=2, batch_size=100),
    tg.Gradient(max_iter=3, batch_size=200),
    tg.Gradient(max_iter=3, optimizer="LBFGS"),
)
CPU = torch.device("cpu")


@pytest.fixture
def rows(device):
    return CASE.rows(torch.float32).to(device)


@pytest.fixture
def fitted(rows, device):
    mixture = tg.GaussianMixture(CASE.k, device=device)
    mixture.fit(rows, generator=0)
    return mixture


def same(got, expected, rtol=1e-4):
    torch.testing.assert_close(got.detach().cpu(), expected.detach().cpu(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("place", ["device", "host"])
def test_methods(method, place, rows, device):
    given = rows if place == "device" else ArraySource(rows.cpu(), block_rows=250)
    mixture = tg.GaussianMixture(CASE.k, device=device)
    start = CASE.start("full")
    result = mixture.fit(given, method, init=start, generator=0)
    there = tg.GaussianMixture(CASE.k)
    blocks = rows.cpu() if place == "device" else ArraySource(rows.cpu(), block_rows=250)
    expected = there.fit(blocks, method, init=start, generator=0)
    assert {t.device.type for t in mixture.parameters()} == {device.type}
    assert result.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-4)
    same(mixture.means, there.means, 1e-3)  # an optimiser carries rounding on


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, rows, device):
    found = []
    for place in (device, CPU):
        mixture = tg.GaussianMixture(CASE.k, covariance=family, device=place)
        mixture.fit(rows.to(place), generator=0)
        found.append(mixture)
    same(found[0].means, found[1].means)
    same(found[0].log_prob(rows), found[1].log_prob(rows.cpu()))


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random_from_data", "random"])
def test_starts(init, rows, device):
    found = []
    for place in (device, CPU):
        mixture = tg.GaussianMixture(CASE.k, device=place)
        mixture.fit(rows.to(place), tg.EM(max_iter=1), init=init, n_init=2, generator=0)
        found.append(mixture.means)
    same(*found)


def test_labels_and_weights(rows, device):
    labels = torch.arange(len(rows)) % CASE.k
    weights = torch.linspace(0, 2, len(rows), dtype=torch.float64)
    found = []
    for place in (device, CPU):
        for where in (place, CPU):
            mixture = tg.GaussianMixture(CASE.k, device=place)
            options = {"init": labels.to(where), "weights": weights.to(where)}
            mixture.fit(rows.to(place), tg.EM(max_iter=2), generator=0, **options)
            found.append(mixture.means)
    for other in found[1:]:
        same(found[0], other)


def test_questions(fitted, rows):
    there = tg.GaussianMixture.from_parameters(fitted.as_parameters().map(torch.Tensor.cpu))
    x, y = rows, rows.cpu()
    for ask in ("log_prob", "log_joint", "responsibilities", "bic", "aic", "icl", "score"):
        same(getattr(fitted, ask)(x), getattr(there, ask)(y), 1e-3)
        assert getattr(fitted, ask)(x).device.type == x.device.type
    assert torch.equal(fitted.predict(x).cpu(), there.predict(y))
    assert fitted.sample((5,)).device.type == x.device.type
    assert fitted.rsample((5,)).requires_grad


def test_gradients(fitted, rows):
    there = tg.GaussianMixture.from_parameters(fitted.as_parameters().map(torch.Tensor.cpu))
    for mixture, x in ((fitted, rows), (there, rows.cpu())):
        x = x.clone().requires_grad_()
        (-mixture.log_prob(x).mean()).backward()
        mixture.by_rows = x.grad
    same(fitted.by_rows, there.by_rows)
    for a, b in zip(fitted.parameters(), there.parameters(), strict=True):
        same(a.grad, b.grad)


def test_batches_of_mixtures(rows, device):
    mixture = tg.GaussianMixture(
        CASE.k, CASE.d, batch_shape=(2,), device=device, generator=torch.Generator().manual_seed(0)
    )
    assert mixture.log_prob(rows).shape == (2, len(rows))
    each = torch.stack([rows, 2 * rows])
    found = []
    for place, given in ((device, each), (device, each.cpu()), (CPU, each.cpu())):
        mixture = tg.GaussianMixture(CASE.k, batch_shape=(2,), device=place)
        mixture.fit(given, tg.EM(max_iter=3), generator=0)
        found.append(mixture.means)
    for other in found[:2]:
        same(other, found[2])


def test_choice_of_a_model(rows, device):
    found = tg.select(
        rows, n_components=range(2, 4), covariance=["full", "diagonal"], device=device, generator=0
    )
    assert found.best.n_components == CASE.k
    assert found.best.device.type == device.type


def test_algebra(fitted, rows):
    same(tg.marginal(fitted, [0, 1]).log_prob(rows[:, :2]).mean(), torch.zeros(()) - 4, 2)
    assert tg.condition(fitted, [0], rows[:4, :1]).batch_shape == (4,)
    assert tg.merge(fitted, 2).n_components == 2


def test_files(fitted, tmp_path, device):
    tg.save(fitted, tmp_path / "mixture.safetensors")
    same(tg.load(tmp_path / "mixture.safetensors").means, fitted.means, 0)
    on_device = tg.load(tmp_path / "mixture.safetensors", device=device)
    assert on_device.device.type == device.type


def test_a_checkpoint_goes_on_where_it_was(rows, device, tmp_path):
    def fit(steps, **options):
        mixture = tg.GaussianMixture(CASE.k, device=device)
        method, stop = tg.EM(max_iter=steps), tg.Tolerance(0)
        return tg.fit(mixture, rows, method, stop=stop, generator=0, **options), mixture

    keep = tg.Checkpoint(tmp_path / "fit.safetensors", every=0)
    fit(3, observers=[keep])
    resumed, got = fit(6, resume=tg.read_checkpoint(tmp_path / "fit.safetensors"))
    whole, expected = fit(6)
    assert resumed.n_steps == whole.n_steps == 6
    assert torch.equal(got.means, expected.means)


def test_a_rescue(rows, device):
    # two components on one spot far from all rows lose them at once
    start = CASE.start("full")
    start.means[1:] = 1e3
    mixture = tg.GaussianMixture(CASE.k, device=device)
    result = mixture.fit(rows, tg.EM(max_iter=5), init=start.to(device=device))
    assert sum(step.rescued for step in result.history) > 0


@pytest.mark.cuda
def test_rows_on_the_wrong_device_are_told():
    mixture = tg.GaussianMixture(2, 3)
    with pytest.raises(tg.InputError, match="rows are on cuda:0, the mixture on cpu"):
        mixture.log_prob(torch.zeros(5, 3, device="cuda"))
