"""Training of the network that reads pictures: samples made once, then learned many times over.

A sample is a clean picture under no degradation, one or two, then saved and scaled as files are.
Its severities are measured: the PSNR between the picture with and without a degradation, both
saved and scaled alike (`diagnose.severity`). What needs nothing is as various as what does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..diagnose import Diagnosis, DiagnosisConfig, look, severity
from ..tasks import CLASSES, TASKS
from .imaging import (
    Pixels,
    compress,
    convolve,
    disc_kernel,
    quantize,
    resize,
    smooth_noise,
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
_BATCH = 16
_LOOKED_AT = 4
"""Crops of each sample that a step of training sees: which ones changes."""
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


def _clean(sources: Sources, rng: np.random.Generator, tasks: Sequence[str]) -> Pixels:
    """A picture that needs nothing, and that the ``tasks`` to come may befall."""
    drawn = rng.random() * (1.0 if not tasks else 4.0)
    if set(tasks) <= set(_FINE):
        if drawn < 0.05:
            return text_page(rng)
        if drawn < 0.15 and sources.graphics:
            return _cut(sources.graphics, sources.store, rng)
    bright = any(RECIPES[task].sets_brightness for task in tasks)
    picture = _cut(sources.photos, sources.store, rng)
    for _ in range(20):
        if not bright or picture.mean() >= _DARK:
            break
        picture = _cut(sources.photos, sources.store, rng)
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


# --- samples -----------------------------------------------------------------------------------


def draw_sample(
    sources: Sources, rng: np.random.Generator, count: int | None = None, task: str | None = None
) -> Sample:
    """One sample with ``count`` degradations (None: as training draws them), ``task`` the first
    drawn; the picture is new each time."""
    if count is None:
        count = int(np.searchsorted([CLEAN_SHARE, 1.0 - PAIR_SHARE], rng.random()))
    weights = np.array([_SHARES.get(name, 1.0) for name in RECIPES])
    if task is not None:
        weights *= [name != task for name in RECIPES]
    rest = count - (task is not None)
    names = [*RECIPES]
    drawn = rng.choice(names, size=rest, replace=False, p=weights / weights.sum())
    chosen = sorted([*map(str, drawn), *([task] if task else [])], key=names.index)
    stages = compose(chosen, _clean(sources, rng, chosen), rng)
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
    """What becomes of a picture on its way: scaled a little, saved as JPEG of 80 to 97, or not."""
    scale = rng.uniform(0.6, 1.1) if rng.random() < 0.25 else 1.0
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
    """Samples as the network sees them: what `Look.inputs` gives, and the severities (B, tasks).

    Views and crops are of 8 bits.
    """

    view: Tensor
    crops: Tensor
    whole: Tensor
    detail: Tensor
    severities: Tensor

    def __len__(self) -> int:
        return len(self.severities)

    def batch(self, rows: npt.NDArray[np.int64], crops: Sequence[int]) -> tuple[Tensor, ...]:
        """Inputs of the network for some rows and some of the crops, and what to answer."""
        picked = torch.from_numpy(rows)
        view, pieces = self.view[picked] / 255.0, self.crops[picked][:, crops] / 255.0
        return (
            view,
            pieces,
            self.whole[picked],
            self.detail[picked][:, crops],
            self.severities[picked],
        )


def make_lessons(
    sources: Sources,
    seed: int,
    count: int,
    config: DiagnosisConfig,
    *,
    minutes: float | None = None,
) -> Lessons:
    """``count`` samples, or as many as ``minutes`` allow for; the same for the same seed."""
    until = time.monotonic() + 60.0 * (minutes or 1e9)
    rows: list[list[Tensor]] = [[], [], [], [], []]
    for number in tqdm(range(count), desc="samples", unit="picture", mininterval=10.0):
        sample = draw_sample(sources, stream(seed, Stream.DIAGNOSES, number))
        seen = look(torch.from_numpy(sample.picture), config.view, config.crop)
        view, crops, whole, detail = (part[0] for part in seen.inputs())
        answers = torch.tensor([sample.severities[task] for task in config.tasks])
        bytes_ = [(part * 255.0).round().byte() for part in (view, crops)]
        for row, part in zip(rows, (*bytes_, whole, detail, answers), strict=True):
            row.append(part)
        if time.monotonic() > until:
            break
    return Lessons(*(torch.stack(row) for row in rows))


# --- learning ----------------------------------------------------------------------------------


def learn(
    diagnosis: Diagnosis,
    lessons: Lessons,
    seed: int,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    learning_rate: float = 2e-3,
    tell: Callable[[str], None] = tqdm.write,
) -> list[float]:
    """Train in place, for so long or so many steps, and return the loss of each.

    What is kept in the end is the running mean of the weights.
    """
    rng = stream(seed, Stream.DIAGNOSES, 0, 1)
    torch.manual_seed(seed)
    if not diagnosis.usual.any():
        diagnosis.usual.copy_(usual(lessons))
    mean = copy.deepcopy(diagnosis).requires_grad_(False)
    diagnosis.train().requires_grad_(True)
    diagnosis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(diagnosis.parameters(), learning_rate, weight_decay=0.02)
    started, losses = time.monotonic(), list[float]()
    order, place = rng.permutation(len(lessons)), 0
    while True:
        done = len(losses)
        passed = (time.monotonic() - started) / (60.0 * minutes) if minutes else 0.0
        share = done / steps if steps else passed
        if share >= 1.0:
            break
        if place + _BATCH > len(order):
            order, place = rng.permutation(len(lessons)), 0
        rows, place = order[place : place + _BATCH], place + _BATCH
        crops = sorted(rng.choice(lessons.crops.shape[1], _LOOKED_AT, replace=False).tolist())
        rate = learning_rate * min(1.0, (done + 1) / 100) * 0.5 * (1.0 + np.cos(np.pi * share))
        optimiser.param_groups[0]["lr"] = max(rate, 1e-5)
        view, pieces, whole, detail, answers = lessons.batch(rows, crops)
        if rng.random() < 0.5:
            view, pieces = view.flip(-1), pieces.flip(-1)
        with torch.autocast("cpu", torch.bfloat16):  # half the time on CPUs that know it
            logits = diagnosis(view, pieces, whole, detail)
        loss = _loss(logits.float(), answers)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(diagnosis.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        keep = min(0.998, done / (done + 10))
        with torch.no_grad():
            for old, new in zip(mean.parameters(), diagnosis.parameters(), strict=True):
                old.lerp_(new, 1.0 - keep)
        if done % 200 == 199:
            tell(f"step {done + 1}, {share:.0%}: loss {np.mean(losses[-200:]):.4f}")
    diagnosis.load_state_dict(mean.state_dict())
    diagnosis.eval().requires_grad_(False)
    return losses


def usual(lessons: Lessons) -> Tensor:
    """Mean, and logarithm of the spread, of each statistic: `Diagnosis.usual`."""
    parts = [lessons.whole, lessons.detail.flatten(0, 1)]
    means = torch.cat([part.mean(dim=0) for part in parts])
    spreads = torch.cat([part.std(dim=0) for part in parts])
    return torch.stack([means, spreads.clamp_min(1e-3).log()])


def _loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy above that of the right answer: 0 where every severity is right."""
    certain = answers.clamp(1e-6, 1.0 - 1e-6)
    least = F.binary_cross_entropy(certain, answers, reduction="none")
    return (F.binary_cross_entropy_with_logits(logits, answers, reduction="none") - least).mean()


