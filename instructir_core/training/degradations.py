"""Synthetic degradations for the seven tasks, as pure functions of an image and a generator.

Every function takes a clean (H, W, 3) float32 sRGB image in [0, 1] and a NumPy ``Generator`` and
returns a degraded image of the same shape, dtype and range, already rounded to 8 bits as files
are. The same generator state gives the same result; the input is never changed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.fft import next_fast_len

Pixels = npt.NDArray[np.float32]
Degradation = Callable[[Pixels, np.random.Generator], Pixels]


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


def noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Sensor noise: Gaussian of sigma 5 to 55 (of 255), or Poisson-Gaussian as high ISO gives."""
    if rng.random() < 0.75:
        sigma = rng.choice([15.0, 25.0, 50.0]) if rng.random() < 0.6 else rng.uniform(5.0, 55.0)
        return quantize(image + rng.normal(0.0, sigma / 255.0, image.shape))
    shot = rng.uniform(0.002, 0.04)
    read = rng.uniform(2.0, 20.0) / 255.0
    noisy = image + rng.normal(0.0, 1.0, image.shape) * np.sqrt(shot * image + read**2)
    return quantize(noisy)


def blur(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Camera shake along a smooth random path (3 to 15 px), or defocus over a disc."""
    kernel = _motion_kernel(rng) if rng.random() < 0.6 else _disc_kernel(rng)
    blurred = _convolve(image, kernel)
    return quantize(blurred + rng.normal(0.0, rng.uniform(0.0, 2.0) / 255.0, image.shape))


def rain(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Bright streaks along one wind direction, in one or two layers, and sometimes a pale veil."""
    height, width = image.shape[:2]
    angle = rng.uniform(-35.0, 35.0)
    layer = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(1, 3)):
        length = rng.uniform(6.0, 45.0)
        thickness = rng.uniform(0.35, 1.1)
        # Drops further up than the frame still leave streaks inside it.
        pad = int(length) + 2
        drops = rng.random((height + 2 * pad, width + 2 * pad)) < rng.uniform(0.0008, 0.008)
        weights = drops * rng.uniform(0.4, 1.0, drops.shape)
        streak = _line_kernel(length, angle + rng.uniform(-4.0, 4.0), thickness)
        streak /= streak.max()
        fallen = _convolve(weights.astype(np.float32)[..., None], streak)[..., 0]
        layer = np.maximum(layer, fallen[pad:-pad, pad:-pad])
    strength = rng.uniform(0.15, 0.85)
    rained = image + np.clip(layer, 0.0, 1.0)[..., None] * strength * (1.0 - 0.6 * image)
    if rng.random() < 0.3:
        veil = rng.uniform(0.03, 0.15)
        rained = rained * (1.0 - veil) + veil * rng.uniform(0.6, 0.9)
    return quantize(rained)


def haze(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Koschmieder's law: ``J t + A (1 - t)``, ``t = exp(-beta depth)``, over an invented depth.

    Depth grows towards one side (mostly the top) and carries smooth and sharp-edged structure.
    """
    height, width = image.shape[:2]
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.normal(0.0, 0.6)
    ramp = -yy / height * np.cos(angle) + xx / width * np.sin(angle)
    depth = (ramp - ramp.min()) * rng.uniform(0.0, 1.0)
    depth += _smooth_noise((height, width), rng, scale=rng.uniform(0.1, 0.5)) * rng.uniform(0, 0.5)
    if rng.random() < 0.5:
        guide = ndimage.gaussian_filter(image.mean(axis=2), 1.5)
        depth += guide * rng.uniform(-0.5, 0.5)
    depth -= depth.min()
    depth += rng.uniform(0.1, 0.7)
    transmission = np.exp(-rng.uniform(0.4, 1.7) * depth)[..., None]
    transmission = np.clip(transmission, 0.12, 1.0)
    light = rng.uniform(0.65, 1.0) * (1.0 + rng.normal(0.0, 0.02, 3))
    return quantize(image * transmission + np.clip(light, 0.0, 1.0) * (1.0 - transmission))


def low_light(image: Pixels, rng: np.random.Generator) -> Pixels:
    """1.5 to 4.5 stops too little light, a slight colour cast and the noise that comes with it."""
    linear = to_linear(image) * 2.0 ** -rng.uniform(1.5, 4.5)
    linear *= 1.0 + rng.normal(0.0, 0.06, 3)
    if rng.random() < 0.7:
        shot, read = rng.uniform(0.0, 0.0012), rng.uniform(0.0, 0.0012)
        linear = linear + rng.normal(0.0, 1.0, image.shape) * np.sqrt(
            shot * np.clip(linear, 0.0, 1.0) + read**2
        )
    return quantize(to_srgb(linear.astype(np.float32)) ** np.float32(rng.uniform(0.95, 1.15)))


def low_resolution(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shrunk 1.5 to 4 times and enlarged to its old size, as the paper's super-resolution task."""
    height, width = image.shape[:2]
    factor = rng.choice([2.0, 3.0, 4.0]) if rng.random() < 0.7 else rng.uniform(1.5, 4.0)
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    filters = [Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.BILINEAR]
    shrink = filters[rng.choice(3, p=[0.6, 0.2, 0.2])]
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., c]))
        .resize(small, shrink)
        .resize((width, height), Image.Resampling.BICUBIC)
        for c in range(3)
    ]
    return quantize(np.stack([np.asarray(c) for c in channels], axis=-1))


