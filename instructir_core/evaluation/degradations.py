"""Degradations that scores are taken on: frozen, so that figures of different weights compare.

What training draws changes from run to run; these do not, and a test pins them. `FROZEN` holds
the recipes that training used up to commit 4b4f916, `KINDS` those of noise as people meet it.
Every function takes a clean (H, W, 3) float32 sRGB image in [0, 1] and a ``Generator`` and returns
a degraded image of the same shape, dtype and range, rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..training.degradations import Degradation
from ..training.imaging import (
    BICUBIC,
    Pixels,
    compress,
    convolve,
    demosaic,
    disc_kernel,
    line_kernel,
    mosaic,
    oval_kernel,
    path_kernel,
    quantize,
    resample,
    smooth_noise,
    soften,
    to_linear,
    to_srgb,
)
from ..training.recipes import RECIPES
from ..training.samples import Pictures


def gaussian_noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """White Gaussian noise of sigma 15, 25 or 50 (of 255): the paper's training noise."""
    return quantize(image + rng.normal(0.0, rng.choice([15.0, 25.0, 50.0]) / 255.0, image.shape))


def noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Gaussian noise of sigma 5 to 55 (of 255), the paper's levels most often, or a camera's."""
    kind = rng.random()
    if kind < 0.45:
        return gaussian_noise(image, rng)
    if kind < 0.75:
        sigma = rng.uniform(5.0, 55.0) / 255.0
        return quantize(image + rng.normal(0.0, sigma, image.shape))
    return camera_noise(image, rng)


def camera_noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shot and read noise of a sensor at high ISO, half the time through demosaicing and JPEG.

    Variance ``shot * x + read^2`` (Foi et al., IEEE TIP 2008). Demosaicing interpolates two of
    three samples, which turns white noise into coloured blotches; JPEG then blurs their edges.
    """
    shot = rng.uniform(0.002, 0.04)
    read = rng.uniform(2.0, 20.0) / 255.0

    def expose(light: Pixels) -> Pixels:
        spread = np.sqrt(shot * np.clip(light, 0.0, 1.0) + read**2)
        return light + (rng.normal(0.0, 1.0, light.shape) * spread).astype(np.float32)

    noisy = demosaic(expose(mosaic(image)), image) if rng.random() < 0.5 else expose(image)
    if rng.random() < 0.4:
        noisy = compress(noisy, int(rng.integers(60, 96)))
    return quantize(noisy)


def blur(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Camera shake along a smooth random path (3 to 15 px), or defocus over a disc.

    Half the time in linear light, where lenses blur: bright lights then leave bright trails.
    """
    kernel = _motion_kernel(rng) if rng.random() < 0.6 else disc_kernel(rng.uniform(1.0, 4.0))
    if rng.random() < 0.5:
        blurred = to_srgb(convolve(to_linear(image), kernel))
    else:
        blurred = convolve(image, kernel)
    return quantize(blurred + rng.normal(0.0, rng.uniform(0.0, 2.0) / 255.0, image.shape))


def rain(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Streaks along one wind direction in one to three layers of depth, sometimes with a veil.

    Near drops leave long, wide, bright and few streaks, distant ones short, thin, faint and
    many; where rain is too far off to tell drops apart, it is a veil.
    """
    height, width = image.shape[:2]
    angle = rng.uniform(-35.0, 35.0)
    layer = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(1, 4)):
        near = rng.random()
        length = rng.uniform(6.0, 20.0) + 25.0 * near
        thickness = rng.uniform(0.35, 0.7) + 0.5 * near
        # Drops further up than the frame still leave streaks inside it.
        pad = int(length) + 2
        density = rng.uniform(0.0008, 0.009) * (1.2 - near)
        drops = rng.random((height + 2 * pad, width + 2 * pad)) < density
        weights = drops * rng.uniform(0.4, 1.0, drops.shape) * rng.uniform(0.5 + 0.4 * near, 1.0)
        streak = line_kernel(length, angle + rng.uniform(-4.0, 4.0), thickness)
        streak /= streak.max()
        fallen = convolve(weights.astype(np.float32)[..., None], streak)[..., 0]
        layer = np.maximum(layer, fallen[pad:-pad, pad:-pad])
    strength = rng.uniform(0.15, 0.85)
    # A drop mirrors the sky: on bright ground it adds little, and less so in dull weather.
    rained = image + np.clip(layer, 0.0, 1.0)[..., None] * strength * (
        1.0 - rng.uniform(0.0, 0.7) * image
    )
    if rng.random() < 0.35:
        veil = rng.uniform(0.03, 0.15) * (0.4 + _depth((height, width), image, rng)[..., None])
        veil = np.minimum(veil, 0.25)
        rained = rained * (1.0 - veil) + veil * rng.uniform(0.6, 0.9)
    return quantize(rained)


