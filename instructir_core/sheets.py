"""Sheets of pictures to look at: before and after, results under captions, rows of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from . import pictures

Pixels = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_GAP = 8
"""White pixels between pictures."""


def shrink(pixels: Pixels, width: int) -> Bytes:
    """(H, W, 3) in [0, 1] -> 8 bits, at most ``width`` pixels wide.

    Small pictures keep their own pixels: enlarging would hide what was done.
    """
    image = Image.fromarray(np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8))
    if image.width <= width:
        return np.asarray(image)
    height = max(1, round(width * image.height / image.width))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def before_after(rows: Sequence[tuple[Bytes, Bytes]], sentences: Sequence[str]) -> Bytes:
    """Before and after side by side, one row for each picture, and the sentences below."""
    font, line = ImageFont.load_default(22), 32
    width = max(before.shape[1] + after.shape[1] + _GAP for before, after in rows)
    heights = [max(before.shape[0], after.shape[0]) + _GAP for before, after in rows]
    sheet = Image.new("RGB", (width, sum(heights) + line * len(sentences) + _GAP), "white")
    y = 0
    for (before, after), height in zip(rows, heights, strict=True):
        sheet.paste(Image.fromarray(before), (0, y))
        sheet.paste(Image.fromarray(after), (before.shape[1] + _GAP, y))
        y += height
    draw = ImageDraw.Draw(sheet)
    for number, sentence in enumerate(sentences):
        draw.text((width // 2, y + line * number), f"“{sentence}”", "black", font, anchor="ma")
    return np.asarray(sheet)


def captioned(title: str, rows: Sequence[Sequence[tuple[str, Bytes]]]) -> Bytes:
    """A row of pictures for each entry, each under its caption, below a title."""
    font, line = ImageFont.load_default(18), 28
    columns = max(len(row) for row in rows)
    width = max(
        max(pixels.shape[1], math.ceil(font.getlength(caption)))
        for row in rows
        for caption, pixels in row
    )
    heights = [max(pixels.shape[0] for _, pixels in row) for row in rows]
    height = sum(h + _GAP + line for h in heights) + line + _GAP
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, "black", font)
    y = line + _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, (caption, pixels) in enumerate(row):
            x = _GAP + column * (width + _GAP)
            draw.text((x, y), caption, "black", font)
            sheet.paste(Image.fromarray(pixels), (x, y + line))
        y += height + _GAP + line
    return np.asarray(sheet)


def mosaic(rows: Sequence[Sequence[Pixels]], line: int = 0) -> Bytes:
    """Pictures of one size, (H, W, 3) in [0, 1], edge to edge; ``line`` white pixels after each."""
    border = [(0, line), (0, line), (0, 0)]
    whole = np.concatenate(
        [
            np.concatenate([np.pad(p, border, constant_values=1.0) for p in row], axis=1)
            for row in rows
        ]
    )
    return np.rint(np.clip(whole, 0.0, 1.0) * 255.0).astype(np.uint8)


def write(path: Path, sheet: Bytes) -> None:
    """Write a sheet, creating its folder; errors as `pictures.write`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.write(path, pictures.Picture(sheet.astype(np.float32) / np.float32(255)))
