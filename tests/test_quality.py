"""Measures of pictures: against their formulas, against other libraries, and without the networks that some need."""

import hashlib
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage
from torch import nn

from nbflows import quality
from nbflows.tasks import Inpainting


@pytest.fixture
def pictures():
    """True ones, and noisy ones."""
    targets = torch.randint(256, (300, 3, 16, 20)).byte()
    noise = torch.linspace(2, 20, 300)[:, None, None, None] * torch.randn(300, 3, 16, 20)
    return (targets + noise).round().clamp(0, 255).byte(), targets


def test_psnr_is_that_of_scikit_image_for_each_picture(pictures):
    from skimage.metrics import peak_signal_noise_ratio

    theirs = [peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=255) for a, b in zip(*pictures, strict=True)]
    assert np.allclose(quality.psnr(*pictures), theirs, rtol=1e-6)


@pytest.mark.parametrize("num_grey_levels", [2, 17, 256])
def test_equal_pictures_have_the_psnr_of_rounding(num_grey_levels):
    targets = torch.zeros(2, 1, 4, 4).byte()
    results = targets.clone()
    results[1] = 1
    largest = 10 * math.log10((num_grey_levels - 1) ** 2 * 12)
    expected = [largest, 20 * math.log10(num_grey_levels - 1)]
    assert quality.psnr(results, targets, num_grey_levels).tolist() == pytest.approx(expected, abs=1e-5)


def _ssim(a, b):
    """Wang et al., equation 13, of one channel."""
    x = np.arange(11) - 5.0
    window = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2

    def mean(values):
        return ndimage.correlate(values, window, mode="mirror")

    variance_a, variance_b = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    covariance = mean(a * b) - mean(a) * mean(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
    return (luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)).mean()


def test_ssim_is_its_formula_for_each_picture(pictures):
    found = quality.ssim(*pictures)
    for i in (0, 150, 299):
        channels = zip(*(images[i].double().numpy() for images in pictures), strict=True)
        assert found[i].item() == pytest.approx(np.mean([_ssim(a, b) for a, b in channels]), abs=1e-5)
    assert (quality.ssim(pictures[1], pictures[1]) > 1 - 1e-5).all()


def test_ssim_does_not_depend_on_the_unit_of_grey():
    a, b = (torch.randint(18, (5, 1, 12, 12)) for _ in range(2))
    assert torch.allclose(quality.ssim(a, b, num_grey_levels=18), quality.ssim(15 * a, 15 * b), atol=1e-5)


def test_rmse_is_on_the_scale_of_255():
    targets = torch.zeros(2, 3, 4, 4).byte()
    results = targets.clone()
    results[1, :, :2] = 8
    assert quality.rmse(results, targets).tolist() == pytest.approx([0, 8 / math.sqrt(2)])
    assert quality.rmse(results, targets, num_grey_levels=17).tolist() == pytest.approx([0, 255 / 2 / math.sqrt(2)])


def test_a_score_is_a_mean_with_its_standard_error():
    score = quality.summarize(torch.tensor([1.0, 2.0, 6.0]), "dB")
    assert score == quality.Score(3.0, pytest.approx(math.sqrt(7 / 3)), 3, "dB")
    assert str(score) == "3.000 ± 1.528 dB (3 images)"
    assert str(quality.summarize(torch.ones(2))) == "1.000 ± 0.000 (2 images)"
    assert math.isnan(quality.summarize(torch.ones(1)).standard_error)


def test_pictures_are_compared_by_every_measure(pictures):
    scores = quality.compare(*pictures)
    assert {name: score.unit for name, score in scores.items()} == {"psnr": "dB", "ssim": "", "rmse": ""}
    for name, score in scores.items():
        assert score == quality.summarize(getattr(quality, name)(*pictures), score.unit)
    small = [images[..., :10, :] for images in pictures]
    assert list(quality.compare(*small)) == ["psnr", "rmse"]


def test_inpainted_pictures_are_compared_with_and_without_their_known_pixels(pictures):
    results, targets = pictures
    task = Inpainting()
    sources, _ = task.pair(targets)
    scores = quality.compare(results, targets, known=task.known(16, 20), sources=sources)
    assert list(scores) == ["psnr", "ssim", "rmse", "psnr_pasted", "ssim_pasted", "rmse_pasted"]
    assert scores["psnr"] == quality.compare(results, targets)["psnr"]
    assert scores["rmse_pasted"] == quality.compare(task.paste(results, sources), targets)["rmse"]
    assert scores["rmse_pasted"].mean < 0.5 * scores["rmse"].mean


def test_diversity_is_the_deviation_over_samples():
    samples = torch.zeros(2, 2, 1, 4, 4).byte()
    samples[1, 1, :, :2] = 10
    # Of 0 and 10 it is 10 / sqrt(2), in half of the pixels.
    assert quality.diversity(samples).tolist() == pytest.approx([0, 5 / math.sqrt(2)])
    mean, std = quality.per_pixel(samples)
    assert mean.shape == std.shape == (2, 1, 4, 4)
    assert mean[1, 0, :, 0].tolist() == [5, 5, 0, 0]
    assert std[1, 0, :, 0].tolist() == pytest.approx([10 / math.sqrt(2)] * 2 + [0, 0])


