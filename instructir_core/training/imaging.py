"""Optics, sensor and files as plain functions of pictures: the steps degradations are made of.

Pictures are (H, W, 3) float32 sRGB in [0, 1] unless said otherwise; nothing is drawn at random
except where a ``Generator`` is given, and inputs are never changed.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.fft import next_fast_len

Pixels = npt.NDArray[np.float32]

BICUBIC = Image.Resampling.BICUBIC
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def quantize(image: npt.ArrayLike) -> Pixels:
    """Clip to [0, 1] and round to the nearest of 256 levels."""
    levels = np.rint(np.clip(np.asarray(image, np.float32), 0.0, 1.0) * 255.0)
    return (levels / 255.0).astype(np.float32)


def to_linear(srgb: Pixels) -> Pixels:
    """sRGB transfer curve to linear light (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


def to_srgb(linear: Pixels) -> Pixels:
    """Linear light to the sRGB transfer curve (IEC 61966-2-1)."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055
    ).astype(np.float32)


# --- lenses ------------------------------------------------------------------------------------


def convolve(image: npt.NDArray[np.float32], kernel: npt.NDArray[np.float32]) -> Pixels:
    """Convolve each channel of (H, W, C) with a square odd kernel, mirroring the borders."""
    radius = kernel.shape[0] // 2
    height, width = image.shape[:2]
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    shape = [next_fast_len(n, real=True) for n in padded.shape[:2]]
    spectrum = np.fft.rfft2(padded, shape, axes=(0, 1))
    spectrum *= np.fft.rfft2(kernel, shape)[..., None]
    full = np.fft.irfft2(spectrum, shape, axes=(0, 1))
    return full[2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width].astype(
        np.float32
    )


def soften(image: npt.NDArray[np.float32], sigma: float) -> Pixels:
    """Gaussian blur of ``sigma`` px of (H, W) or, each channel alone, of (H, W, C)."""
    sigmas = (sigma, sigma, 0.0)[: image.ndim]
    blurred: Pixels = ndimage.gaussian_filter(image, sigmas, mode="reflect")
    return blurred


def sharpen(image: Pixels, sigma: float, amount: float) -> Pixels:
    """Unsharp masking: add ``amount`` times what a Gaussian of ``sigma`` px takes away."""
    return image + np.float32(amount) * (image - soften(image, sigma))


def line_kernel(length: float, degrees: float, thickness: float) -> npt.NDArray[np.float32]:
    """A soft line through the centre, ``degrees`` away from the vertical, unnormalised."""
    radius = int(np.ceil(length / 2 + 2 * thickness))
    yy, xx = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    angle = np.deg2rad(degrees)
    along = yy * np.cos(angle) + xx * np.sin(angle)
    across = xx * np.cos(angle) - yy * np.sin(angle)
    ends = np.clip(length / 2 - np.abs(along) + 0.5, 0.0, 1.0)
    line: npt.NDArray[np.float32] = ends * np.exp(-0.5 * (across / thickness) ** 2)
    return line


def path_kernel(heading: npt.NDArray[np.float64], length: float) -> npt.NDArray[np.float32]:
    """A path of ``length`` px whose steps point at ``heading`` (radians), centred, sum 1."""
    steps = np.stack([np.sin(heading), np.cos(heading)]) * (length / len(heading))
    path = np.cumsum(steps, axis=1)
    path -= (path.max(axis=1, keepdims=True) + path.min(axis=1, keepdims=True)) / 2
    radius = int(np.ceil(np.abs(path).max())) + 2
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    floor = np.floor(path).astype(int)
    fraction = path - floor
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - fraction[0]) * np.abs(1 - dx - fraction[1])
            np.add.at(kernel, (floor[0] + dy + radius, floor[1] + dx + radius), weight)
    return kernel / kernel.sum()


def disc_kernel(radius: float, rim: float = 0.0) -> npt.NDArray[np.float32]:
    """A defocused point: a disc of ``radius`` px with a soft edge, sum 1.

    ``rim`` makes its edge that much brighter than its middle, as over-corrected lenses do.
    """
    half = int(np.ceil(radius)) + 1
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    distance = np.hypot(yy, xx)
    disc = np.clip(radius + 0.5 - distance, 0.0, 1.0) * (1.0 + rim * (distance / radius) ** 4)
    kernel: npt.NDArray[np.float32] = (disc / disc.sum()).astype(np.float32)
    return kernel


def oval_kernel(sigma: float, ratio: float, angle: float) -> npt.NDArray[np.float32]:
    """A Gaussian of ``sigma`` px one way and ``ratio`` of it the other, turned, sum 1."""
    half = int(np.ceil(3 * sigma))
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    along = (xx * np.cos(angle) + yy * np.sin(angle)) / sigma
    across = (yy * np.cos(angle) - xx * np.sin(angle)) / (sigma * ratio)
    kernel: npt.NDArray[np.float32] = np.exp(-0.5 * (along**2 + across**2))
    return kernel / kernel.sum()


# --- sensors -----------------------------------------------------------------------------------


def mosaic(image: Pixels) -> npt.NDArray[np.float32]:
    """(H, W, 3) -> (H, W): the one sample per pixel that a Bayer sensor (RGGB) sees."""
    raw = image[..., 1].copy()
    raw[::2, ::2] = image[::2, ::2, 0]
    raw[1::2, 1::2] = image[1::2, 1::2, 2]
    return raw


def demosaic(raw: npt.NDArray[np.float32], clean: Pixels) -> Pixels:
    """Add to ``clean`` the bilinearly interpolated noise of its Bayer samples ``raw``.

    Only the noise is interpolated: real demosaicing keeps edges, which plain averaging of the
    samples would blur, and then the task would be deblurring too.
    """
    noise = raw - mosaic(clean)
    cross = np.array([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]], np.float32)
    plus = np.array([[0.0, 0.25, 0.0], [0.25, 1.0, 0.25], [0.0, 0.25, 0.0]], np.float32)
    planes = np.zeros((*raw.shape, 3), np.float32)
    planes[::2, ::2, 0] = noise[::2, ::2]
    planes[::2, 1::2, 1] = noise[::2, 1::2]
    planes[1::2, ::2, 1] = noise[1::2, ::2]
    planes[1::2, 1::2, 2] = noise[1::2, 1::2]
    spread = [
        ndimage.convolve(planes[..., c], plus if c == 1 else cross, mode="reflect")
        for c in range(3)
    ]
    return clean + np.stack(spread, axis=-1)


# --- files and sizes ---------------------------------------------------------------------------


def compress(
    image: Pixels,
    quality: int,
    kind: str = "JPEG",
    corner: tuple[int, int] = (0, 0),
    **options: int,
) -> Pixels:
    """What is left of an image after JPEG (1 to 95) or WebP (0 to 100) of this quality.

    ``corner`` is where in the file the image begins, so that the codec's blocks need not begin
    with it; ``options`` are Pillow's.
    """
    top, left = corner
    if top or left:
        image = np.pad(image, ((top, 0), (left, 0), (0, 0)), mode="symmetric")
    buffer = io.BytesIO()
    Image.fromarray((quantize(image) * 255.0 + 0.5).astype(np.uint8)).save(
        buffer, kind, quality=quality, **options
    )
    return (np.asarray(Image.open(buffer), np.float32) / np.float32(255))[top:, left:]


def resize(pixels: Pixels, size: tuple[int, int], how: Image.Resampling) -> Pixels:
    """Resize to (width, height) in floats, without rounding."""
    # Channel by channel: Pillow resizes floats only so, and bytes would round twice.
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., c])).resize(size, how))
        for c in range(pixels.shape[2])
    ]
    return np.stack(channels, axis=-1)


def resample(
    image: Pixels,
    factor: float,
    shrink: Image.Resampling,
    quality: int | None = None,
    enlarge: Image.Resampling = BICUBIC,
) -> Pixels:
    """Shrink by ``factor``, compress as JPEG where a ``quality`` is given, enlarge again."""
    height, width = image.shape[:2]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    tiny = resize(image, small, shrink)
    if quality is not None:
        tiny = compress(tiny, quality)
    return resize(tiny, (width, height), enlarge)


def smooth_noise(
    shape: tuple[int, int], rng: np.random.Generator, scale: float
) -> npt.NDArray[np.float32]:
    """Smooth random values in [0, 1] whose bumps are about ``scale`` of the image wide."""
    cells = max(2, round(1.0 / scale) + 1)
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    smooth = coarse.resize((shape[1], shape[0]), BICUBIC)
    return np.clip(np.asarray(smooth), 0.0, 1.0)
