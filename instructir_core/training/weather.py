"""Rain and haze, over invented depths: landscapes, rooms, streets, and a picture's own shapes.

Every degradation takes a clean (H, W, 3) float32 sRGB image in [0, 1] and a NumPy ``Generator``
and returns a degraded image of the same shape, dtype and range, rounded to 8 bits as files are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .imaging import Pixels, convolve, line_kernel, quantize, smooth_noise, soften

Depth = npt.NDArray[np.float32]
"""(H, W) distances from 0 on."""


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
        veil = rng.uniform(0.03, 0.15) * (0.4 + landscape(image, rng)[..., None])
        veil = np.minimum(veil, 0.25)
        rained = rained * (1.0 - veil) + veil * rng.uniform(0.6, 0.9)
    return quantize(rained)


def haze(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Koschmieder's law: ``J t + A (1 - t)``, ``t = exp(-beta depth)``, over an invented depth.

    From a light veil to haze as thick as in SOTS; over everything, or, as on a clear day, only
    over what is far; grey, or now and then of the colour of smoke or of the evening.
    """
    place = rng.random()
    if place < 0.45:
        depth = landscape(image, rng)
    else:
        depth = _scene(image.shape[:2], rng, street=place > 0.7)
        if rng.random() < 0.5:
            depth = np.maximum(depth + 0.5 * _shapes(image, rng), 0.0)
    if rng.random() < 0.3:
        beta = -np.log(rng.uniform(0.25, 0.75)) / max(float(depth.max()), 0.1)
    else:
        depth = depth + np.float32(rng.uniform(0.1, 0.8) * max(float(depth.mean()), 0.1))
        # How much light the middling depth loses: half of it, a seventh, or hardly any.
        thick = rng.random()
        loss = rng.uniform(0.1, 0.5) if thick < 0.2 else rng.uniform(0.4, 1.3)
        loss = rng.uniform(1.2, 2.2) if thick > 0.75 else loss
        beta = loss / float(depth.mean())
    transmission = np.clip(np.exp(-beta * depth)[..., None], 0.06, 1.0)
    tint = 0.08 if rng.random() < 0.12 else 0.015
    light = rng.uniform(0.65, 1.0) * (1.0 + rng.normal(0.0, tint, 3))
    return quantize(image * transmission + np.clip(light, 0.0, 1.0) * (1.0 - transmission))


def landscape(image: Pixels, rng: np.random.Generator) -> Depth:
    """A depth that grows towards one side, mostly the top, and carries smooth bumps; often the
    picture's own shapes stand at distances of their own."""
    height, width = image.shape[:2]
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
    result: Depth = (depth - depth.min()).astype(np.float32)
    return result


def _scene(shape: tuple[int, ...], rng: np.random.Generator, street: bool) -> Depth:
    """The depth of a room, or of a street, seen from inside, with boxes standing on its floor.

    A room is a box of floor, ceiling and walls around the camera; a street has no ceiling and no
    end, and what is above its houses is as far as anything.
    """
    height, width = shape
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    focal = rng.uniform(0.7, 1.4) * max(height, width)
    x = (xx - width * rng.uniform(0.3, 0.7)) / focal
    y = (yy - height * rng.uniform(0.35, 0.6)) / focal
    turn, tilt = rng.normal(0.0, 0.35), rng.normal(0.0, 0.08)
    # Rays of the camera, turned about the vertical and then tilted.
    across = x * np.cos(turn) + np.sin(turn)
    ahead = -x * np.sin(turn) + np.cos(turn)
    down = y * np.cos(tilt) + ahead * np.sin(tilt)
    far = rng.uniform(10.0, 40.0) if street else rng.uniform(2.5, 8.0)
    planes = [  # (the ray's part along the normal, distance of the plane)
        (down, rng.uniform(1.0, 1.8)),
        (across, rng.uniform(1.0, 4.0)),
        (-across, rng.uniform(1.0, 4.0)),
        (ahead, far),
    ]
    if not street:
        planes += [(-down, rng.uniform(0.8, 1.8)), (-ahead, far)]
    depth = np.full(shape, far, np.float32)
    for along, distance in planes:
        with np.errstate(divide="ignore"):
            depth = np.minimum(depth, np.where(along > 1e-4, distance / along, np.inf))
    if street:  # houses end somewhere; the sky above them is far
        depth = np.where(-down > rng.uniform(0.15, 0.6) * np.abs(across), far, depth)
    for _ in range(int(rng.integers(0, 6))):
        near = rng.uniform(0.25, 0.9) * float(depth.max())
        left, top = rng.uniform(-0.1, 0.9) * width, rng.uniform(0.1, 0.8) * height
        box = (xx > left) & (xx < left + rng.uniform(0.05, 0.4) * width) & (yy > top)
        slanted = near * (1.0 + rng.normal(0.0, 0.3) * (xx - left) / width)
        depth = np.where(box, np.minimum(depth, np.maximum(slanted, 0.3)), depth)
    result: Depth = ndimage.gaussian_filter(depth / far, 0.5).astype(np.float32)
    return result


def _shapes(image: Pixels, rng: np.random.Generator) -> Depth:
    """(H, W) steps of depth along the picture's edges: areas of one colour are one thing."""
    blur = rng.uniform(0.01, 0.04) * min(image.shape[:2])
    tone = soften(image @ rng.normal(0.0, 1.0, 3).astype(np.float32), blur)
    borders = np.quantile(tone, np.sort(rng.random(int(rng.integers(1, 4)))))
    distances = rng.uniform(-0.2, 0.2, len(borders) + 1).astype(np.float32)
    return soften(distances[np.searchsorted(borders, tone)], 0.7)
