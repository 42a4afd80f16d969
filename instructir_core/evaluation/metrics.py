"""PSNR, SSIM and LPIPS of one image against its target, each under a name that says how.

Two conventions are in use and differ in the second decimal, so every score here names its own:
the float one of InstructIR's released code, and the 8-bit one of most other papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Pixels = npt.NDArray[Any]

CONVENTIONS = {
    "psnr_float": "RGB, the network's unclamped float output (InstructIR's test.py)",
    "ssim_float": "the same, SSIM of pytorch_msssim as InstructIR's test.py calls it",
    "psnr_8bit": "RGB, clamped and rounded to 8 bits, as a saved file (most papers)",
    "ssim_8bit": "the same, Gaussian-weighted SSIM of Wang et al. 2004 (most papers)",
    "psnr_y": "BT.601 luma of the 8-bit RGB image (the usual deraining metric)",
    "ssim_y": "the same, SSIM",
    "psnr_y_swapped": "luma of InstructIR's test.py: truncated to 8 bits, R and B exchanged",
    "ssim_y_swapped": "the same, SSIM",
    "lpips": "LPIPS 0.1 with AlexNet, of the 8-bit image; less is better",
}
"""What each score is, by its name in `measure` and in every table and file."""

_LUMA = (65.481, 128.553, 24.966)
"""ITU-R BT.601 weights of R, G, B in [0, 1] for a luma of 16 to 235 (MATLAB's rgb2ycbcr)."""


def psnr(result: Pixels, target: Pixels, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; infinity if equal.

    ``result`` and ``target``: (H, W) or (H, W, C), any float or integer type; the target within
    [0, ``data_range``], the result free to leave it. Raises ValueError otherwise.
    """
    _check(result, target, data_range)
    error = float(np.mean((result.astype(np.float64) - target.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10.0 * float(np.log10(data_range**2 / error))


def ssim(result: Pixels, target: Pixels, data_range: float = 1.0) -> float:
    """Structural similarity, at most 1, averaged over pixels and channels.

    Arguments as `psnr`; both sides of at least 11 pixels. Source: Wang, Bovik, Sheikh and
    Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004:
    Gaussian window of 11 pixels and sigma 1.5, K = 0.01 and 0.03, only where the whole window
    fits, biased variances. pytorch_msssim, and scikit-image with ``gaussian_weights=True,
    use_sample_covariance=False``, compute the same.
    """
    _check(result, target, data_range)
    if min(result.shape[:2]) < len(_WINDOW):
        raise ValueError(
            f"Found {result.shape[1]} x {result.shape[0]} pixels; expected {len(_WINDOW)} or more "
            "each way, the window of SSIM. Leave the picture out, or use PSNR."
        )
    x, y = (
        torch.from_numpy(np.ascontiguousarray(a.astype(np.float64).reshape(*a.shape[:2], -1).T))
        for a in (result, target)
    )
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance_x, variance_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())


_WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()


def _smooth(x: Tensor) -> Tensor:
    """(C, W, H) weighted with the window along both axes -> (C, W - 10, H - 10)."""
    for axis in (1, 2):
        size = x.shape[axis] - len(_WINDOW) + 1
        # Shifted sums: for float64 many times faster than PyTorch's convolution.
        smooth = torch.zeros_like(x.narrow(axis, 0, size))
        for shift, weight in enumerate(_WINDOW):
            smooth.add_(x.narrow(axis, shift, size), alpha=float(weight))
        x = smooth
    return x


def to_8bit(image: Pixels) -> npt.NDArray[np.uint8]:
    """Floats in [0, 1], clamped -> the nearest of 256 levels, as a saved file holds them."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def luma(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(H, W, 3) 8-bit RGB -> (H, W) BT.601 luma, 16 to 235, not rounded; its data range is 255."""
    return rgb.astype(np.float64) @ (np.array(_LUMA) / 255.0) + 16.0


def swapped_luma(image: Pixels) -> npt.NDArray[np.float64]:
    """(H, W, 3) RGB floats, clamped to [0, 1] -> the luma of InstructIR's test.py, 16 to 235.

    That code gives RGB to a function that expects BGR, and truncates to 8 bits where it should
    round. It is here only so that its numbers can be compared; `luma` is the right one.
    """
    truncated = (np.clip(image, 0.0, 1.0).astype(np.float32) * np.float32(255)).astype(np.uint8)
    return luma(truncated[..., ::-1])


def measure(result: Pixels, target: Pixels) -> dict[str, float]:
    """Every score of `CONVENTIONS` but LPIPS, of (H, W, 3) floats; the target within [0, 1]."""
    scores = {"psnr_float": psnr(result, target), "ssim_float": ssim(result, target)}
    for name, convert in (
        ("8bit", to_8bit),
        ("y", lambda image: luma(to_8bit(image))),
        ("y_swapped", swapped_luma),
    ):
        pair = convert(result), convert(target)
        scores[f"psnr_{name}"], scores[f"ssim_{name}"] = psnr(*pair, 255), ssim(*pair, 255)
    return scores


def lpips(device: torch.device | str = "cpu") -> Callable[[Pixels, Pixels], float]:
    """A function of (result, target), as `measure` takes them, that gives their LPIPS distance.

    Source: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual
    metric", 2018, by its authors' package. Raises ValueError if that is not installed, and
    OSError if the AlexNet weights that it downloads on first use cannot be had.
    """
    try:
        from lpips import LPIPS
    except ImportError as exc:
        raise ValueError(
            f"LPIPS was asked for and cannot be loaded ({exc}); expected the package lpips. "
            "Install it with: pip install lpips"
        ) from exc
    try:
        distance = LPIPS(net="alex", verbose=False).to(device).eval()
    except OSError as exc:
        raise OSError(
            f"LPIPS found no AlexNet weights ({exc}); expected them in PyTorch's cache or a "
            "network to download them from, once. Connect, or leave LPIPS out."
        ) from exc

    @torch.inference_mode()
    def measure_lpips(result: Pixels, target: Pixels) -> float:
        _check(result, target, 1.0)
        x, y = (
            torch.from_numpy(to_8bit(image).astype(np.float32)).permute(2, 0, 1)[None].to(device)
            for image in (result, target)
        )
        return float(distance(x / 127.5 - 1.0, y / 127.5 - 1.0))

    return measure_lpips


def _check(result: Pixels, target: Pixels, data_range: float) -> None:
    if result.shape != target.shape or target.ndim not in (2, 3) or not target.size:
        raise ValueError(
            f"Found a result of shape {result.shape} and a target of shape {target.shape}; "
            "expected equal ones, (H, W) or (H, W, C). Compare pictures of one size."
        )
    if not (np.isfinite(result).all() and np.isfinite(target).all()):
        raise ValueError(
            "Found NaN or infinity among the pixels; expected finite ones. The weights are damaged "
            "or were trained badly: load another model."
        )
    low, high = float(target.min()), float(target.max())
    if low < 0 or high > data_range:
        raise ValueError(
            f"Found a target from {low:.4g} to {high:.4g}; expected 0 to {data_range:g}. Scale it, "
            "or give its data_range."
        )
