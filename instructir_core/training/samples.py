"""Training samples: a crop of a clean picture, degraded for a task, with a sentence asking for it.

A sample comes from a pair of files (GoPro, LOL, ...) or from a clean photo and a synthetic
degradation. Every sample depends on the seed, the number of its batch and its row alone: runs
resume where they stopped, and give the same batches on one device or on many.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from .. import pictures
from ..tasks import NO_TASK
from .degradations import Degradation
from .published_sets import FilePair, find_datasets
from .recipes import RECIPES
from .streams import Stream, stream

log = logging.getLogger(__name__)

COMPOSITE_SHARE = 0.08
"""Share of synthetic samples under a second degradation, which stays: chains undo one at a time."""
DEGRADED_NONE = 0.75
"""Share of the `NO_TASK` samples that are degraded, and to be left so."""

_DARK = 0.2
"""Photos of lower mean brightness are no targets for the tasks that set brightness."""
_MARGIN = 18
"""Pixels around a crop that blur may draw light from: the longest kernel's radius."""
_SCALES = (1.0, 0.6, 0.4)
"""Clean photos are drawn at their own and at smaller sizes: a crop of a shrunk photo has more
detail per pixel."""
_SCENE_SHARE = 0.7
"""Share of the samples of ``whole_scene`` tasks that show most of a photo, as the network sees it
when it is used: its attention averages over all it is given, and a crop's average is another."""
_RECOLOUR_SHARE = 0.6
"""Share of their synthetic samples from a photo in other colours: else the few photos are learned
by heart, and what is held out gets colours that are sure and wrong."""
_GREY_SHARE = 0.15
"""Share of the recoloured photos that are left with hardly any colour: grey must stay grey."""
_GRAPHIC_SHARE = 0.35
"""Share of the clean samples that are graphics, where there are some."""
_LINES_SHARE = 0.12
"""Share of the rain samples with thin bright lines in the clean picture, which are to stay."""

_SKY_SHARE = 0.12
"""Share of the synthetic samples of ``whole_scene`` tasks under an even sky: what the network adds
to what is smooth, a grid or a line at the border, is seen there first."""

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """Where the samples of one task come from."""

    task: str
    pairs: tuple[FilePair, ...]
    degrade: Degradation | None = None
    """Makes the input where a pair has none of its own."""
    graphics: tuple[Path, ...] = ()
    """Pictures that are never degraded, for samples that are to be left as they are."""


@dataclass
class Pictures:
    """Decoded pictures as 8-bit arrays; the latest used stay in memory, up to ``limit`` bytes."""

    limit: int = 3 << 30
    kept: OrderedDict[tuple[Path, float], Bytes] = field(default_factory=OrderedDict)
    bytes: int = 0

    def read(self, path: Path, scale: float = 1.0) -> Bytes:
        """(H, W, 3), shrunk by ``scale``. Raises OSError or ValueError as `pictures.read`."""
        key = path, scale
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        if scale == 1.0:
            pixels = np.rint(pictures.read(path).pixels * 255).astype(np.uint8)
        else:
            # From a kept size of at least one and a half times it: as sharp, and faster.
            near = min(s for s in _SCALES if s >= 1.5 * scale or s == 1.0)
            larger = Image.fromarray(self.read(path, near))
            height, width = self.read(path).shape[:2]
            size = (max(1, round(scale * width)), max(1, round(scale * height)))
            pixels = np.asarray(larger.resize(size, Image.Resampling.LANCZOS))
        if scale not in _SCALES:
            return pixels  # a size drawn at random, which nobody asks for again
        self.kept[key] = pixels
        self.bytes += pixels.nbytes
        while self.bytes > self.limit and len(self.kept) > 1:
            self.bytes -= self.kept.popitem(last=False)[1].nbytes
        return pixels


