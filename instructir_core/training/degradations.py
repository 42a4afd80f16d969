"""Synthetic degradations for the seven tasks, as pure functions of an image and a generator.

Every function takes a clean (H, W, 3) float32 sRGB image in [0, 1] and a NumPy ``Generator`` and
returns a degraded image of the same shape, dtype and range, already rounded to 8 bits as files
are. The same generator state gives the same result; the input is never changed.
"""

from __future__ import annotations

import io
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

    noisy = _demosaic(expose(_mosaic(image)), image) if rng.random() < 0.5 else expose(image)
    if rng.random() < 0.4:
        noisy = _jpeg(noisy, int(rng.integers(60, 96)))
    return quantize(noisy)


def blur(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Camera shake along a smooth random path (3 to 15 px), or defocus over a disc.

    Half the time in linear light, where lenses blur: bright lights then leave bright trails.
    """
    kernel = _motion_kernel(rng) if rng.random() < 0.6 else _disc_kernel(rng)
    if rng.random() < 0.5:
        blurred = to_srgb(_convolve(to_linear(image), kernel))
    else:
        blurred = _convolve(image, kernel)
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
        streak = _line_kernel(length, angle + rng.uniform(-4.0, 4.0), thickness)
        streak /= streak.max()
        fallen = _convolve(weights.astype(np.float32)[..., None], streak)[..., 0]
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


def bicubic_resolution(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shrunk 2, 3 or 4 times and enlarged again, both bicubic: the paper's super-resolution."""
    return quantize(_resample(image, float(rng.choice([2.0, 3.0, 4.0])), _BICUBIC))


def low_resolution(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shrunk 1.5 to 4 times and enlarged to its old size, by the kernels that devices use.

    Bicubic most often; else box (binning), bilinear (browsers), or an oval Gaussian blur before
    plain sampling (a soft lens on a coarse sensor), and now and then JPEG at the small size.
    """
    factor = float(rng.choice([2.0, 3.0, 4.0]) if rng.random() < 0.7 else rng.uniform(1.5, 4.0))
    kind = rng.random()
    if kind < 0.6:
        shrink = _BICUBIC
    elif kind < 0.85:
        shrink = Image.Resampling.BOX if kind < 0.72 else Image.Resampling.BILINEAR
    else:
        image = _convolve(image, _oval_kernel(rng, rng.uniform(0.3, 0.55) * factor))
        shrink = Image.Resampling.NEAREST
    quality = int(rng.integers(70, 96)) if rng.random() < 0.2 else None
    return quantize(_resample(image, factor, shrink, quality))


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


def _oval_kernel(rng: np.random.Generator, sigma: float) -> npt.NDArray[np.float32]:
    """A Gaussian of ``sigma`` px one way and 0.6 to 1 of it the other, turned at random, sum 1."""
    half = int(np.ceil(3 * sigma))
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angle, ratio = rng.uniform(0.0, np.pi), rng.uniform(0.6, 1.0)
    along = (xx * np.cos(angle) + yy * np.sin(angle)) / sigma
    across = (yy * np.cos(angle) - xx * np.sin(angle)) / (sigma * ratio)
    kernel: npt.NDArray[np.float32] = np.exp(-0.5 * (along**2 + across**2))
    return kernel / kernel.sum()


_BICUBIC = Image.Resampling.BICUBIC


def _resample(
    image: Pixels, factor: float, shrink: Image.Resampling, quality: int | None = None
) -> Pixels:
    """Shrink by ``factor``, compress as JPEG where a ``quality`` is given, enlarge bicubically."""
    height, width = image.shape[:2]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))

    def resize(pixels: Pixels, size: tuple[int, int], how: Image.Resampling) -> Pixels:
        # Channel by channel: Pillow resizes floats only so, and bytes would round twice.
        channels = [
            np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., c])).resize(size, how))
            for c in range(3)
        ]
        return np.stack(channels, axis=-1)

    tiny = resize(image, small, shrink)
    if quality is not None:
        tiny = _jpeg(tiny, quality)
    return resize(tiny, (width, height), _BICUBIC)


def _jpeg(image: Pixels, quality: int) -> Pixels:
    """What is left of an image after JPEG of this quality (1 to 95)."""
    buffer = io.BytesIO()
    Image.fromarray((quantize(image) * 255.0 + 0.5).astype(np.uint8)).save(
        buffer, "JPEG", quality=quality
    )
    return np.asarray(Image.open(buffer), np.float32) / np.float32(255)


def _mosaic(image: Pixels) -> npt.NDArray[np.float32]:
    """(H, W, 3) -> (H, W): the one sample per pixel that a Bayer sensor (RGGB) sees."""
    raw = image[..., 1].copy()
    raw[::2, ::2] = image[::2, ::2, 0]
    raw[1::2, 1::2] = image[1::2, 1::2, 2]
    return raw


def _demosaic(raw: npt.NDArray[np.float32], clean: Pixels) -> Pixels:
    """Add to ``clean`` the bilinearly interpolated noise of its Bayer samples ``raw``.

    Only the noise is interpolated: real demosaicing keeps edges, which plain averaging of the
    samples would blur, and then the task would be deblurring too.
    """
    noise = raw - _mosaic(clean)
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
    depth += _smooth_noise((height, width), rng, scale=rng.uniform(0.1, 0.5)) * rng.uniform(0, 0.5)
    if rng.random() < 0.3:
        guide = ndimage.gaussian_filter(image.mean(axis=2), 1.5)
        depth += guide * rng.uniform(-0.5, 0.5)
    if rng.random() < 0.35:
        depth += _shapes(image, rng)
    result: npt.NDArray[np.float32] = (depth - depth.min()).astype(np.float32)
    return result


def _shapes(image: Pixels, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(H, W) steps of depth along the picture's edges: areas of one colour are one thing."""
    blur = rng.uniform(0.01, 0.04) * min(image.shape[:2])
    tone = ndimage.gaussian_filter(image @ rng.normal(0.0, 1.0, 3).astype(np.float32), blur)
    borders = np.quantile(tone, np.sort(rng.random(int(rng.integers(1, 4)))))
    distances = rng.uniform(-0.2, 0.2, len(borders) + 1).astype(np.float32)
    steps: npt.NDArray[np.float32] = ndimage.gaussian_filter(
        distances[np.searchsorted(borders, tone)], 0.7
    )
    return steps


def _smooth_noise(
    shape: tuple[int, int], rng: np.random.Generator, scale: float
) -> npt.NDArray[np.float32]:
    """Smooth random values in [0, 1] whose bumps are about ``scale`` of the image wide."""
    cells = max(2, round(1.0 / scale) + 1)
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    smooth = coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth), 0.0, 1.0)
