"""EPLL beside loops over patches, and on a photograph."""

import numpy as np
import pytest
import torch

import torchgmm as tg
from tests.cases import FAMILIES, FLOATS, drawn
from torchgmm.images import denoise, psnr, read_grey
from torchgmm.images import epll as room


def naive(y, mixture, noise, betas, subtract_mean):
    """One patch after the other, with inverses of covariance matrices, in NumPy."""
    factor = mixture.scale_tril.detach().double()
    sigma, mu = (factor @ factor.mT).numpy(), mixture.means.detach().double().numpy()
    pi, d = mixture.weights.detach().double().numpy(), mu.shape[1]
    size = round(d**0.5)
    x = y.copy()
    for b in betas:
        beta = b / noise**2
        total, count = np.zeros_like(y), np.zeros_like(y)
        for i in range(y.shape[0] - size + 1):
            for j in range(y.shape[1] - size + 1):
                patch = x[i : i + size, j : j + size].ravel()
                level = patch.mean() if subtract_mean else 0.0
                patch = patch - level
                levels = []
                for k in range(len(pi)):
                    noisy = sigma[k] + np.eye(d) / beta
                    far = (patch - mu[k]) @ np.linalg.solve(noisy, patch - mu[k])
                    levels.append(np.log(pi[k]) - (np.linalg.slogdet(noisy)[1] + far) / 2)
                k = int(np.argmax(levels))
                noisy = sigma[k] + np.eye(d) / beta
                likely = mu[k] + sigma[k] @ np.linalg.solve(noisy, patch - mu[k]) + level
                total[i : i + size, j : j + size] += likely.reshape(size, size)
                count[i : i + size, j : j + size] += 1
        own = d / noise**2
        x = (own * y + beta * total) / (own + beta * count)
    return x


@pytest.mark.parametrize("subtract_mean", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_definition(family, subtract_mean, monkeypatch):
    mixture = tg.GaussianMixture.from_parameters(drawn(family, 3, 9))
    g = torch.Generator().manual_seed(0)
    y = 2 * torch.randn(9, 11, generator=g, dtype=torch.float64)
    expected = naive(y.numpy(), mixture, 0.7, (1, 4, 8), subtract_mean)
    for patches in (65_536, 20):  # in one piece; two rows of patches at a time
        monkeypatch.setattr(room, "_PATCHES", patches)
        found = denoise(y, mixture, 0.7, betas=(1, 4, 8), subtract_mean=subtract_mean)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", FLOATS)
def test_images_of_a_stack_are_each_for_itself(dtype):
    mixture = tg.GaussianMixture.from_parameters(drawn("full", 2, 4), dtype=dtype)
    y = torch.randn(2, 3, 7, 6, dtype=dtype)
    kept = y.clone()
    found = denoise(y, mixture, 0.5)
    assert (found.shape, found.dtype) == (y.shape, dtype)
    assert torch.equal(y, kept)  # what was given is left as it is
    for a in range(2):
        for b in range(3):
            torch.testing.assert_close(found[a, b], denoise(y[a, b].numpy(), mixture, 0.5))


def test_the_right_prior_is_the_wiener_filter():
    # one Gaussian, patches that cover the image: the first round is the posterior mean
    mixture = tg.GaussianMixture.from_parameters(drawn("full", 1, 16))
    y = mixture.sample().reshape(4, 4) + 0.5
    found = denoise(y, mixture, 0.5, betas=[1.0], subtract_mean=False)
    sigma, mean = mixture.covariances[0].detach(), mixture.means[0].detach()
    noisy = sigma + 0.25 * torch.eye(16)
    likely = mean + sigma @ torch.linalg.solve(noisy, y.flatten() - mean)
    own = 16 / 0.25
    expected = (own * y.flatten() + 4 * likely) / (own + 4)
    torch.testing.assert_close(found.flatten(), expected)


def photograph(name, top, left, height, width):
    return torch.from_numpy(read_grey(name)[top : top + height, left : left + width].copy())


def test_a_photograph_loses_its_noise():
    # learnt on a corner of one photograph, used on a part of the other
    learnt = photograph("china.jpg", 160, 200, 120, 200)
    patches = learnt.unfold(0, 6, 1).unfold(1, 6, 1).reshape(-1, 36)
    mixture = tg.GaussianMixture(10)
    mixture.fit(patches - patches.mean(1, keepdim=True), tg.EM(max_iter=12), generator=0)
    clean = photograph("flower.jpg", 100, 200, 96, 128)
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    before, after = (float(psnr(i, clean)) for i in (noisy, denoise(noisy, mixture, 25 / 255)))
    assert before == pytest.approx(20.17, abs=0.1)  # 20 log10(255 / 25)
    assert after > before + 7
    # better than what a single Gaussian, whose filter is the same everywhere, can do
    one = tg.GaussianMixture(1)
    one.fit(patches - patches.mean(1, keepdim=True))
    assert after > float(psnr(denoise(noisy, one, 25 / 255), clean)) + 0.5


def test_it_adapts_by_steps_of_em_on_what_it_restored():
    g = torch.Generator().manual_seed(0)
    mixture = tg.GaussianMixture.from_parameters(drawn("full", 3, 9))
    before = mixture.means.detach().clone()
    noisy = 3 * torch.randn(2, 24, 30, generator=g, dtype=torch.float64)
    found = denoise(noisy, mixture, 0.5, adapt=2)
    assert torch.equal(mixture.means, before)  # the mixture that was given is left as it is
    for number, image in enumerate(denoise(noisy, mixture, 0.5)):
        patches = image.unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9)
        own = tg.GaussianMixture.from_parameters(drawn("full", 3, 9))
        own.fit(patches - patches.mean(1, keepdim=True), tg.EM(max_iter=2), init="current")
        expected = denoise(noisy[number], own, 0.5)
        torch.testing.assert_close(found[number], expected)


