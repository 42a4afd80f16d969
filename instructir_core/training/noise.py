"""Noise as sensors, films and files make it: what the task ``noise`` undoes.

Every function takes a clean (H, W, 3) float32 sRGB image in [0, 1] and a NumPy ``Generator`` and
returns a degraded image of the same shape, dtype and range, rounded to 8 bits as files are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .imaging import (
    LUMA,
    Pixels,
    compress,
    demosaic,
    mosaic,
    quantize,
    sharpen,
    soften,
    to_linear,
    to_srgb,
)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A value whose logarithm is drawn evenly: as often between 1 and 2 as between 2 and 4."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def gaussian_noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """White Gaussian noise of sigma 15, 25 or 50 (of 255): the paper's training noise."""
    return quantize(image + rng.normal(0.0, rng.choice([15.0, 25.0, 50.0]) / 255.0, image.shape))


def white_noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """White Gaussian noise: the paper's three levels most often, else sigma 2 to 55 (of 255)."""
    if rng.random() < 0.6:
        return gaussian_noise(image, rng)
    return quantize(image + rng.normal(0.0, rng.uniform(2.0, 55.0) / 255.0, image.shape))


def sensor_noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shot and read noise that never left the sensor's own colours, from weak to strong."""
    shot, read = log_uniform(rng, 0.0005, 0.04), log_uniform(rng, 1.0, 20.0) / 255.0
    spread = np.sqrt(shot * image + read**2)
    return quantize(image + rng.normal(0.0, 1.0, image.shape) * spread)


def camera_noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Noise that came through a camera: sensor, demosaicing, white balance, tone, file.

    In linear light its variance is ``shot * x + read^2`` (Foi et al., IEEE TIP 2008), with the
    spread of both and how they go together after Brooks et al., CVPR 2019. Demosaicing turns it
    into coloured blotches, white balance and the colour matrix raise red and blue, the tone curve
    raises the shadows, and the camera's own smoothing and sharpening shape what is left. All of
    that is done to the noise alone: the picture that the camera would have made without noise is
    the target.
    """
    tone = rng.uniform(0.85, 1.3)  # cameras render brighter or darker than the plain sRGB curve
    linear = to_linear(image) ** np.float32(tone)
    gains = np.array([rng.uniform(1.2, 2.6), 1.0, rng.uniform(1.2, 2.4)], np.float32)
    light = linear / gains
    shot = log_uniform(rng, 1e-4, 0.02)
    read = np.exp(0.5 * (2.18 * np.log(shot) + 1.20 + rng.normal(0.0, 0.3)))

    def expose(sample: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        spread = np.sqrt(shot * np.clip(sample, 0.0, 1.0) + read**2)
        return sample + (rng.normal(0.0, 1.0, sample.shape) * spread).astype(np.float32)

    noisy = demosaic(expose(mosaic(light)), light) if rng.random() < 0.8 else expose(light)
    # A colour matrix of rows that sum to 1 keeps greys, and mixes the noise of the channels.
    mix = rng.uniform(0.0, 0.35)
    matrix = (1.0 + mix) * np.eye(3) - mix * (1.0 - np.eye(3)) / 2.0
    difference = ((noisy - light) * gains) @ matrix.T.astype(np.float32)
    developed = to_srgb(np.clip(linear + difference, 0.0, 1.0) ** np.float32(1.0 / tone))
    residue = _smoothed_in_camera(developed - image, rng)
    noisy = image + residue
    if rng.random() < 0.6:
        noisy = compress(noisy, int(rng.integers(60, 96)), corner=_corner(rng))
    return quantize(noisy)


def _smoothed_in_camera(residue: Pixels, rng: np.random.Generator) -> Pixels:
    """Noise after a camera's own noise reduction and sharpening: softer, more so in colour."""
    if rng.random() < 0.4:
        bright = (residue @ LUMA)[..., None]
        colour = soften(residue - bright, rng.uniform(0.5, 2.5))
        residue = soften(bright, rng.uniform(0.2, 0.9)) + colour
    if rng.random() < 0.4:
        residue = sharpen(residue, rng.uniform(0.6, 1.5), rng.uniform(0.2, 1.2))
    return residue