_images = torch.zeros(3, 3, 12, 12).byte()


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: quality.psnr(_images, _images[:2]), r"got \(3, 3, 12, 12\) and \(2, 3, 12, 12\)"),
        (lambda: quality.rmse(_images[0], _images[0]), r"expected \(N, C, H, W\) twice, got \(3, 12, 12\)"),
        (
            lambda: quality.psnr(_images + 17, _images, num_grey_levels=17),
            "of 17 grey levels .* is 16, these go up to 17",
        ),
        (lambda: quality.ssim(_images[..., :10, :], _images[..., :10, :]), "11x11, these pictures 12x10"),
        (lambda: quality.compare(_images, _images, known=torch.ones(12, 12)), "give both, known and sources"),
        (lambda: quality.compare(_images, _images, known=torch.ones(12, 12), sources=_images[:1]), r"\(1, 3, 12, 12\)"),
        (lambda: quality.diversity(_images), r"2 samples or more, got \(3, 3, 12, 12\)"),
        (lambda: quality.per_pixel(_images[:, None]), r"2 samples or more, got \(3, 1, 3, 12, 12\)"),
        (lambda: quality.lpips(_images, _images), "31x31 pixels or more, these are 12x12"),
        (lambda: quality.fid(_images[:1], _images), "2 pictures or more of each kind, got 1 and 3"),
    ],
)
def test_pictures_that_cannot_be_compared_are_an_error(compute, message):
    with pytest.raises(ValueError, match=message):
        compute()


# --- measures that need a network -------------------------------------------------------------------------------------


def _features():
    """The layers of AlexNet that LPIPS looks at, random."""
    relu = [nn.ReLU() for _ in range(5)]
    convolutions = [nn.Conv2d(3, 64, 11, 4, 2), nn.Conv2d(64, 192, 5, padding=2)]
    convolutions += [nn.Conv2d(a, b, 3, padding=1) for a, b in ((192, 384), (384, 256), (256, 256))]
    layers = [layer for pair in zip(convolutions, relu, strict=True) for layer in pair]
    return nn.Sequential(*layers[:2], nn.MaxPool2d(3, 2), *layers[2:4], nn.MaxPool2d(3, 2), *layers[4:])


def test_lpips_is_a_distance_of_each_picture(monkeypatch):
    import torchvision
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    features = _features()
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights: SimpleNamespace(features=features))
    monkeypatch.setattr(quality, "_network", lambda url: None)
    results, targets = (torch.randint(17, (257, 3, 32, 32)).byte() for _ in range(2))
    distances = quality.lpips(results, targets, num_grey_levels=17)
    # The last chunk holds one picture.
    assert distances.shape == (257,) and (distances > 0).all()
    pair = (results[:2] / 16, targets[:2] / 16)
    theirs = learned_perceptual_image_patch_similarity(*pair, normalize=True, reduction="none")
    assert torch.allclose(distances[:2], theirs, rtol=1e-4)
    assert (quality.lpips(targets[:2], targets[:2], num_grey_levels=17) == 0).all()
    grey = results[:2, :1]
    colour = [images[:2, :1].expand(-1, 3, -1, -1) for images in (results, targets)]
    assert torch.equal(quality.lpips(grey, targets[:2, :1], 17), quality.lpips(*colour, 17))


class _Means(nn.Module):
    num_features = 3

    def forward(self, images):
        return images.float().mean((2, 3))


def test_fid_is_its_formula_of_mean_and_covariance(monkeypatch):
    from torchmetrics.image.fid import FrechetInceptionDistance

    monkeypatch.setattr(quality, "_frechet_distance", lambda: FrechetInceptionDistance(_Means()))
    results, targets = torch.randint(17, (90, 3, 4, 4)).byte(), torch.randint(12, (70, 3, 4, 4)).byte()
    features = [(images.double() * 255 / 16).round().mean((2, 3)).numpy() for images in (results, targets)]
    (m1, s1), (m2, s2) = ((f.mean(0), np.cov(f, rowvar=False)) for f in features)
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * linalg.sqrtm(s1 @ s2).real)
    assert quality.fid(results, targets, num_grey_levels=17) == pytest.approx(expected, rel=1e-4)
    assert quality.fid(targets, targets, num_grey_levels=17) == pytest.approx(0, abs=1e-3)


def test_fid_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install torch-fidelity"):
        quality.fid(_images, _images)


def test_a_network_that_cannot_be_had_says_where_it_belongs(monkeypatch, tmp_path):
    def no_internet(*arguments, **options):
        raise OSError("no internet")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_internet)
    images = torch.zeros(2, 1, 32, 32)
    with pytest.raises(FileNotFoundError) as error:
        quality.lpips(images, images)
    for part in ("hub/checkpoints/alexnet-owt-7be5be79.pth is not there", "https://download.pytorch", "TORCH_HOME"):
        assert part in str(error.value)
    assert str(tmp_path) in str(error.value) and "(no internet)" in str(error.value)


def test_a_network_is_taken_only_with_the_content_of_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    file = tmp_path / "hub" / "checkpoints" / f"net-{digest}.pth"
    fetched = []

    def download(url, target, hash_prefix, progress):
        fetched.append((url, hash_prefix))
        file.write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = f"https://nowhere/{file.name}"
    assert quality._network(url) == file
    assert quality._network(url) == file
    assert fetched == [(url, digest)]
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"net-{digest}.pth is not what its name says, its SHA-256 begins with"):
        quality._network(url)