@torch.inference_mode()
def answer(diagnosis: Diagnosis, lessons: Lessons) -> Tensor:
    """Severities as read, (B, tasks)."""
    every = range(lessons.crops.shape[1])
    read = [
        diagnosis(*lessons.batch(rows, every)[:4]).sigmoid()
        for rows in np.array_split(np.arange(len(lessons)), max(1, len(lessons) // 32))
    ]
    return torch.cat(read)


# --- calibration, and all of it in order -------------------------------------------------------


def calibrate(read: Tensor, lessons: Lessons) -> tuple[float, ...]:
    """The threshold of each task, from severities as read (B, tasks) of samples never learned.

    Each is where what is wrongly suggested of clean pictures and what is missed of plainly
    damaged ones (`PLAIN`) are least together, the former counted `_FALSE_COUNTS` times: clean
    pictures are asked about by all seven tasks at once.
    """
    clean = (lessons.severities == 0.0).all(dim=1)
    thresholds = []
    for task in range(read.shape[1]):
        calm = read[clean, task]
        wanted = read[lessons.severities[:, task] >= PLAIN, task]
        places = torch.linspace(0.05, 0.5, 91)
        false = (calm[None] >= places[:, None]).float().mean(dim=1) if len(calm) else 0.0 * places
        missed = (wanted[None] < places[:, None]).float().mean(dim=1)
        cost = _FALSE_COUNTS * false + (missed if len(wanted) else 0.0)
        # The middle of all places that are as good: nothing is known between two samples.
        best = places[cost <= cost.min() + 1e-6]
        thresholds.append(round(float(best.median()), 3))
    return tuple(thresholds)


PLAIN = severity(32.0)
"""Severity of what everybody sees: 32 dB."""
_FALSE_COUNTS = 3.0
_HELD = 0.15
"""Samples of held-out photos for each one to learn."""
_EPOCHS = 12
"""How often each sample is seen where only their number is given."""


def train_diagnosis(
    training: Sources,
    held: Sources,
    out: Path,
    *,
    seed: int = 0,
    minutes: float | None = None,
    samples: int | None = None,
) -> Path:
    """Make samples, learn them, calibrate on held-out photos and write ``out``.

    With ``minutes`` half of them make samples, at most ``samples``, and the other half learns;
    without, ``samples`` (12,000) are learned `_EPOCHS` times, which repeats exactly. Raises
    ValueError where ``out`` has another suffix.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: expected a name ending in .safetensors. Rename the output.")
    count = samples or (100_000 if minutes else 12_000)
    half = minutes / 2 if minutes else None
    config = DiagnosisConfig()
    lessons = make_lessons(training, seed, count, config, minutes=half and half * (1.0 - _HELD))
    apart = make_lessons(held, seed + 1, max(16, int(_HELD * len(lessons))), config)
    torch.manual_seed(seed)
    diagnosis = Diagnosis(config)
    steps = None if minutes else max(1, len(lessons) * _EPOCHS // _BATCH)
    losses = learn(diagnosis, lessons, seed, minutes=half, steps=steps)
    read = answer(diagnosis, apart)
    diagnosis.config = replace(config, thresholds=calibrate(read, apart))
    made = {
        "seed": seed, "samples": len(lessons), "steps": len(losses),
        "photos": len(training.photos), "graphics": len(training.graphics),
        "held_out_error": float((read - apart.severities).abs().mean()),
    }  # fmt: skip
    for name, threshold in diagnosis.thresholds.items():
        tqdm.write(f"{name:6} suggested from a severity of {threshold:.3f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        out, None, None, CLASSES, None, {"name": out.stem, "diagnosis": made}, diagnosis=diagnosis
    )
    return out
