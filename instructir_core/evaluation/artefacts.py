"""What restoring adds that nobody asked for, as numbers: grids, lines, casts, lost detail.

Each measure takes pictures as (H, W, 3) floats in [0, 1]. `artefacts` restores clean pictures in
the ways that bring such faults out, and yields one flat row for each measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..pipeline import Restorer
from ..tasks import TASKS
from ..training.imaging import LUMA, quantize, soften, to_linear, to_srgb
from .experiments import network_output
from .metrics import Pixels, psnr
from .report import Row
from .sets import clean_pictures

GRID = 8
"""Period in pixels of the pattern that the network's up-sampling leaves."""
CONTROL = 15
"""A period that nothing in network or file has."""
SCENE_TASKS = ("haze", "lol", "en")

_Restore = Callable[[Pixels, str], Pixels]
"""A picture and what to undo -> the network's answer."""


# --- measures ----------------------------------------------------------------------------------


def smooth_areas(image: Pixels) -> npt.NDArray[np.bool_]:
    """(H, W): where an image has no detail, as in skies and on plain walls."""
    light = np.asarray(image @ LUMA, np.float32)
    fine = light - soften(light, 4.0)
    flat = soften(fine**2, 4.0) < (1.5 / 255.0) ** 2
    return soften(flat.astype(np.float32), 3.0) > 0.99  # a little away from all detail


def folded(image: Pixels, period: int, where: npt.NDArray[np.bool_]) -> float:
    """Peak to peak, in levels of 255, of the pattern that repeats every ``period`` pixels.

    Of the brightness less its own blur, the mean of each of the period's places, over ``where``.
    """
    light = np.asarray(image @ LUMA, np.float32)
    fine = light - soften(light, 4.0)
    yy, xx = np.mgrid[: light.shape[0], : light.shape[1]]
    place = (yy % period * period + xx % period)[where]
    sums = np.bincount(place, fine[where], period**2)
    means = sums / np.maximum(np.bincount(place, minlength=period**2), 1)
    return float(np.ptp(means) * 255.0)


def border_line(result: Pixels, target: Pixels) -> float:
    """Levels by which the outermost row or column is off against those 4 to 12 px inside.

    The worst side and channel, each a mean along the side of the error's difference.
    """
    error = np.asarray(result, np.float64) - target
    found = []
    for turned in (error, error[::-1], error.swapaxes(0, 1), error[:, ::-1].swapaxes(0, 1)):
        along = turned.mean(axis=1)
        found.append(np.abs(along[0] - along[4:12].mean(axis=0)).max())
    return float(max(found) * 255.0)


def cast(result: Pixels) -> float:
    """Mean distance in levels between the largest and the smallest channel: 0 for greys."""
    return float(np.ptp(np.clip(result, 0.0, 1.0), axis=2).mean() * 255.0)


def kept_lines(
    result: Pixels, plain: Pixels, lined: Pixels, lines: npt.NDArray[np.float32]
) -> float:
    """How much of thin lines is left, 1 for all: ``lined`` is ``plain`` with ``lines`` in it."""
    weight = lines[..., None] * (lined - plain)
    return float(
        (weight * (result - plain)).sum() / max(float((weight * (lined - plain)).sum()), 1e-9)
    )


# --- pictures that bring them out --------------------------------------------------------------


def veiled(image: Pixels, task: str) -> Pixels:
    """A scene under even, grey haze, two and a half stops too dark, or faded: no noise, no cast,
    nothing drawn at random."""
    if task == "haze":
        return quantize(image * 0.5 + 0.5 * 0.85)
    if task == "lol":
        return quantize(to_srgb(to_linear(np.asarray(image, np.float32)) * np.float32(2.0**-2.5)))
    grey = (image @ LUMA)[..., None]
    return quantize(0.2 + 0.65 * (grey + 0.5 * (image - grey)))


def sky(height: int = 256, width: int = 384) -> Pixels:
    """A clear evening sky: blue above, pale below, a degree of noise that hides 8-bit steps."""
    down = np.linspace(0.0, 1.0, height)[:, None, None]
    across = 0.03 * np.sin(np.linspace(0.0, np.pi, width))[None, :, None]
    colours = np.array([0.25, 0.45, 0.75]) * (1.0 - down) + np.array([0.80, 0.82, 0.85]) * down
    noise = np.random.default_rng(0).normal(0.0, 0.5 / 255.0, (height, width, 1))
    return quantize(colours + across + noise)


