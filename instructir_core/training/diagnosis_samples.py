"""What the network that reads pictures learns from: pictures, and what is wrong with them.

A sample is a clean picture under no degradation, one or two, then saved and scaled as files are.
Its severities are measured: the PSNR between the picture with and without a degradation, both
saved and scaled alike (`diagnose.severity`). What needs nothing is as various as what does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from ..diagnose import Look, look, severity
from ..tasks import TASKS
from .degradations import Degradation
from .imaging import (
    Pixels,
    compress,
    convolve,
    disc_kernel,
    line_kernel,
    quantize,
    resize,
    smooth_noise,
    soften,
    to_linear,
    to_srgb,
)
from .noise import log_uniform
from .recipes import RECIPES, compose
from .samples import Pictures, even_sky, photo_files, recolour, split_held_out, thin_lines
from .streams import Stream, stream

CLEAN_SHARE, PAIR_SHARE = 0.30, 0.16
"""Of the samples: without any degradation, and with two; the others have one."""
_SHARES = {"noise": 2.0, "lol": 0.8}
"""How often a task is drawn, where that is not 1."""
_FINE = ("noise", "blur", "sr")
"""The tasks that befall graphics and text, too."""
_DARK = 0.2
"""As in `samples`: what is of lower mean brightness is no target for tasks that set it."""
_RESAMPLERS = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Sources:
    """Where clean pictures come from."""

    photos: Sequence[Path]
    graphics: Sequence[Path] = ()
    store: Pictures = field(default_factory=lambda: Pictures(600 << 20))


@dataclass(frozen=True)
class Sample:
    """A picture to diagnose, (H, W, 3) in [0, 1] of 8 bits, and what is wrong with it."""

    picture: Pixels
    clean: Pixels
    """The same without any degradation."""
    severities: dict[str, float]
    """Of every task, measured."""
    tasks: tuple[str, ...]
    """What was done to it, in that order."""


def collect(
    photos: Path,
    skip: Sequence[str] = (),
    hold_out: Sequence[str] = (),
    graphics: Path | None = None,
) -> tuple[Sources, Sources]:
    """What to train on and what to hold out, split as `samples.collect_sources` splits it."""
    kept, held = split_held_out(photo_files(photos, skip), also=hold_out)
    drawn = split_held_out(photo_files(graphics), 5) if graphics is not None else ([], [])
    return Sources(kept, drawn[0]), Sources(held, drawn[1])


# --- clean pictures ----------------------------------------------------------------------------


def night(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A scene that is dark and meant so: shadows sink, lights stay."""
    linear = to_linear(image)
    light = linear.max(axis=2, keepdims=True) / max(float(linear.max()), 1e-3)
    kept = rng.uniform(0.03, 0.2)
    tint = np.exp(np.array([-1.0, 0.0, 1.0]) * rng.normal(0.05, 0.1))
    dark = linear * tint * (kept + (1.0 - kept) * light ** rng.uniform(1.0, 2.5))
    return to_srgb(dark.astype(np.float32))