def photon_noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Poisson noise of 20 to 3,000 photons in white."""
    photons = log_uniform(rng, 20.0, 3000.0)
    return quantize(rng.poisson(image * photons) / photons)


def grain(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Film grain: one field for all channels, soft or sharp, strongest in the middle tones."""
    field = rng.normal(0.0, 1.0, image.shape[:2]).astype(np.float32)
    field = soften(field, rng.uniform(0.3, 1.6))
    light = image.mean(axis=2)
    floor = rng.uniform(0.2, 0.9)  # of the grain in black and white to that in mid-grey
    strength = (
        log_uniform(rng, 3.0, 40.0) / 255.0 * (floor + 4.0 * (1.0 - floor) * light * (1.0 - light))
    )
    grained = image + (field / field.std() * strength)[..., None]
    if rng.random() < 0.15:
        grained = compress(grained, int(rng.integers(50, 96)), corner=_corner(rng))
    return quantize(grained)


def blotches(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Chroma noise in blotches of 2 to 12 px, with a little fine noise of all channels."""
    colour = rng.normal(0.0, 1.0, image.shape).astype(np.float32)
    colour = soften(colour, rng.uniform(0.8, 4.0))
    colour -= (colour @ LUMA)[..., None]  # no brightness of its own
    colour *= log_uniform(rng, 2.0, 25.0) / 255.0 / colour.std()
    fine = rng.normal(0.0, rng.uniform(0.0, 8.0) / 255.0, (*image.shape[:2], 1))
    return quantize(image + colour + fine)


def bands(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Rows or columns of a reading circuit, each off by its own amount; sometimes wide ones."""
    rows = rng.random() < 0.75
    length = image.shape[0 if rows else 1]
    channels = 1 if rng.random() < 0.8 else 3
    offsets = rng.normal(0.0, 1.0, (length, channels)).astype(np.float32)
    if rng.random() < 0.3:
        offsets = soften(offsets[..., None], rng.uniform(0.5, 3.0))[..., 0]
    offsets *= log_uniform(rng, 1.5, 14.0) / 255.0 / max(float(offsets.std()), 1e-6)
    banded = image + (offsets[:, None] if rows else offsets[None])
    if rng.random() < 0.3:
        banded = banded + rng.normal(0.0, rng.uniform(1.0, 12.0) / 255.0, image.shape)
    return quantize(banded)


def salt_and_pepper(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Dead pixels, 0.3 to 15 % of all: black and white, all channels alike or each for itself."""
    share = log_uniform(rng, 0.003, 0.15)
    channels = 1 if rng.random() < 0.75 else 3
    drawn = rng.random((*image.shape[:2], channels))
    salt = rng.choice([0.5, 0.5, 0.0, 1.0]) * share
    return quantize(np.where(drawn < salt, 1.0, np.where(drawn > 1.0 - share + salt, 0.0, image)))


def file_artefacts(image: Pixels, rng: np.random.Generator) -> Pixels:
    """JPEG or WebP of quality 5 to 80, of the clean picture or of a noisy one."""
    if rng.random() < 0.2:
        image = quantize(image + rng.normal(0.0, rng.uniform(2.0, 20.0) / 255.0, image.shape))
    quality = int(rng.integers(5, 81))
    if rng.random() < 0.75:
        chroma = 2 if rng.random() < 0.75 else 0  # 4:2:0, Pillow's default, or 4:4:4
        return quantize(compress(image, quality, corner=_corner(rng), subsampling=chroma))
    return quantize(compress(image, quality, "WEBP", _corner(rng), method=1))


def _corner(rng: np.random.Generator) -> tuple[int, int]:
    """Where a codec's blocks begin: with the picture half the time."""
    if rng.random() < 0.5:
        return 0, 0
    return int(rng.integers(16)), int(rng.integers(16))


NOISES: tuple[tuple[float, Callable[[Pixels, np.random.Generator], Pixels]], ...] = (
    (0.16, white_noise),
    (0.15, camera_noise),
    (0.02, sensor_noise),
    (0.02, photon_noise),
    (0.07, grain),
    (0.02, blotches),
    (0.08, bands),
    (0.03, salt_and_pepper),
    (0.45, file_artefacts),
)
"""Every kind of noise and its share."""


def noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Noise of one of the kinds in `NOISES`."""
    shares, kinds = zip(*NOISES, strict=True)
    return kinds[int(rng.choice(len(kinds), p=shares))](image, rng)