def haze(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Koschmieder's law: ``J t + A (1 - t)``, ``t = exp(-beta depth)``, over an invented depth.

    Haze lies over everything, or, as on a clear day, only over what is far.
    """
    depth = _depth(image.shape[:2], image, rng)
    if rng.random() < 0.4:
        beta = -np.log(rng.uniform(0.25, 0.75)) / max(float(depth.max()), 0.1)
    else:
        beta = rng.uniform(0.4, 1.7)
        depth += np.float32(rng.uniform(0.1, 0.7))
    transmission = np.exp(-beta * depth)[..., None]
    transmission = np.clip(transmission, 0.12, 1.0)
    light = rng.uniform(0.65, 1.0) * (1.0 + rng.normal(0.0, 0.02, 3))
    return quantize(image * transmission + np.clip(light, 0.0, 1.0) * (1.0 - transmission))


def low_light(image: Pixels, rng: np.random.Generator) -> Pixels:
    """1.5 to 4.5 stops too little light, a colour cast and the noise that comes with it."""
    linear = to_linear(image) * 2.0 ** -rng.uniform(1.5, 4.5)
    linear *= 1.0 + rng.normal(0.0, 0.06, 3)
    if rng.random() < 0.3:  # lamps are warm, shade is cold
        warmth = rng.normal(0.0, 0.12)
        linear *= np.array([1.0 + warmth, 1.0, 1.0 - warmth])
    if rng.random() < 0.7:
        shot, read = rng.uniform(0.0, 0.0012), rng.uniform(0.0, 0.0012)
        linear = linear + rng.normal(0.0, 1.0, image.shape) * np.sqrt(
            shot * np.clip(linear, 0.0, 1.0) + read**2
        )
    return quantize(to_srgb(linear.astype(np.float32)) ** np.float32(rng.uniform(0.95, 1.15)))


def low_resolution(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shrunk 1.5 to 4 times and enlarged to its old size, by the kernels that devices use.

    Bicubic most often; else box (binning), bilinear (browsers), or an oval Gaussian blur before
    plain sampling (a soft lens on a coarse sensor), and now and then JPEG at the small size.
    """
    factor = float(rng.choice([2.0, 3.0, 4.0]) if rng.random() < 0.7 else rng.uniform(1.5, 4.0))
    kind = rng.random()
    if kind < 0.6:
        shrink = BICUBIC
    elif kind < 0.85:
        shrink = Image.Resampling.BOX if kind < 0.72 else Image.Resampling.BILINEAR
    else:
        image = convolve(image, _oval_kernel(rng, rng.uniform(0.3, 0.55) * factor))
        shrink = Image.Resampling.NEAREST
    quality = int(rng.integers(70, 96)) if rng.random() < 0.2 else None
    return quantize(resample(image, factor, shrink, quality))


def faded(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Dull colours: less saturation and contrast, lifted blacks, a wrong gamma, a colour cast.

    The cast is a wrong white balance, or the tinted shadows and highlights of an old print.
    """
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    result = grey[..., None] + (image - grey[..., None]) * rng.uniform(0.25, 0.75)
    contrast = rng.uniform(0.5, 0.9)
    black = rng.uniform(0.0, 1.0 - contrast)
    result = black + result * contrast
    result = np.clip(result, 0.0, 1.0) ** rng.uniform(0.8, 1.25)
    cast = rng.random()
    if cast < 0.5:
        warmth = rng.normal(0.0, 0.06)
        result = result * np.array([1.0 + warmth, 1.0 + rng.normal(0.0, 0.02), 1.0 - warmth])
    elif cast < 0.65:
        shadows, lights = rng.normal(0.0, 0.03, 3), rng.normal(0.0, 0.03, 3)
        result = result + shadows * (1.0 - grey[..., None]) + lights * grey[..., None]
    return quantize(result)


def _motion_kernel(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The path of a shaking camera: a random walk with inertia."""
    length = rng.uniform(3.0, 15.0)
    heading = rng.uniform(0.0, 2.0 * np.pi) + np.cumsum(rng.normal(0.0, rng.uniform(0, 0.12), 64))
    return path_kernel(heading, length)


def _oval_kernel(rng: np.random.Generator, sigma: float) -> npt.NDArray[np.float32]:
    """A Gaussian of ``sigma`` px one way and 0.6 to 1 of it the other, turned at random."""
    angle, ratio = rng.uniform(0.0, np.pi), rng.uniform(0.6, 1.0)
    return oval_kernel(sigma, ratio, angle)


def _depth(
    shape: tuple[int, ...], image: Pixels, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """An invented (H, W) depth from 0 on: it grows towards one side, mostly the top, and carries
    smooth bumps; often the picture's own shapes stand at distances of their own."""
    height, width = shape
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.normal(0.0, 0.6)
    ramp = -yy / height * np.cos(angle) + xx / width * np.sin(angle)
    depth = (ramp - ramp.min()) * rng.uniform(0.0, 1.0)
    depth += smooth_noise((height, width), rng, scale=rng.uniform(0.1, 0.5)) * rng.uniform(0, 0.5)
    if rng.random() < 0.3:
        guide = soften(image.mean(axis=2), 1.5)
        depth += guide * rng.uniform(-0.5, 0.5)
    if rng.random() < 0.35:
        depth += _shapes(image, rng)
    result: npt.NDArray[np.float32] = (depth - depth.min()).astype(np.float32)
    return result


def _shapes(image: Pixels, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(H, W) steps of depth along the picture's edges: areas of one colour are one thing."""
    blur = rng.uniform(0.01, 0.04) * min(image.shape[:2])
    tone = soften(image @ rng.normal(0.0, 1.0, 3).astype(np.float32), blur)
    borders = np.quantile(tone, np.sort(rng.random(int(rng.integers(1, 4)))))
    distances = rng.uniform(-0.2, 0.2, len(borders) + 1).astype(np.float32)
    return soften(distances[np.searchsorted(borders, tone)], 0.7)


FROZEN: dict[str, Degradation] = {
    "noise": noise,
    "blur": blur,
    "rain": rain,
    "haze": haze,
    "lol": low_light,
    "sr": low_resolution,
    "en": faded,
}
"""What each task undoes, as training drew it up to commit 4b4f916."""


# --- noise as people meet it -------------------------------------------------------------------


def grain(image: Pixels, rng: np.random.Generator, amount: float) -> Pixels:
    """Film grain: one soft field for all channels, of standard deviation ``amount`` of 255 in
    mid-grey and half of it in black and white."""
    field = soften(rng.normal(0.0, 1.0, image.shape[:2]).astype(np.float32), 0.8)
    light = image.mean(axis=2)
    field = field / field.std() * amount / 255.0 * (0.5 + 2.0 * light * (1.0 - light))
    return quantize(image + field[..., None])


def jpeg(image: Pixels, rng: np.random.Generator, quality: int) -> Pixels:
    """JPEG at Pillow's default chroma subsampling; ``rng`` is not used."""
    return quantize(compress(image, quality))


def bands(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Row banding: one Gaussian offset of sigma 6 (of 255) for each row, all channels alike."""
    return quantize(image + rng.normal(0.0, 6.0 / 255.0, (image.shape[0], 1, 1)))


def salt_and_pepper(image: Pixels, rng: np.random.Generator) -> Pixels:
    """2.5 % of the pixels black and 2.5 % white, all channels alike."""
    drawn = rng.random(image.shape[:2])[..., None]
    return quantize(np.where(drawn < 0.025, 0.0, np.where(drawn > 0.975, 1.0, image)))


KINDS: dict[str, Degradation] = {
    "grain12": partial(grain, amount=12.0),
    "grain25": partial(grain, amount=25.0),
    "jpeg10": partial(jpeg, quality=10),
    "jpeg30": partial(jpeg, quality=30),
    "jpeg70": partial(jpeg, quality=70),
    "bands": bands,
    "saltpepper": salt_and_pepper,
}
"""Noise that is not white, all of it under the task ``noise``."""


# --- photos held out ---------------------------------------------------------------------------

_DARK = 0.2
"""Photos of lower mean brightness are no targets for the tasks that set brightness."""
_SIZES = (1.0, 0.6)


def held_out_pairs(
    photos: Sequence[Path], task: str, size: int = 384, seed: int = 1000
) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Two draws of a task's recipe on the centre of each photo: name, degraded, clean.

    Photos too dark to be a target are left out of the tasks that set brightness. A photo's draws
    depend on its place among ``photos``. A task that is younger than `FROZEN` is degraded as in
    training.
    """
    store, recipes = Pictures(), {t: r.degrade for t, r in RECIPES.items() if t not in FROZEN}
    recipes = FROZEN | recipes
    number = list(recipes).index(task)
    for index, path in enumerate(photos):
        for draw, scale in enumerate(_SIZES):
            rng = np.random.default_rng((seed, number, index, draw))
            if RECIPES[task].sets_brightness and store.read(path).mean() < 255 * _DARK:
                continue
            pixels = store.read(path, scale)
            y, x = (max(0, n - size) // 2 for n in pixels.shape[:2])
            crop = pixels[y : y + size, x : x + size]
            clean = np.ascontiguousarray(crop).astype(np.float32) / np.float32(255)
            yield f"{path.stem} {draw}", recipes[task](clean, rng), clean
