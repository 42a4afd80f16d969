"""Test sets: pairs of a degraded picture and its target, from folders, read one at a time.

Pictures are whole; `cropped` makes of them what InstructIR's own evaluation scores.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .. import pictures
from ..tasks import NO_TASK, TASKS

Pixels = npt.NDArray[Any]
Degrade = Callable[[Pixels, str], Pixels]
"""A clean (H, W, 3) float32 image in [0, 1] and its name -> the same shape, degraded."""

SIGMAS = (15, 25, 50)
"""Noise levels of the paper, of 255."""
MULTIPLE = 16
_MAX_BORDER = 32
"""Pixels that a target may be larger than its input: those of SOTS carry a border of 20."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture to restore and what it should become, both (H, W, 3) float32 in [0, 1]."""

    name: str
    degraded: Pixels
    clean: Pixels


@dataclass(frozen=True)
class ImageSet:
    """A test set of one task; iterating reads its pairs from the files, in order of name.

    ``count`` is how many they are, or a little more where only reading tells. ``sentence`` is
    what to ask for where that is not the task's own sentence.
    """

    name: str
    task: str
    count: int
    pairs: Callable[[], Iterator[Pair]]
    sentence: str | None = None

    def __iter__(self) -> Iterator[Pair]:
        return self.pairs()


# --- folders -----------------------------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    """The pictures of a folder in order of name; ValueError when there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: found no such folder; expected a test set. Check the path.")
    found = _pictures(folder)
    if not found:
        raise ValueError(f"{folder}: found no pictures; expected a test set. Check the path.")
    return found


def paired(name: str, task: str, folders: Sequence[tuple[Path, Path]]) -> ImageSet:
    """Inputs and targets of (inputs, targets) folders, one per scene or just one.

    A target is called as its input, or as its input up to the first underscore (SOTS), or
    "no" and its input's name (Rain100L). A larger one is cropped to its middle (SOTS). Raises
    ValueError for an unknown task or an input without target, and when reading for sizes that do
    not fit.
    """
    if task not in TASKS:
        raise ValueError(
            f"Found the task {task!r} for {name}; expected one of {', '.join(TASKS)}. Name one."
        )
    matched = [match for inputs, targets in folders for match in _match(inputs, targets)]

    def pairs() -> Iterator[Pair]:
        for source, target in matched:
            scene = "" if len(folders) == 1 else f"{source.parent.parent.name}/"
            before, after = pictures.read(source).pixels, pictures.read(target).pixels
            border = [a - b for a, b in zip(after.shape[:2], before.shape[:2], strict=True)]
            if not all(0 <= b <= _MAX_BORDER for b in border):
                raise ValueError(
                    f"{source}: found {before.shape[1]} x {before.shape[0]} pixels, and "
                    f"{after.shape[1]} x {after.shape[0]} in {target}; expected equal sizes. "
                    "Check that they belong together."
                )
            yield _pair(scene + source.stem, before, middle(after, *before.shape[:2]))

    return ImageSet(name, task, len(matched), pairs)


def synthetic(folder: Path, recipe: str, name: str = "", size: int | None = None) -> ImageSet:
    """The pictures of a folder, degraded by a `recipe` and, before that, cut to ``size`` pixels."""
    task, degrade = parse_recipe(recipe)
    paths = files(folder)

    def pairs() -> Iterator[Pair]:
        for path, clean in clean_pictures(paths, size):
            yield _pair(path.stem, degrade(clean, path.stem), clean)

    return ImageSet(name or f"{folder.name} {recipe}", task, len(paths), pairs)


def held_out(photos: Path, skip: Sequence[str] = ()) -> list[ImageSet]:
    """What training holds out of a folder of photos: a set for each task, and clean pictures with
    a sentence that asks for nothing."""
    from ..training.samples import held_out_pairs, photo_files, split_held_out

    held = split_held_out(photo_files(photos, skip))[1]

    def degraded(task: str) -> Iterator[Pair]:
        for index, (before, after) in enumerate(held_out_pairs(held, task)):
            yield Pair(str(index), before, after)

    def clean() -> Iterator[Pair]:
        return (Pair(p.name, p.clean, p.clean) for p in degraded("noise"))

    count = 2 * len(held)
    sets = [ImageSet(f"held-out {t}", t, count, partial(degraded, t)) for t in TASKS]
    return [*sets, ImageSet("held-out clean, none", NO_TASK, count, clean, "add a cat")]


