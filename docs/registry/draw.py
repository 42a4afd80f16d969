"""Draw the pack's icon and banner: ``python docs/registry/draw.py`` writes them beside itself.

A photograph whose left half is grainy and dull and whose right half is restored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parent
Pixels = npt.NDArray[np.float64]


def scene(width: int, height: int) -> Pixels:
    """(H, W, 3) in [0, 1]: an evening sky, the sun, and hills."""
    yy, xx = np.mgrid[0:height, 0:width] / height
    sky = np.stack([0.25 + 0.7 * yy, 0.35 + 0.25 * yy, 0.7 - 0.35 * yy], axis=-1)
    sun = np.hypot(xx - 0.62 * width / height, yy - 0.42) < 0.16
    picture = np.where(sun[..., None], [1.0, 0.85, 0.45], sky)
    for base, steep, colour in (
        (0.62, 0.10, [0.35, 0.25, 0.45]), (0.74, 0.07, [0.18, 0.30, 0.38]),
        (0.86, 0.05, [0.07, 0.20, 0.22]),
    ):  # fmt: skip
        edge = base + steep * np.sin(5 * xx + 20 * base) + 0.5 * steep * np.sin(11 * xx + base)
        picture = np.where((yy > edge)[..., None], colour, picture)
    return picture


def half_restored(width: int, height: int) -> Image.Image:
    """Grain and faded colours to the left of the white line."""
    rng = np.random.default_rng(0)
    clean = scene(width, height)
    grey = clean.mean(axis=2, keepdims=True)
    grain = rng.normal(0, 0.13, (height // 4 + 1, width // 4 + 1, 3)).repeat(4, 0).repeat(4, 1)
    worn = 0.25 + 0.55 * (0.6 * grey + 0.4 * clean) + grain[:height, :width]
    line = width // 2
    both = np.concatenate([worn[:, :line], clean[:, line:]], axis=1)
    thick = max(2, width // 130)
    both[:, line - thick : line + thick] = 1.0
    return Image.fromarray(np.rint(np.clip(both, 0, 1) * 255).astype(np.uint8))


def icon(side: int = 400) -> Image.Image:
    return half_restored(side, side)


def banner(width: int = 1260, height: int = 540) -> Image.Image:
    """21 : 9, with a sentence as one would type it."""
    image = half_restored(width, height)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((width // 2 - 330, 60, width // 2 + 330, 150), 24, "white")
    words, font = "“please remove the noise”", ImageFont.load_default(46)
    draw.text((width // 2, 105), words, "black", font, anchor="mm")
    return image


if __name__ == "__main__":
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().quantize(160).save(FOLDER / "banner.png", optimize=True)