def thin_lines(height: int, width: int, *, bars: bool) -> npt.NDArray[np.float32]:
    """(H, W) in [0, 1]: the share of each pixel that wires, or window bars, of 1.5 px cover."""
    canvas = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(canvas)
    if bars:
        for x in range(20, 2 * width, 48):
            draw.line((x, 0, x, 2 * height), 255, 3)
        for y in range(20, 2 * height, 64):
            draw.line((0, y, 2 * width, y), 255, 3)
    else:
        for lean in (0.0, 0.08, -0.15, 0.3, -0.5):
            middle_x = width * (1.0 + lean)
            draw.line((middle_x, 0, middle_x + 2 * lean * height, 2 * height), 255, 3)
    small = canvas.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


# --- the experiments ---------------------------------------------------------------------------


def artefacts(
    restorer: Restorer, paths: Sequence[Path], size: int | None = None, limit: int | None = None
) -> Iterator[Row]:
    """Every measurement on clean pictures, and on a drawn sky.

    A row's ``value`` is in its ``unit``: ``levels`` of 255 or ``times``, of which less is better,
    ``dB`` or ``share``, of which more is. The sentences are those of `TASKS`.
    """
    asked = {task: restorer.encode(TASKS[task].prompt) for task in TASKS}

    def restore(pixels: Pixels, task: str) -> Pixels:
        return network_output(restorer, pixels, asked[task])

    name = paths[0].parent.name if paths else ""
    yield from _on_scene(restore, sky(), "sky", "drawn sky")
    for path, pixels in clean_pictures(paths[:limit], size):
        clean = np.ascontiguousarray(pixels, np.float32)
        yield from _on_scene(restore, clean, name, path.stem)
        for task in TASKS:
            value = psnr(restore(clean, task), clean)
            yield _row(f"{name}, left as it was: {task}", path.stem, value, "dB")
        yield from _on_lines(restore, clean, name, path.stem)
        yield from _in_both_orders(restore, clean, name, path.stem)


def _on_scene(restore: _Restore, clean: Pixels, name: str, image: str) -> Iterator[Row]:
    """Grid, line along the border and cast, under each task that changes the whole scene."""
    flat = smooth_areas(clean)
    grey = np.repeat((clean @ LUMA)[..., None], 3, axis=2).astype(np.float32)
    for task in SCENE_TASKS:
        result = restore(veiled(clean, task), task)
        if flat.mean() > 0.1:
            found, control = (folded(result, period, flat) for period in (GRID, CONTROL))
            yield _row(f"{name}, grid: {task}", image, found, "levels")
            yield _row(f"{name}, grid against control: {task}", image, found / control, "times")
        line = border_line(result, clean)
        yield _row(f"{name}, line at the border: {task}", image, line, "levels")
        value = cast(restore(veiled(grey, task), task))
        yield _row(f"{name}, cast on greys: {task}", image, value, "levels")


def _on_lines(restore: _Restore, clean: Pixels, name: str, image: str) -> Iterator[Row]:
    """What the rain sentence leaves of wires and window bars."""
    for label, bars in (("wires", False), ("window bars", True)):
        cover = thin_lines(clean.shape[0], clean.shape[1], bars=bars)
        lined = quantize(clean + cover[..., None] * (0.9 - clean))
        value = kept_lines(restore(lined, "rain"), clean, lined, cover)
        yield _row(f"{name}, {label} left by rain", image, value, "share")


def _in_both_orders(restore: _Restore, clean: Pixels, name: str, image: str) -> Iterator[Row]:
    """Two degradations undone from the last to the first, and the other way round."""
    from .degradations import FROZEN

    for first, second in (("haze", "rain"), ("lol", "noise")):
        rng = np.random.default_rng((3, *image.encode()))
        degraded = FROZEN[second](FROZEN[first](clean, rng), rng)
        for order in ((second, first), (first, second)):
            picture = degraded
            for task in order:
                picture = restore(picture, task)
            label = f"{name}, {first} then {second}, undone: {' then '.join(order)}"
            yield _row(label, image, psnr(picture, clean), "dB")


def _row(name: str, image: str, value: float, unit: str) -> Row:
    return Row("artefacts", name, image=image, value=float(value), unit=unit)