def clean_pictures(paths: Sequence[Path], size: int | None = None) -> Iterator[tuple[Path, Pixels]]:
    """Each picture as (H, W, 3) float32, the middle of at most ``size`` pixels each way."""
    for path in paths:
        pixels = pictures.read(path).pixels
        height, width = (n if size is None else min(n, size) for n in pixels.shape[:2])
        yield path, middle(pixels, height, width)


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in pictures.READABLE)


def _match(inputs: Path, targets: Path) -> list[tuple[Path, Path]]:
    known: dict[str, Path] = {}
    for path in files(targets):
        if path.stem in known:
            raise ValueError(
                f"{path}: found another target of this name, {known[path.stem].name}; expected "
                "one. Move one away."
            )
        known[path.stem] = path
    matched = []
    for path in files(inputs):
        names = (path.stem, path.stem.split("_")[0], f"no{path.stem}")
        target = next((known[n] for n in names if n in known), None)
        if target is None:
            raise ValueError(
                f"{path}: found no target of this name in {targets}; expected one. Check the set."
            )
        matched.append((path, target))
    return matched


def middle(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle of an (H, W, C) picture, a view; of an odd rest, the smaller half lies before."""
    y, x = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[y : y + height, x : x + width]


def cropped(pair: Pair) -> Pair:
    """The middle of a pair, of multiples of 16 pixels; ValueError for one that is smaller."""
    height, width = (n - n % MULTIPLE for n in pair.clean.shape[:2])
    if not height or not width:
        raise ValueError(
            f"{pair.name}: found {pair.clean.shape[1]} x {pair.clean.shape[0]} pixels; expected "
            f"{MULTIPLE} or more each way. Leave it out."
        )
    return Pair(pair.name, *(middle(a, height, width) for a in (pair.degraded, pair.clean)))


def _pair(name: str, degraded: Pixels, clean: Pixels) -> Pair:
    return Pair(name, degraded.astype(np.float32), clean.astype(np.float32))


# --- recipes -----------------------------------------------------------------------------------


def parse_recipe(text: str) -> tuple[str, Degrade]:
    """The task and the degradation of "noise25", "sr4", or a task's name ("haze").

    "noiseS" is the paper's noise of sigma S, "srF" its bicubic down-sampling by F; a task's name
    is its of `training.recipes`, drawn from the picture's name so that no other picture
    changes it. Raises ValueError for anything else.
    """
    match = re.fullmatch(r"(noise|sr)(\d+)", text)
    if match and match[1] == "noise":
        return "noise", lambda clean, name: paper_noise(clean, int(match[2]))
    if match and int(match[2]) > 1:
        return "sr", lambda clean, name: down_up(clean, int(match[2]))
    if text not in TASKS:
        raise ValueError(
            f"Found the recipe {text!r}; expected noise and its sigma (noise25), sr and its factor "
            f"(sr4), or one of {', '.join(TASKS)}. Choose one of these."
        )
    try:
        from ..training.recipes import RECIPES  # needs SciPy
    except ImportError as exc:
        raise ValueError(
            f"The recipe {text!r} needs a package that is not installed ({exc}). Install the "
            'training extra: pip install "instructir[train]"'
        ) from exc

    def degrade(clean: Pixels, name: str) -> Pixels:
        rng = np.random.default_rng((zlib.crc32(text.encode()), zlib.crc32(name.encode())))
        return RECIPES[text].degrade(np.ascontiguousarray(clean, np.float32), rng)

    return text, degrade


def paper_noise(clean: Pixels, sigma: float) -> Pixels:
    """Gaussian noise as in the paper's test sets: seed 0 for each whole image, 8 bits, rounded.

    (H, W, 3) floats in [0, 1] -> the same shape and range. Found out by its result: only this
    gives CBSD68 the input PSNR that upstream prints (24.8433 at sigma 15).
    """
    levels = np.rint(clean * 255.0)
    noise = np.random.RandomState(0).normal(0, sigma, levels.shape)
    return np.rint(np.clip(levels + noise, 0, 255)) / 255.0


def down_up(clean: Pixels, factor: int) -> Pixels:
    """Bicubic, antialiased, down by a factor and up again to the old size, rounded to 8 bits."""
    height, width = clean.shape[:2]
    whole = Image.fromarray(np.rint(clean * 255.0).astype(np.uint8))
    small = whole.resize((max(1, width // factor), max(1, height // factor)), _BICUBIC)
    return np.asarray(small.resize((width, height), _BICUBIC)) / 255.0


_BICUBIC = Image.Resampling.BICUBIC


# --- standard sets -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Standard:
    """A published test set, as its folder is called when downloaded."""

    name: str
    task: str
    images: int
    """How many pictures the published scores are means of."""
    folders: tuple[str, ...]
    """Its folder's name, or its parent's and its own, in lower-case letters and digits only."""
    recipes: Mapping[str, str] = field(default_factory=dict)
    """How its clean pictures are degraded, and what is added to its name then; a set without
    holds pairs."""
    has_scenes: bool = False
    """As released, it has a folder for each scene."""

    @property
    def names(self) -> list[str]:
        """What its sets are called in results and in `published`."""
        return [f"{self.name} {label}" for label in self.recipes.values()] or [self.name]


_NOISE = {f"noise{sigma}": f"sigma {sigma}" for sigma in SIGMAS}


SUITE = (
    Standard("CBSD68", "noise", 68, ("cbsd68",), _NOISE),
    Standard("Urban100", "noise", 100, ("urban100",), _NOISE),
    Standard("Kodak24", "noise", 24, ("kodak24", "kodak"), _NOISE),
    Standard("McMaster", "noise", 18, ("mcmaster",), _NOISE),
    Standard("Rain100L", "rain", 100, ("rain100l",)),
    Standard("Rain100H", "rain", 100, ("rain100h",)),
    Standard("Rain12", "rain", 12, ("rain12",)),
    Standard("SOTS-outdoor", "haze", 500, ("sotsoutdoor", "sots")),
    Standard("SOTS-indoor", "haze", 500, ("sotsindoor",)),
    Standard("GoPro", "blur", 1111, ("gopro", "goprolarge"), has_scenes=True),
    Standard("LOL", "lol", 15, ("lol", "lolv1", "loldataset")),
    Standard("MIT5K", "en", 498, ("mit5k", "fivek", "mitadobefivek")),
)
"""SOTS alone is upstream's outdoor half."""

_SPLITS = ("test", "eval15", "testing")
_CLEAN = ("originalpng", "original", "clean", "gt", "target", "hr")
_INPUTS = ("input", "inputs", "in", "lq", "rainy", "rain", "hazy", "haze", "blur", "low")
_TARGETS = ("target", "targets", "gt", "clear", "clean", "sharp", "high", "norain", "expertc")


def find_suite(root: Path) -> tuple[list[ImageSet], list[str]]:
    """The standard sets under a folder, and a line for each that is there but incomplete.

    Folders are told by their names, at most two levels down. Raises ValueError for none at all.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: found no such folder; expected one of test sets. Check it.")
    places = [root, *_folders(root), *(g for f in _folders(root) for g in _folders(f))]
    sets, notes = [], []
    for standard in SUITE:
        known = [
            place
            for name in standard.folders
            for place in places
            if name in (_plain(place.name), _plain(place.parent.name + place.name))
        ]
        for place in known:
            found = (_degraded if standard.recipes else _pairs)(standard, place)
            if found:
                sets += found
                if found[0].count != standard.images:
                    notes.append(
                        f"{standard.name}: {found[0].count} pictures of {standard.images}, so its "
                        "scores are not those of the whole set"
                    )
                break
        else:
            if known:
                notes.append(f"{standard.name}: nothing to score found in {known[0]}")
    if not sets:
        raise ValueError(
            f"{root}: found none of {', '.join(s.name for s in SUITE)}; expected at least one as a "
            "folder of that name. Check the path, or name folders with --pairs or --clean."
        )
    return sets, notes


def published_images(name: str) -> int | None:
    """How many pictures the set of this name has when complete; None for an unknown one."""
    return next((s.images for s in SUITE if name in s.names), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _child(folder: Path, names: Sequence[str]) -> Path | None:
    return next((p for n in names for p in _folders(folder) if _plain(p.name) == n), None)


def _degraded(standard: Standard, folder: Path) -> list[ImageSet]:
    holder = folder if _pictures(folder) else _child(folder, _CLEAN)
    if holder is None or not _pictures(holder):
        return []
    named = zip(standard.recipes, standard.names, strict=True)
    return [synthetic(holder, recipe, name) for recipe, name in named]


def _pairs(standard: Standard, folder: Path) -> list[ImageSet]:
    folder = _child(folder, _SPLITS) or folder
    places = [folder]
    if standard.has_scenes and _child(folder, _INPUTS) is None:
        places = _folders(folder)
    both = [(_child(p, _INPUTS), _child(p, _TARGETS)) for p in places]
    folders = [(i, t) for i, t in both if i is not None and t is not None]
    return [paired(standard.name, standard.task, folders)] if folders else []