def photo_files(folder: Path, skip: Sequence[str] = ()) -> list[Path]:
    """The pictures of a folder of clean photos, in order of name, except the ``skip`` names.

    Raises ``ValueError`` when there is none, or a name to skip is not there.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in pictures.READABLE)
    missing = sorted(set(skip) - {p.name for p in paths})
    if missing:
        raise ValueError(f"{folder}: found no {', '.join(missing)} to skip. Check the names.")
    kept = [p for p in paths if p.name not in skip]
    if not kept:
        raise ValueError(
            f"{folder}: found no pictures; expected photos as PNG, JPEG, WebP, TIFF or BMP."
        )
    return kept


def split_held_out(
    items: Sequence[Path], every: int = 16, also: Sequence[str] = ()
) -> tuple[list[Path], list[Path]]:
    """Photos to train on, and every sixteenth and those named ``also``, which training never sees.

    Raises ``ValueError`` when a name is not there.
    """
    missing = sorted(set(also) - {p.name for p in items})
    if missing:
        raise ValueError(f"Found no photo {', '.join(missing)} to hold out. Check the names.")
    held = {*items[min(5, len(items) - 1) :: every], *(p for p in items if p.name in also)}
    return [p for p in items if p not in held], sorted(held)


def collect_sources(
    tasks: Sequence[str],
    photos: Path | None = None,
    data: Path | None = None,
    skip: Sequence[str] = (),
    *,
    hold_out: Sequence[str] = (),
    graphics: Path | None = None,
) -> tuple[dict[str, Source], dict[str, Source]]:
    """What to train on and what to hold out, per task: data sets below ``data``, and for the
    tasks without one the clean ``photos``, degraded by `RECIPES`.

    Data sets of clean pictures get the paper's degradation: Gaussian noise of three levels,
    bicubic resampling. Every 16th photo, those named in ``hold_out`` and every 64th pair are held
    out; so is every 5th of the ``graphics``, which serve as samples to leave alone. Raises
    ``ValueError`` as the readers do.
    """
    training: dict[str, Source] = {}
    held: dict[str, Source] = {}
    if data is not None:
        for collection in find_datasets(data).values():
            log.info("%s", collection.report)
            task = collection.task
            if task in tasks:
                known = training[task].pairs if task in training else ()
                training[task] = Source(task, known + collection.pairs, RECIPES[task].paper)
        for task, source in training.items():
            apart = source.pairs[min(5, len(source.pairs) - 1) :: 64]
            held[task] = replace(source, pairs=apart)
            kept = tuple(p for p in source.pairs if p not in set(apart))
            training[task] = replace(source, pairs=kept or source.pairs)
    if photos is not None:
        clean, apart_photos = split_held_out(photo_files(photos, skip), also=hold_out)
        calm = tuple(split_held_out(photo_files(graphics), 5)[0]) if graphics is not None else ()
        for task in tasks:
            if task in RECIPES and task not in training:
                for split, paths in ((training, clean or apart_photos), (held, apart_photos)):
                    pairs = tuple(FilePair(None, path) for path in paths)
                    split[task] = Source(task, pairs, RECIPES[task].degrade, calm)
    return training, held


def draw_crop(
    images: Sequence[Bytes], size: int, rng: np.random.Generator, busy: float = 0.7
) -> list[npt.NDArray[np.float32]]:
    """The same random (size, size, 3) crop of aligned images, mirrored and turned at random.

    With the probability ``busy`` detail is preferred. Images smaller than the crop are mirrored
    at their borders.
    """
    height, width = images[0].shape[:2]
    border = [(0, max(0, size - height)), (0, max(0, size - width)), (0, 0)]
    if height < size or width < size:
        images = [np.pad(i, border, mode="symmetric") for i in images]
        height, width = images[0].shape[:2]
    places = [
        (int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1)))
        for _ in range(2)
    ]

    def cut(image: Bytes, place: tuple[int, int]) -> Bytes:
        return image[place[0] : place[0] + size, place[1] : place[1] + size]

    # Skies and studio walls fill most photos and teach little: of two places take the busier.
    target = images[-1]
    detail = [
        np.abs(np.diff(cut(target, p)[::2, ::2, 1].astype(np.int16), axis=1)).mean() for p in places
    ]
    place = places[int(np.argmax(detail))] if rng.random() < busy else places[0]
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    crops = []
    for image in images:
        crop = np.rot90(cut(image, place), turns)
        crop = crop[:, ::-1] if mirror else crop
        crops.append(np.ascontiguousarray(crop).astype(np.float32) / np.float32(255))
    return crops


def recolour(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Other hues, saturation and brightness; what is grey stays grey, so that casts still show."""
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    # Hues turn about the axis of the greys.
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.3 else rng.normal(0.0, 0.25)
    cos, sin = np.cos(angle), np.sin(angle) / np.sqrt(3.0)
    turn = np.full((3, 3), (1.0 - cos) / 3.0) + cos * np.eye(3)
    turn += sin * np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    least, most = (0.0, 0.3) if rng.random() < _GREY_SHARE else (0.75, 1.25)
    chroma = (image - grey[..., None]) @ turn.T * rng.uniform(least, most)
    lightness = grey ** np.exp(rng.uniform(-0.2, 0.2))
    return np.clip(lightness[..., None] + chroma, 0.0, 1.0).astype(np.float32)


