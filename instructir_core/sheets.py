"""Sheets of pictures to look at: before and after, results under captions, rows of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from . import pictures, video

Pixels = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GAP = 8
"""White pixels between pictures."""
_FRAME = 4
"""Pixels of the frame around a marked one, within its gap."""
_MARK = (0, 140, 60)
_SHEET = 14000
"""Highest sheet: WebP ends at 16,383 pixels."""
_TALLEST = 4000
_FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc",
    "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "unifont.ttf", "msyh.ttc", "simsun.ttc",
    "segoeui.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc",
    "Arial Unicode.ttf", "NotoSans-Regular.ttf", "unifont.otf", "msgothic.ttc", "malgun.ttf",
    "AppleSDGothicNeo.ttc", "arial.ttf",
)  # fmt: skip
"""Fonts of Linux, Windows and macOS that have more than Latin letters, by their files' names."""


def shrink(pixels: Pixels, width: int) -> Bytes:
    """(H, W, 3) in [0, 1] -> 8 bits, at most ``width`` pixels wide and `_TALLEST` high.

    Small pictures keep their own pixels: enlarging would hide what was done.
    """
    image = Image.fromarray(np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8))
    scale = min(1.0, width / image.width, _TALLEST / image.height)
    if scale == 1.0:
        return np.asarray(image)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def font_for(text: str, size: int) -> Font | None:
    """A font of this system that has every character of the text, or None."""
    for name in (None, *_FONTS):
        try:
            font = ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
        except OSError:
            continue
        if not isinstance(font, ImageFont.FreeTypeFont):
            continue
        missing = bytes(font.getmask("\U0010fffe"))
        if all(c.isspace() or bytes(font.getmask(c)) != missing for c in set(text)):
            return font
    return None


def before_after_sheets(
    rows: Sequence[tuple[Bytes, Bytes]], captions: Sequence[tuple[str, str]]
) -> list[Bytes]:
    """`before_after`, on as many sheets as no format is too low for."""
    parts: list[list[tuple[Bytes, Bytes]]] = [[]]
    height = 0
    for row in rows:
        needed = max(row[0].shape[0], row[1].shape[0]) + _GAP
        if height + needed > _SHEET and parts[-1]:
            parts.append([])
            height = 0
        parts[-1].append(row)
        height += needed
    return [before_after(part, captions) for part in parts]


def before_after(rows: Sequence[tuple[Bytes, Bytes]], captions: Sequence[tuple[str, str]]) -> Bytes:
    """Before and after side by side, one row for each picture, and the captions below.

    A caption is a sentence and what stands for it where no font has its characters.
    """
    line = 32
    width = max(before.shape[1] + after.shape[1] + _GAP for before, after in rows)
    heights = [max(before.shape[0], after.shape[0]) + _GAP for before, after in rows]
    sheet = Image.new("RGB", (width, sum(heights) + line * len(captions) + _GAP), "white")
    y = 0
    for (before, after), height in zip(rows, heights, strict=True):
        sheet.paste(Image.fromarray(before), (0, y))
        sheet.paste(Image.fromarray(after), (before.shape[1] + _GAP, y))
        y += height
    draw = ImageDraw.Draw(sheet)
    for number, (sentence, instead) in enumerate(captions):
        font, text = font_for(sentence, 22), f"“{sentence}”"
        if font is None:
            font, text = ImageFont.load_default(22), instead
        draw.text((width // 2, y + line * number), text, "black", font, anchor="ma")
    return np.asarray(sheet)


def side_by_side(before: Pixels, after: Pixels, words: str, width: int) -> Bytes:
    """(H, W, 3) in [0, 1] under their names, each at most ``width`` wide, below ``words``.

    Where one is larger, as after an upscaler, the other is enlarged to its size, which changes
    only how it is looked at.
    """
    height, across = max(before.shape[:2], after.shape[:2], key=lambda size: size[0] * size[1])
    drawn = []
    for pixels in (before, after):
        if pixels.shape[:2] != (height, across):
            same = Image.fromarray(shrink(pixels, pixels.shape[1])).resize((across, height))
            pixels = np.asarray(same, np.float32) / np.float32(255)
        drawn.append(shrink(pixels, width))
    font = font_for(words, 18) or ImageFont.load_default(18)
    title = _wrapped(words, font, 2 * drawn[0].shape[1])
    return captioned(title, [[("Before", drawn[0]), ("After", drawn[1])]], font)


def legible(words: str) -> bool:
    """Whether a font with all of these letters is at hand."""
    return font_for(words, 18) is not None


def _wrapped(words: str, font: Font, width: int) -> str:
    """The words in lines of at most ``width`` pixels, broken anywhere where there are no spaces."""
    lines = []
    for paragraph in words.splitlines():
        line = ""
        for letter in paragraph:
            if font.getlength(line + letter) > width and line:
                kept, space, rest = line.rpartition(" ")
                lines.append(kept if space else line)
                line = rest if space else ""
            line += letter
        lines.append(line)
    return "\n".join(lines)


def captioned(
    title: str,
    rows: Sequence[Sequence[tuple[str, Bytes]]],
    font: Font | None = None,
    *,
    marked: str | None = None,
) -> Bytes:
    """A row of pictures for each entry, each under its caption, below a title of some lines.

    The picture whose caption is ``marked`` has a frame around it.
    """
    font, line = font or ImageFont.load_default(18), 28
    above = line * title.count("\n") + (line if title else 0) + _GAP
    columns = max(len(row) for row in rows)
    width = max(
        max(pixels.shape[1], math.ceil(font.getlength(caption)))
        for row in rows
        for caption, pixels in row
    )
    heights = [max(pixels.shape[0] for _, pixels in row) for row in rows]
    height = sum(h + _GAP + line for h in heights) + above
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(title.split("\n")):
        draw.text((_GAP, _GAP + line * number), text, "black", font)
    y = above
    for row, height in zip(rows, heights, strict=True):
        for column, (caption, pixels) in enumerate(row):
            x = _GAP + column * (width + _GAP)
            draw.text((x, y), caption, "black", font)
            sheet.paste(Image.fromarray(pixels), (x, y + line))
            if caption == marked:
                right, bottom = x + pixels.shape[1] - 1, y + line + pixels.shape[0] - 1
                corners = (x - _FRAME, y + line - _FRAME, right + _FRAME, bottom + _FRAME)
                draw.rectangle(corners, outline=_MARK, width=_FRAME)
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


def check_place(sheet: Path, sources: Sequence[Path], option: str = "--compare") -> None:
    """Raise ValueError where a sheet of these sources cannot be written; ``option`` names it."""
    if clips := [s for s in sources if s.suffix.lower() in video.FORMATS]:
        raise ValueError(
            f"{option}: found the video {clips[0]}; expected pictures. Leave one of them out."
        )
    taken = {s.resolve() for s in sources}
    if sheet.suffix.lower() not in pictures.FORMATS or sheet.resolve() in taken:
        raise ValueError(
            f"{option} {sheet}: expected a picture file that is none of the inputs, such as "
            "sheet.png. Rename it."
        )
