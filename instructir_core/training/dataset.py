"""Training samples: a crop of a clean photo, degraded for a task, with a sentence asking for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .. import image as pictures
from ..text import NO_TASK
from .degradations import TASKS
from .instructions import CLASSES

log = logging.getLogger(__name__)

TASK_WEIGHTS: dict[str, float] = {
    "noise": 0.27,
    "blur": 0.12,
    "rain": 0.14,
    "haze": 0.09,
    "lol": 0.10,
    "sr": 0.12,
    "en": 0.08,
    NO_TASK: 0.08,
}
"""Share of samples per class: the tasks whose error falls slowest get the most."""

CLEAN_SHARE = 0.04
"""Share of samples whose input is already clean; see `draw_pair`."""
NEEDS_NO_CHANGE = ("noise", "blur", "rain", "haze", "sr")
"""Tasks whose sentence leaves a clean picture as it is; light and colour are a matter of taste."""

_DARK = 0.2
"""Photos of lower mean brightness are no targets for the tasks that set brightness."""
_MARGIN = 16
"""Pixels around a crop that blur may draw light from, more than the longest kernel's radius."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """A clean photo at full and at 0.6 size, 8 bits."""

    name: str
    scales: tuple[Bytes, Bytes]
    brightness: float


def load_photos(folder: Path, skip: Sequence[str] = ()) -> list[Photo]:
    """Read every picture in a folder, in order of name, except the ``skip`` names.

    Raises ``ValueError`` when there is none, or a name to skip is not there.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in pictures.READABLE)
    missing = sorted(set(skip) - {p.name for p in paths})
    if missing:
        raise ValueError(f"{folder}: found no {', '.join(missing)} to skip. Check the names.")
    photos = []
    for path in paths:
        if path.name in skip:
            continue
        pixels = np.rint(pictures.read(path).pixels * 255).astype(np.uint8)
        height, width = pixels.shape[:2]
        small = Image.fromarray(pixels).resize(
            (max(1, round(0.6 * width)), max(1, round(0.6 * height))), Image.Resampling.LANCZOS
        )
        photos.append(Photo(path.name, (pixels, np.asarray(small)), float(pixels.mean() / 255)))
    if not photos:
        raise ValueError(
            f"{folder}: found no pictures; expected photos as PNG, JPEG, WebP, TIFF or BMP."
        )
    return photos


def split_photos(photos: Sequence[Photo], every: int = 16) -> tuple[list[Photo], list[Photo]]:
    """Photos to train on, and every sixteenth photo, which training never sees."""
    held = list(photos[5::every])
    return [p for p in photos if all(p is not h for h in held)], held


def draw_crop(
    photos: Sequence[Photo], size: int, task: str, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """A random (size, size, 3) crop, mirrored and turned at random; detail is preferred."""
    while True:
        photo = photos[int(rng.integers(len(photos)))]
        if task not in ("lol", "en") or photo.brightness >= _DARK:
            break
    pixels = photo.scales[rng.integers(2)]
    if min(pixels.shape[:2]) < size:
        pixels = photo.scales[0]
    if min(pixels.shape[:2]) < size:
        border = [(0, max(0, size - n)) for n in pixels.shape[:2]]
        pixels = np.pad(pixels, (*border, (0, 0)), mode="symmetric")
    crops = []
    # Skies and studio walls fill most photos and teach little: of two places take the busier.
    for _ in range(2):
        y = rng.integers(pixels.shape[0] - size + 1)
        x = rng.integers(pixels.shape[1] - size + 1)
        crops.append(pixels[y : y + size, x : x + size])
    busy = [np.abs(np.diff(c[::2, ::2, 1].astype(np.int16), axis=1)).mean() for c in crops]
    crop = crops[int(np.argmax(busy))] if rng.random() < 0.7 else crops[0]
    crop = np.rot90(crop, int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop).astype(np.float32) / np.float32(255)


def draw_pair(
    photos: Sequence[Photo], size: int, task: str, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Degraded input and target for one task, each (size, size, 3).

    For `NO_TASK` any picture, clean or degraded, is its own target; so is, now and then, a clean
    picture for the tasks that find nothing to do in it.
    """
    # Rain, haze and darkness look upright in the world, so only crops are turned, before.
    margin = _MARGIN if task == "blur" else 0
    clean = draw_crop(photos, size + 2 * margin, task, rng)
    if task == NO_TASK:
        if rng.random() < 0.75:
            # Drawn as often as its own task: what is removed most eagerly is hardest to leave.
            shares = np.array([TASK_WEIGHTS[name] for name in TASKS])
            clean = TASKS[str(rng.choice(list(TASKS), p=shares / shares.sum()))](clean, rng)
        return clean, clean
    keep = task in NEEDS_NO_CHANGE and rng.random() < CLEAN_SHARE
    degraded = clean if keep else TASKS[task](clean, rng)
    inner = slice(margin, margin + size)
    return degraded[inner, inner], clean[inner, inner]


class Batches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batch number ``step`` -> degraded, clean (B, 3, S, S), sentence vectors, class indices.

    A batch depends on the seed and its number alone, so training resumes exactly where it was.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        sentences: Mapping[str, Tensor],
        size: int,
        batch: int,
        seed: int,
        length: int,
    ) -> None:
        self.photos, self.sentences = photos, sentences
        self.size, self.batch, self.seed, self.length = size, batch, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, 3, step))
        shares = np.array([TASK_WEIGHTS[c] for c in CLASSES])
        # Systematic sampling: each batch holds every class close to its share.
        points = (np.arange(self.batch) + rng.random()) / self.batch
        classes = np.searchsorted(np.cumsum(shares / shares.sum()), points).clip(max=7)
        degraded, clean, vectors = [], [], []
        for index in classes:
            task = CLASSES[int(index)]
            x, y = draw_pair(self.photos, self.size, task, rng)
            degraded.append(torch.from_numpy(x))
            clean.append(torch.from_numpy(y))
            known = self.sentences[task]
            vectors.append(known[int(rng.integers(len(known)))])
        return (
            torch.stack(degraded).permute(0, 3, 1, 2),
            torch.stack(clean).permute(0, 3, 1, 2),
            torch.stack(vectors),
            torch.from_numpy(classes),
        )


def held_out_pairs(
    photos: Sequence[Photo], task: str, size: int = 384, seed: int = 1000
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Two draws of a task's degradation on the centre of each photo: degraded, clean."""
    for index, photo in enumerate(photos):
        for draw in range(2):
            rng = np.random.default_rng((seed, CLASSES.index(task), index, draw))
            pixels = photo.scales[draw]
            if task in ("lol", "en") and photo.brightness < _DARK:
                continue
            y, x = (max(0, n - size) // 2 for n in pixels.shape[:2])
            crop = pixels[y : y + size, x : x + size]
            clean = np.ascontiguousarray(crop).astype(np.float32) / np.float32(255)
            yield TASKS[task](clean, rng), clean