def thin_lines(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Wires, masts and window bars: bright lines of about a pixel, alone or as a grid."""
    height, width = image.shape[:2]
    canvas = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(canvas)
    thick = int(rng.integers(2, 5))
    if rng.random() < 0.5:
        for x in np.arange(rng.uniform(0, 30), 2 * width, rng.uniform(16, 80)):
            draw.line((x, 0, x + rng.normal(0.0, 1.0), 2 * height), 255, thick)
        for y in np.arange(rng.uniform(0, 30), 2 * height, rng.uniform(16, 80)):
            draw.line((0, y, 2 * width, y + rng.normal(0.0, 1.0)), 255, thick)
    else:
        for _ in range(int(rng.integers(1, 6))):
            ends = rng.uniform(-0.2, 1.2, 4) * 2 * np.array([width, height] * 2)
            draw.line(tuple(ends), 255, thick)
    small = canvas.resize((width, height), Image.Resampling.BOX)
    cover = np.asarray(small, np.float32)[..., None] / np.float32(255 / rng.uniform(0.4, 1.0))
    colour = np.clip(rng.uniform(0.55, 1.0) + rng.normal(0.0, 0.04, 3), 0.0, 1.0)
    return (image + cover * (colour - image)).astype(np.float32)


def even_sky(image: Pixels, rng: np.random.Generator) -> Pixels:
    """The upper 30 to 90 % of a scene as a sky (or wall) without any detail, softly joined."""
    height, width = image.shape[:2]
    corners = np.clip(rng.uniform(0.25, 0.95) + rng.normal(0.0, 0.07, (2, 2, 3)), 0.0, 1.0)
    down, right = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[:, None]
    sky = (1 - down) * ((1 - right) * corners[0, 0] + right * corners[0, 1])
    sky = sky + down * ((1 - right) * corners[1, 0] + right * corners[1, 1])
    horizon = rng.uniform(0.3, 0.9) + rng.normal(0.0, 0.05) * (right - 0.5)
    cover = np.clip((horizon - down) / rng.uniform(0.01, 0.1) + 0.5, 0.0, 1.0)
    return (image + cover * (sky - image)).astype(np.float32)


def draw_pair(
    source: Source, store: Pictures, size: int, rng: np.random.Generator, plain: bool = False
) -> tuple[Pixels, Pixels]:
    """Input and target of one sample, each (size, size, 3) sRGB in [0, 1].

    ``plain`` leaves out the clean and the composite samples, for scores that compare.
    """
    recipe = RECIPES[source.task]
    for _ in range(20):
        pair = source.pairs[int(rng.integers(len(source.pairs)))]
        if pair.degraded is not None or not recipe.sets_brightness:
            break
        if store.read(pair.clean, _SCALES[-1]).mean() >= 255 * _DARK:
            break
    if pair.degraded is not None:
        images = [store.read(pair.degraded), store.read(pair.clean)]
        degraded, clean = draw_crop(images, size, rng)
        return degraded, clean
    assert source.degrade is not None
    scale = float(rng.choice(_SCALES))
    if recipe.whole_scene and rng.random() < _SCENE_SHARE:
        side = min(store.read(pair.clean).shape[:2])
        scale = min(1.0, (size + 2 * _MARGIN) / side * rng.uniform(1.0, 1.5))
    photo = store.read(pair.clean, scale)
    if min(photo.shape[:2]) < size + 2 * _MARGIN:
        photo = store.read(pair.clean)
    # Rain, haze and darkness look upright in the world, so only crops are turned, before.
    margin = _MARGIN if source.task == "blur" else 0
    # Skies and walls in their natural share where the whole scene is judged.
    busy = 0.0 if recipe.whole_scene else 0.7
    (clean,) = draw_crop([photo], size + 2 * margin, rng, busy=busy)
    if not plain and recipe.whole_scene and rng.random() < _RECOLOUR_SHARE:
        clean = recolour(clean, rng)
    if not plain and source.task == "rain" and rng.random() < _LINES_SHARE:
        clean = thin_lines(clean, rng)
    if not plain and recipe.whole_scene and rng.random() < _SKY_SHARE:
        clean = even_sky(clean, rng)
    if plain:
        degraded = source.degrade(clean, rng)
    else:
        degraded, clean = _degrade(source, store, clean, rng)
    inner = slice(margin, margin + size)
    return degraded[inner, inner], clean[inner, inner]


def _degrade(
    source: Source, store: Pictures, clean: Pixels, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Input and target from a clean crop: degraded, degraded twice, or left as it is."""
    assert source.degrade is not None
    earlier = list(RECIPES)[: list(RECIPES).index(source.task)]
    if earlier and rng.random() < COMPOSITE_SHARE:
        other = earlier[int(rng.integers(len(earlier)))]
        clean = RECIPES[other].degrade(clean, rng)
    elif rng.random() < RECIPES[source.task].clean_share:
        if source.graphics and rng.random() < _GRAPHIC_SHARE:
            graphic = store.read(source.graphics[int(rng.integers(len(source.graphics)))])
            (clean,) = draw_crop([graphic], len(clean), rng, busy=0.0)
        return clean, clean
    return source.degrade(clean, rng), clean


class Batches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batch number ``step`` -> degraded, clean (B, 3, S, S), sentence vectors, class indices.

    Of a batch over ``world`` processes, each makes its own rows: ``rank``, ``rank + world``, ...
    `NO_TASK` samples are those of the other tasks whose input is also the target.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        shares: Mapping[str, float],
        classes: Sequence[str],
        sentences: Mapping[str, Tensor],
        *,
        size: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        store: Pictures | None = None,
    ) -> None:
        self.sources, self.sentences, self.classes = sources, sentences, tuple(classes)
        self.names = [n for n in shares if n in sources or n == NO_TASK]
        total = sum(shares[n] for n in self.names)
        self.ends = np.cumsum([shares[n] / total for n in self.names])
        self.real = [n for n in self.names if n != NO_TASK]
        self.real_shares = np.array([shares[n] for n in self.real])
        self.real_shares /= self.real_shares.sum()
        self.size, self.batch, self.seed = size, batch, seed
        self.rank, self.world = rank, world
        self.store = store or Pictures()

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Systematic sampling: each batch holds every class close to its share.
        offset = stream(self.seed, Stream.SAMPLES, step).random()
        degraded, clean, vectors, labels = [], [], [], []
        for row in range(self.rank, self.batch, self.world):
            rng = stream(self.seed, Stream.SAMPLES, step, row)
            place = int(np.searchsorted(self.ends, (row + offset) / self.batch))
            task = self.names[min(place, len(self.names) - 1)]
            x, y = self._draw(task, rng)
            degraded.append(torch.from_numpy(x))
            clean.append(torch.from_numpy(y))
            known = self.sentences[task]
            vectors.append(known[int(rng.integers(len(known)))])
            labels.append(self.classes.index(task))
        return (
            torch.stack(degraded).permute(0, 3, 1, 2),
            torch.stack(clean).permute(0, 3, 1, 2),
            torch.stack(vectors),
            torch.tensor(labels),
        )

    def _draw(self, task: str, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        if task != NO_TASK:
            return draw_pair(self.sources[task], self.store, self.size, rng)
        # Drawn as often as its own task: what is removed most eagerly is hardest to leave.
        other = str(rng.choice(self.real, p=self.real_shares))
        degraded, clean = draw_pair(self.sources[other], self.store, self.size, rng)
        kept = degraded if rng.random() < DEGRADED_NONE else clean
        return kept, kept