def faded(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Dull colours: less saturation and contrast, lifted blacks, a colour cast, a wrong gamma."""
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    result = grey[..., None] + (image - grey[..., None]) * rng.uniform(0.25, 0.75)
    contrast = rng.uniform(0.5, 0.9)
    black = rng.uniform(0.0, 1.0 - contrast)
    result = black + result * contrast
    result = np.clip(result, 0.0, 1.0) ** rng.uniform(0.8, 1.25)
    if rng.random() < 0.5:
        warmth = rng.normal(0.0, 0.06)
        result = result * np.array([1.0 + warmth, 1.0 + rng.normal(0.0, 0.02), 1.0 - warmth])
    return quantize(result)


TASKS: dict[str, Degradation] = {
    "noise": noise,
    "blur": blur,
    "rain": rain,
    "haze": haze,
    "lol": low_light,
    "sr": low_resolution,
    "en": faded,
}
"""The degradation each task undoes, in upstream's class order."""


def _convolve(image: npt.NDArray[np.float32], kernel: npt.NDArray[np.float32]) -> Pixels:
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


def _line_kernel(length: float, degrees: float, thickness: float) -> npt.NDArray[np.float32]:
    """A soft line through the centre, ``degrees`` away from the vertical, unnormalised."""
    radius = int(np.ceil(length / 2 + 2 * thickness))
    yy, xx = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    angle = np.deg2rad(degrees)
    along = yy * np.cos(angle) + xx * np.sin(angle)
    across = xx * np.cos(angle) - yy * np.sin(angle)
    ends = np.clip(length / 2 - np.abs(along) + 0.5, 0.0, 1.0)
    line: npt.NDArray[np.float32] = ends * np.exp(-0.5 * (across / thickness) ** 2)
    return line


def _motion_kernel(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The path of a shaking camera: a random walk with inertia, drawn into a kernel, sum 1."""
    length = rng.uniform(3.0, 15.0)
    heading = rng.uniform(0.0, 2.0 * np.pi) + np.cumsum(rng.normal(0.0, rng.uniform(0, 0.12), 64))
    steps = np.stack([np.sin(heading), np.cos(heading)]) * (length / 64)
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


def _disc_kernel(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A defocused point: a disc of radius 1 to 4 px with a soft edge, sum 1."""
    radius = rng.uniform(1.0, 4.0)
    half = int(np.ceil(radius)) + 1
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    disc = np.clip(radius + 0.5 - np.hypot(yy, xx), 0.0, 1.0)
    kernel: npt.NDArray[np.float32] = disc / disc.sum()
    return kernel


def _smooth_noise(
    shape: tuple[int, int], rng: np.random.Generator, scale: float
) -> npt.NDArray[np.float32]:
    """Smooth random values in [0, 1] whose bumps are about ``scale`` of the image wide."""
    cells = max(2, round(1.0 / scale) + 1)
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    smooth = coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth), 0.0, 1.0)