def shallow_focus(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A background out of focus: a third to two thirds of the picture stay as sharp as it was."""
    blurred = convolve(to_linear(image), disc_kernel(rng.uniform(2.0, 8.0)))
    depth = smooth_noise(image.shape[:2], rng, scale=rng.uniform(0.3, 1.0))
    border = np.quantile(depth, rng.uniform(0.33, 0.67))
    cover = np.clip((depth - border) * rng.uniform(5.0, 30.0) + 0.5, 0.0, 1.0)[..., None]
    return (image + cover * (to_srgb(blurred) - image)).astype(np.float32)


def text_page(rng: np.random.Generator) -> Pixels:
    """A page or a screen of text: lines of made-up words, dark on light or light on dark."""
    width, height = int(rng.integers(256, 900)), int(rng.integers(256, 700))
    paper = rng.integers(215, 256, 3) if rng.random() < 0.7 else rng.integers(0, 60, 3)
    ink = 255 - paper if rng.random() < 0.7 else rng.integers(60, 200, 3)
    page = Image.new("RGB", (width, height), tuple(int(n) for n in paper))
    draw = ImageDraw.Draw(page)
    size = float(rng.uniform(9, 28))
    font = ImageFont.load_default(size)
    y, margin = rng.uniform(5, 40), rng.uniform(5, 40)
    while y < height - margin:
        words = ["".join(rng.choice(_LETTERS, rng.integers(1, 10))) for _ in range(24)]
        if rng.random() < 0.85:
            colour = ink if rng.random() < 0.9 else rng.integers(0, 256, 3)
            draw.text((margin, y), " ".join(words), tuple(int(n) for n in colour), font)
        elif rng.random() < 0.4:
            box = (margin, y, rng.uniform(margin + 10, width), y + rng.uniform(10, 90))
            draw.rectangle(box, tuple(int(n) for n in rng.integers(0, 256, 3)))
            y += 60
        y += size * rng.uniform(1.1, 1.7)
    return np.asarray(page, np.float32) / np.float32(255)


_LETTERS = np.array(list("etaoinshrdlucmfwypvbgkETAOINSH0123456789.,"))


def _cut(paths: Sequence[Path], store: Pictures, rng: np.random.Generator) -> Pixels:
    """A part of one picture, or all of it, of 256 to 900 px, at its own or a smaller scale."""
    pixels = store.read(paths[int(rng.integers(len(paths)))])
    height, width = pixels.shape[:2]
    longest = log_uniform(rng, 256.0, 480.0 if rng.random() < 0.7 else 900.0)
    part = np.ones(2) if rng.random() < 0.4 else rng.uniform(0.4, 1.0, 2)
    if rng.random() < 0.35:
        part = np.minimum(1.0, longest * rng.uniform(0.6, 1.0, 2) / (height, width))
    rows, columns = (max(64, int(n)) for n in part * (height, width))
    top = int(rng.integers(max(1, height - rows + 1)))
    left = int(rng.integers(max(1, width - columns + 1)))
    piece = pixels[top : top + rows, left : left + columns].astype(np.float32) / np.float32(255)
    scale = min(1.0, longest / max(piece.shape[:2]))
    if scale < 1.0:
        smaller = [max(64, round(n * scale)) for n in piece.shape[1::-1]]
        how = _RESAMPLERS[int(rng.integers(len(_RESAMPLERS)))]
        piece = resize(piece, (smaller[0], smaller[1]), how)
    return quantize(piece[:, ::-1] if rng.random() < 0.5 else piece)


def _clean(
    sources: Sources, rng: np.random.Generator, tasks: Sequence[str], *, guises: bool
) -> Pixels:
    """A picture that needs nothing, and that the ``tasks`` to come may befall."""
    drawn = rng.random() * (1.0 if not tasks else 4.0)
    if set(tasks) <= set(_FINE):
        if drawn < 0.05 and guises:
            return text_page(rng)
        if drawn < 0.15 and sources.graphics:
            return _cut(sources.graphics, sources.store, rng)
    bright = any(RECIPES[task].sets_brightness for task in tasks)
    picture = _cut(sources.photos, sources.store, rng)
    for _ in range(20):
        if not bright or picture.mean() >= _DARK:
            break
        picture = _cut(sources.photos, sources.store, rng)
    if not guises:
        return quantize(picture)
    if rng.random() < 0.3:
        picture = recolour(picture, rng)
    kind = rng.random()
    if kind < 0.12:
        picture = even_sky(picture, rng)
    elif kind < 0.20 and "blur" not in tasks:
        picture = shallow_focus(picture, rng)
    elif kind < 0.26:
        picture = thin_lines(picture, rng)
    elif kind < 0.36 and not bright:
        picture = night(picture, rng)
    return quantize(picture)


# --- other kinds of what training draws --------------------------------------------------------


def drawn_rain(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Rain as editors draw it: the brightest of a grain, smeared along one direction, laid over."""
    grain = soften(rng.normal(0.0, 1.0, image.shape[:2]).astype(np.float32), rng.uniform(0.5, 1.0))
    drops = np.clip(grain / grain.std() - rng.uniform(1.2, 2.2), 0.0, None)
    kernel = line_kernel(rng.uniform(10.0, 40.0), rng.uniform(-30.0, 30.0), rng.uniform(0.3, 0.8))
    streaks = convolve(drops[..., None], kernel)
    streaks *= rng.uniform(0.1, 0.6) / max(float(np.quantile(streaks, 0.995)), 1e-3)
    streaks = np.clip(streaks, 0.0, 0.9)
    screened = rng.random() < 0.5
    return quantize(1.0 - (1.0 - image) * (1.0 - streaks) if screened else image + streaks)


def even_haze(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Haze as thin as in a room: of one depth, or of one that changes slowly."""
    depth = smooth_noise(image.shape[:2], rng, scale=rng.uniform(0.5, 1.5))
    depth = (depth - depth.min()) * rng.uniform(0.0, 1.0) + rng.uniform(0.2, 1.0)
    if rng.random() < 0.5:
        depth = depth + soften(1.0 - image.max(axis=2), 0.04 * max(image.shape)) * rng.random()
    clear = np.exp(-rng.uniform(0.3, 1.6) * depth)[..., None].astype(np.float32)
    light = np.clip(rng.uniform(0.65, 1.0) * (1.0 + rng.normal(0.0, 0.02, 3)), 0.0, 1.0)
    return quantize(image * clear + light.astype(np.float32) * (1.0 - clear))


def weak_noise(image: Pixels, rng: np.random.Generator) -> Pixels:
    """What a camera leaves of its noise: of a few pixels, stronger in the shadows, coloured."""
    linear = to_linear(image)
    shot, read = log_uniform(rng, 0.0003, 0.01), log_uniform(rng, 0.001, 0.008)
    grain = rng.normal(0.0, 1.0, image.shape).astype(np.float32) * np.sqrt(shot * linear + read**2)
    grain = soften(grain, rng.uniform(0.4, 1.0)) * rng.uniform(1.0, 2.5)
    return quantize(to_srgb(np.clip(linear + grain, 0.0, 1.0).astype(np.float32)))


_OTHERS: dict[str, Degradation] = {"rain": drawn_rain, "haze": even_haze, "noise": weak_noise}
_OTHER_SHARE = 0.4
"""Of the single degradations of these tasks: what reads pictures is to know more than one kind."""


# --- samples -----------------------------------------------------------------------------------


def draw_sample(
    sources: Sources,
    rng: np.random.Generator,
    count: int | None = None,
    task: str | None = None,
    *,
    guises: bool = True,
) -> Sample:
    """One sample with ``count`` degradations (None: as training draws them), one of them
    ``task``; without ``guises`` pictures keep their own colours, skies, light and focus."""
    if count is None:
        count = int(np.searchsorted([CLEAN_SHARE, 1.0 - PAIR_SHARE], rng.random()))
    weights = np.array([_SHARES.get(name, 1.0) for name in RECIPES])
    if task is not None:
        weights *= [name != task for name in RECIPES]
    rest = count - (task is not None)
    names = [*RECIPES]
    drawn = rng.choice(names, size=rest, replace=False, p=weights / weights.sum())
    chosen = sorted([*map(str, drawn), *([task] if task else [])], key=names.index)
    clean = _clean(sources, rng, chosen, guises=guises)
    if guises and len(chosen) == 1 and chosen[0] in _OTHERS and rng.random() < _OTHER_SHARE:
        stages = [clean, _OTHERS[chosen[0]](clean, rng)]
    else:
        stages = compose(chosen, clean, rng)
    keep = _file(rng)
    kept = [keep(stage) for stage in stages]
    found = dict.fromkeys(TASKS, 0.0)
    for name, before, after in zip(chosen, kept, kept[1:], strict=False):
        found[name] = severity(_psnr(before, after))
    return Sample(kept[-1], kept[0], found, tuple(chosen))


def _psnr(first: Pixels, second: Pixels) -> float:
    error = float(np.square(first.astype(np.float64) - second).mean())
    return float("inf") if error == 0.0 else -10.0 * float(np.log10(error))


def _file(rng: np.random.Generator) -> Callable[[Pixels], Pixels]:
    """What becomes of a picture on its way: scaled, which may leave it soft, saved as JPEG of 80
    to 97, or neither."""
    scale = log_uniform(rng, 0.6, 1.6) if rng.random() < 0.3 else 1.0
    how = _RESAMPLERS[int(rng.integers(len(_RESAMPLERS)))]
    quality = int(rng.integers(80, 98)) if rng.random() < 0.5 else None
    chroma = 2 if rng.random() < 0.6 else 0
    corner = (0, 0) if rng.random() < 0.7 else (int(rng.integers(8)), int(rng.integers(8)))

    def keep(picture: Pixels) -> Pixels:
        if scale != 1.0:
            height, width = (max(32, round(n * scale)) for n in picture.shape[:2])
            picture = quantize(resize(picture, (width, height), how))
        if quality is not None:
            picture = compress(picture, quality, corner=corner, subsampling=chroma)
        return picture

    return keep


@dataclass(frozen=True)
class Lessons:
    """Samples as they are looked at: views (B, 3, V, V) and crops (B, N, 3, C, C) of 8 bits, and
    the severities (B, tasks). Of no network, so that they serve many."""

    view: Tensor
    crops: Tensor
    severities: Tensor

    def __len__(self) -> int:
        return len(self.severities)

    def look(self, row: int) -> Look:
        """One of them."""
        return Look(self.view[row] / 255.0, self.crops[row] / 255.0)


def make_lessons(sources: Sources, seed: int, count: int, *, guises: bool = True) -> Lessons:
    """``count`` samples, drawn as `draw_sample` does; the same for the same seed."""
    rows: list[list[Tensor]] = [[], [], []]
    for number in tqdm(range(count), desc="samples", unit="picture", mininterval=10.0):
        sample = draw_sample(sources, stream(seed, Stream.DIAGNOSES, number), guises=guises)
        seen = look(torch.from_numpy(sample.picture))
        answers = torch.tensor([sample.severities[task] for task in TASKS])
        bytes_ = [(part * 255.0).round().byte() for part in (seen.view, seen.crops)]
        for row, part in zip(rows, (*bytes_, answers), strict=True):
            row.append(part)
    return Lessons(*(torch.stack(row) for row in rows))
