"""Metrics against scikit-image, and against numbers that upstream's own functions gave."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage import metrics as reference
from skimage.color import rgb2ycbcr

from instructir_core.evaluation import metrics

Pixels = npt.NDArray[np.float32]


def waves(height: int, width: int, seed: int, spread: float) -> tuple[Pixels, Pixels]:
    """A coloured pattern as a file would hold it, and a result that leaves [0, 1]."""
    draw = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width]
    pattern = np.stack([np.sin(x / 5 + c) + np.cos(y / (7 - c)) for c in range(3)], -1)
    levels = np.rint(np.clip(127.5 + 70 * pattern + draw.normal(0, 9, pattern.shape), 0, 255))
    clean = (levels / 255).astype(np.float32)
    return clean, (clean + draw.normal(0.01, spread, clean.shape)).astype(np.float32)


# Recorded from upstream's metrics.py at commit 3c0299f with pytorch_msssim 1.0.0, called as its
# test.py does: pt_psnr and ssim on the floats; calculate_psnr and calculate_ssim on pictures cut
# to 8 bits, with test_y_channel. The 8-bit and the right Y scores are the same two functions on
# rounded pictures, without test_y_channel, and with it on BGR as they expect.
UPSTREAM = [
    ((48, 64, 0, 0.05), {
        "psnr_float": 25.910444, "ssim_float": 0.827999, "psnr_8bit": 26.219422,
        "ssim_8bit": 0.836165, "psnr_y": 30.841772, "ssim_y": 0.896239,
        "psnr_y_swapped": 30.951988, "ssim_y_swapped": 0.901924,
    }),
    ((33, 40, 1, 0.15), {
        "psnr_float": 16.457296, "ssim_float": 0.381196, "psnr_8bit": 17.110020,
        "ssim_8bit": 0.397562, "psnr_y": 21.954699, "ssim_y": 0.539901,
        "psnr_y_swapped": 21.902237, "ssim_y_swapped": 0.546309,
    }),
    ((16, 16, 2, 0.01), {
        "psnr_float": 37.231033, "ssim_float": 0.993365, "psnr_8bit": 37.523334,
        "ssim_8bit": 0.993139, "psnr_y": 40.647392, "ssim_y": 0.996571,
        "psnr_y_swapped": 41.544476, "ssim_y_swapped": 0.997052,
    }),
]  # fmt: skip


@pytest.mark.parametrize(("drawn", "expected"), UPSTREAM)
def test_as_upstream(drawn: tuple[int, int, int, float], expected: dict[str, float]) -> None:
    clean, result = waves(*drawn)
    found = metrics.measure(result, clean)
    assert found == pytest.approx(expected, abs=1e-4)
    assert {*found, "lpips"} == set(metrics.CONVENTIONS)


@pytest.mark.parametrize("drawn", [row[0] for row in UPSTREAM])
def test_as_scikit_image(drawn: tuple[int, int, int, float]) -> None:
    clean, result = waves(*drawn)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    found = metrics.measure(result, clean)
    rounded = np.rint(np.clip(result, 0, 1) * 255).astype(np.uint8)
    target = np.rint(clean * 255).astype(np.uint8)
    luma = rgb2ycbcr(rounded)[..., 0], rgb2ycbcr(target)[..., 0]
    expected = {
        "psnr_float": reference.peak_signal_noise_ratio(clean, result, data_range=1),
        "ssim_float": reference.structural_similarity(
            clean, result, data_range=1, channel_axis=-1, **gaussian
        ),
        "psnr_8bit": reference.peak_signal_noise_ratio(target, rounded),
        "ssim_8bit": reference.structural_similarity(target, rounded, channel_axis=-1, **gaussian),
        "psnr_y": reference.peak_signal_noise_ratio(luma[1], luma[0], data_range=255),
        "ssim_y": reference.structural_similarity(*luma, data_range=255, **gaussian),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_equal_pictures_and_symmetry() -> None:
    clean, result = waves(20, 30, 3, 0.1)
    result = result.clip(0, 1)
    assert metrics.psnr(clean, clean) == float("inf")
    assert metrics.ssim(clean, clean) == pytest.approx(1, abs=1e-12)
    for metric in (metrics.psnr, metrics.ssim):
        assert metric(clean, result) == pytest.approx(metric(result, clean), abs=1e-12)
        scaled = metric(clean * 255, result * 255, 255)
        assert metric(clean, result) == pytest.approx(scaled, abs=1e-5)


def test_8_bits_round_and_clamp() -> None:
    values = np.array([-0.3, 0.0, 0.4999 / 255, 0.5001 / 255, 0.7, 1.0, 1.2])
    assert metrics.to_8bit(values).tolist() == [0, 0, 0, 1, 178, 255, 255]


def test_luma_weighs_green_most_and_red_more_than_blue() -> None:
    red, green, blue = (np.eye(3, dtype=np.uint8)[i].reshape(1, 1, 3) * 255 for i in range(3))
    found = [float(metrics.luma(c)[0, 0]) for c in (red, green, blue)]
    assert found == pytest.approx([16 + 65.481, 16 + 128.553, 16 + 24.966])
    swapped = [float(metrics.swapped_luma(c / 255)[0, 0]) for c in (red, green, blue)]
    assert swapped == pytest.approx(found[::-1])


@pytest.mark.parametrize(
    ("result", "target", "said"),
    [
        (np.zeros((20, 20, 3)), np.zeros((20, 21, 3)), r"\(20, 20, 3\).*\(20, 21, 3\).*equal"),
        (np.zeros(20), np.zeros(20), r"\(20,\).*\(H, W\)"),
        (np.full((20, 20), np.nan), np.zeros((20, 20)), "NaN"),
        (np.zeros((20, 20)), np.full((20, 20), 255.0), "255 to 255; expected 0 to 1"),
        (np.zeros((20, 20)), np.full((20, 20), -0.1), "expected 0 to 1"),
    ],
)
def test_what_cannot_be_compared(result: Pixels, target: Pixels, said: str) -> None:
    for metric in (metrics.psnr, metrics.ssim):
        with pytest.raises(ValueError, match=said):
            metric(result, target)


def test_ssim_needs_its_window() -> None:
    small = np.zeros((10, 40, 3))
    with pytest.raises(ValueError, match="40 x 10 pixels; expected 11 or more"):
        metrics.ssim(small, small)


def test_lpips_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="pip install lpips"):
        metrics.lpips()


def test_lpips_gets_pictures_from_minus_one_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distance(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            assert net == "alex"

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            assert x.shape == y.shape == (1, 3, 20, 30) and x.min() == -1 and x.max() == 1
            return (x - y).abs().mean()

    module = ModuleType("lpips")
    module.LPIPS = Distance  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", module)
    clean, result = waves(20, 30, 3, 0.3)
    expected = np.abs(np.rint(np.clip(result, 0, 1) * 255) - np.rint(clean * 255)).mean() / 127.5
    assert metrics.lpips()(result, clean) == pytest.approx(expected, abs=1e-5)