@pytest.mark.slow
def test_a_mixture_of_its_own_patches_restores_as_well_as_bm3d():
    # BM3D (its authors' package, 4.0) restores this part to 28.32 dB; 24 Gaussians of patches of
    # the other photograph to 26.7, of 64 to 26.8; of its own clean patches to 28.24
    clean = photograph("flower.jpg", 100, 180, 192, 256)
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    patches = clean.unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 64)
    mixture = tg.GaussianMixture(24)
    mixture.fit(patches - patches.mean(1, keepdim=True), tg.EM(max_iter=8), generator=0)
    assert float(psnr(denoise(noisy, mixture, 25 / 255), clean)) > 27.9


def test_psnr_is_its_formula():
    a, b = torch.rand(2, 5, 6), torch.rand(5, 6)
    expected = 10 * torch.log10(1 / (a - b).double().pow(2).flatten(1).mean(1))
    torch.testing.assert_close(psnr(a, b), expected)
    torch.testing.assert_close(psnr(255 * a, 255 * b, peak=255), expected, rtol=1e-5, atol=0)
    assert psnr(a, a).tolist() == [float("inf")] * 2


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: denoise(torch.zeros(1, 9), m, 0.1), "hold a patch of 2 x 2 pixels"),
        (lambda m: denoise(torch.zeros(9), m, 0.1), "images must be"),
        (lambda m: denoise(torch.zeros(5, 5) * torch.nan, m, 0.1), "NaN or infinite"),
        (lambda m: denoise(torch.zeros(5, 5), m, 0.0), "noise must be above 0"),
        (lambda m: denoise(torch.zeros(5, 5), m, 0.1, betas=[]), "betas must be numbers above 0"),
        (lambda m: denoise(torch.zeros(5, 5), tg.GaussianMixture(1, 3), 0.1), "no square patch"),
        (lambda m: denoise(torch.zeros(5, 5), m, 0.1, adapt=-1), "adapt must be at least 0"),
        (lambda m: psnr(torch.zeros(3, 3), torch.zeros(3, 4)), "of one size"),
        (lambda m: read_grey("moon.jpg"), "scikit-learn ships only china.jpg, flower.jpg"),
    ],
)
def test_what_cannot_be_is_refused(call, text):
    with pytest.raises(tg.InputError, match=text):
        call(tg.GaussianMixture.from_parameters(drawn("full", 2, 4)))
