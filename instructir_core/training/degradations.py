"""What training draws for the seven tasks, as pure functions of an image and a generator.

Every function takes a clean (H, W, 3) float32 sRGB image in [0, 1] and a NumPy ``Generator`` and
returns a degraded image of the same shape, dtype and range, already rounded to 8 bits as files
are. The same generator state gives the same result; the input is never changed. Scores are taken
on other, frozen recipes (`evaluation.degradations`), so that these may change from run to run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from .imaging import (
    BICUBIC,
    LUMA,
    Pixels,
    compress,
    convolve,
    disc_kernel,
    oval_kernel,
    path_kernel,
    quantize,
    resample,
    sharpen,
    to_linear,
    to_srgb,
)

Degradation = Callable[[Pixels, np.random.Generator], Pixels]


def blur(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Camera shake along a smooth path (3 to 32 px), defocus over a disc, or a soft lens.

    Half the time in linear light, where lenses blur: bright lights then leave bright trails.
    The sensor's noise comes after it, now and then a file's compression.
    """
    kind = rng.random()
    if kind < 0.6:
        kernel = _shake(rng)
    elif kind < 0.9:
        radius = rng.uniform(1.0, 4.0) if rng.random() < 0.75 else rng.uniform(4.0, 7.0)
        kernel = disc_kernel(radius, rng.choice([0.0, rng.uniform(0.0, 1.5)]))
    else:
        kernel = oval_kernel(rng.uniform(0.6, 2.5), rng.uniform(0.6, 1.0), rng.uniform(0.0, np.pi))
    if rng.random() < 0.5:
        blurred = to_srgb(convolve(to_linear(image), kernel))
    else:
        blurred = convolve(image, kernel)
    strongest = 2.0 if rng.random() < 0.8 else 6.0
    noisy = quantize(blurred + rng.normal(0.0, rng.uniform(0.0, strongest) / 255.0, image.shape))
    if rng.random() < 0.15:
        noisy = compress(noisy, int(rng.integers(60, 96)))
    return quantize(noisy)


def _shake(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The path of a shaking camera: a random walk with inertia."""
    length = rng.uniform(3.0, 16.0) if rng.random() < 0.75 else rng.uniform(16.0, 32.0)
    bends = rng.normal(0.0, rng.uniform(0.0, 0.12), 64)
    return path_kernel(rng.uniform(0.0, 2.0 * np.pi) + np.cumsum(bends), length)


def low_light(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Half a stop to 4.5 stops too little light, a colour cast and the noise that comes with it.

    The cast of lamps and shade is there in dark pictures only: a grey wall half a stop too dark
    stays grey.
    """
    stops = rng.uniform(0.5, 1.5) if rng.random() < 0.15 else rng.uniform(1.5, 4.5)
    linear = to_linear(image) * 2.0**-stops
    if stops > 1.5 and rng.random() < 0.8:
        linear *= 1.0 + rng.normal(0.0, 0.06, 3)
        if rng.random() < 0.3:  # lamps are warm, shade is cold
            warmth = rng.normal(0.0, 0.12)
            linear *= np.array([1.0 + warmth, 1.0, 1.0 - warmth])
    if rng.random() < 0.7:
        shot, read = rng.uniform(0.0, 0.0012), rng.uniform(0.0, 0.0012)
        linear = linear + rng.normal(0.0, 1.0, image.shape) * np.sqrt(
            shot * np.clip(linear, 0.0, 1.0) + read**2
        )
    dark: Pixels = to_srgb(linear.astype(np.float32)) ** np.float32(rng.uniform(0.95, 1.15))
    if rng.random() < 0.1:
        dark = compress(dark, int(rng.integers(75, 96)))
    return quantize(dark)


def bicubic_resolution(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shrunk 2, 3 or 4 times and enlarged again, both bicubic: the paper's super-resolution."""
    return quantize(resample(image, float(rng.choice([2.0, 3.0, 4.0])), BICUBIC))


def low_resolution(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shrunk 1.5 to 4 times and enlarged to its old size, by the kernels that devices use.

    Bicubic most often; else box, bilinear, Hamming, Lanczos, or an oval Gaussian blur before
    plain sampling (a soft lens on a coarse sensor); enlarged by any of them, sharpened now and
    then, and compressed as JPEG at the small size or at the end.
    """
    factor = float(rng.choice([2.0, 3.0, 4.0]) if rng.random() < 0.7 else rng.uniform(1.5, 4.0))
    shrink, enlarge = BICUBIC, BICUBIC
    kind = rng.random()
    if kind > 0.85:
        sigma = rng.uniform(0.3, 0.55) * factor
        image = convolve(image, oval_kernel(sigma, rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)))
        shrink = Image.Resampling.NEAREST
    elif kind > 0.6:
        shrink = _KERNELS[int(rng.integers(len(_KERNELS)))]
    if rng.random() < 0.25:
        enlarge = _KERNELS[int(rng.integers(len(_KERNELS)))]
    quality = int(rng.integers(70, 96)) if rng.random() < 0.1 else None
    low = quantize(resample(image, factor, shrink, quality, enlarge))
    if rng.random() < 0.12:
        low = sharpen(low, rng.uniform(0.5, 1.5), rng.uniform(0.2, 1.0))
    if rng.random() < 0.08:
        low = compress(low, int(rng.integers(60, 96)))
    return quantize(low)


_KERNELS = (
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
    Image.Resampling.LANCZOS,
)


def faded(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Dull colours: less saturation and contrast, lifted blacks, a wrong gamma, a colour cast.

    The cast is a wrong white balance, in linear light and without a change of brightness, or
    the tinted shadows and highlights of an old print. Half the pictures have none, and grey in
    them is grey before and after.
    """
    grey = image @ LUMA
    dull = grey[..., None] + (image - grey[..., None]) * np.float32(rng.uniform(0.25, 0.85))
    contrast = rng.uniform(0.5, 0.95)
    black = rng.uniform(0.0, 1.0 - contrast)
    flat = np.clip(black + dull * contrast, 0.0, 1.0).astype(np.float32)
    result: Pixels = flat ** np.float32(rng.uniform(0.8, 1.25))
    cast = rng.random()
    if cast < 0.35:
        warmth = rng.normal(0.0, 0.12)
        gains = np.exp([warmth, rng.normal(0.0, 0.04), -warmth])
        linear = to_linear(result) * (gains / (gains @ LUMA))
        result = to_srgb(linear.astype(np.float32))
    elif cast < 0.5:
        shadows, lights = rng.normal(0.0, 0.03, 3), rng.normal(0.0, 0.03, 3)
        return quantize(result + shadows * (1.0 - grey[..., None]) + lights * grey[..., None])
    return quantize(result)
