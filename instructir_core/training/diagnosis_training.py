"""Training of the network that reads pictures: samples are made once and learned many times over.

First all of it learns, then the judge once more, by itself, on what the towers see by then.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..diagnose import Diagnosis, DiagnosisConfig
from ..tasks import CLASSES
from .diagnosis_samples import Lessons, Sources, make_lessons
from .streams import Stream, stream

_BATCH = 16
_LOOKED_AT = 4
"""Crops of each sample that a step of training sees: which ones changes."""

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
        diagnosis.usual.copy_(_usual(seen(diagnosis, lessons)))
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
        view, pieces, whole, detail, answers = _turned(lessons.batch(rows, crops), rng)
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


def _turned(batch: tuple[Tensor, ...], rng: np.random.Generator) -> tuple[Tensor, ...]:
    """The same pictures mirrored, their crops upside down, or with colours that changed places:
    few photos look like many, and no statistic but the mean colour, which comes last, changes."""
    view, crops, whole, detail, answers = batch
    if rng.random() < 0.5:
        view, crops = view.flip(-1), crops.flip(-1)
    if rng.random() < 0.5:
        crops = crops.flip(-2)
    if rng.random() < 0.5:
        order = rng.permutation(3).tolist()
        view, crops = view[:, order], crops[:, :, order]
        whole = torch.cat([whole[:, :-3], whole[:, -3:][:, order]], dim=1)
    return view, crops, whole, detail, answers


def refit(diagnosis: Diagnosis, lessons: Lessons, seed: int, *, epochs: int = 60) -> None:
    """Train the judge anew, in place, on the features of all crops as the towers give them."""
    features = torch.cat([seen(diagnosis, lessons, mirrored=m) for m in (False, True)])
    answers = lessons.severities.repeat(2, 1)
    rng, batch = stream(seed, Stream.DIAGNOSES, 0, 2), min(_JUDGED, len(features))
    torch.manual_seed(seed)
    diagnosis.usual.copy_(_usual(features))
    judge = diagnosis.judge.train().requires_grad_(True)
    for layer in judge:
        if isinstance(layer, torch.nn.Linear):
            layer.reset_parameters()
    optimiser = torch.optim.AdamW(judge.parameters(), 1e-3, weight_decay=0.05)
    steps = epochs * max(1, len(features) // batch)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-3 * 0.5 * (1.0 + np.cos(np.pi * step / steps))
        rows = torch.from_numpy(rng.integers(len(features), size=batch))
        loss = _loss(diagnosis.judged(features[rows]), answers[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    diagnosis.eval().requires_grad_(False)


_JUDGED = 256
"""Samples in a step of `refit`, which costs little."""


@torch.inference_mode()
def seen(diagnosis: Diagnosis, lessons: Lessons, *, mirrored: bool = False) -> Tensor:
    """The features of every sample, by all of its crops, (B, F)."""
    every = range(lessons.crops.shape[1])
    found = []
    for rows in np.array_split(np.arange(len(lessons)), max(1, len(lessons) // 32)):
        view, crops, whole, detail, _ = lessons.batch(rows, every)
        if mirrored:
            view, crops = view.flip(-1), crops.flip(-1)
        found.append(diagnosis.features(view, crops, whole, detail))
    return torch.cat(found).clone()


def _usual(features: Tensor) -> Tensor:
    """Mean, and logarithm of the spread, of each feature: `Diagnosis.usual`."""
    spread = features.std(dim=0, unbiased=False)
    return torch.stack([features.mean(dim=0), spread.clamp_min(1e-3).log()])


def _loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy above that of the right answer: 0 where every severity is right."""
    certain = answers.clamp(1e-6, 1.0 - 1e-6)
    least = F.binary_cross_entropy(certain, answers, reduction="none")
    return (F.binary_cross_entropy_with_logits(logits, answers, reduction="none") - least).mean()


@torch.inference_mode()
def answer(diagnosis: Diagnosis, lessons: Lessons) -> Tensor:
    """Severities as read, (B, tasks)."""
    return diagnosis.judged(seen(diagnosis, lessons)).sigmoid()


# --- calibration, and all of it in order -------------------------------------------------------


def calibrate(read: Tensor, lessons: Lessons) -> tuple[float, ...]:
    """The threshold of each task, from severities as read (B, tasks) of samples never learned:
    `_FALSE` of the clean pictures lie above it, which seven tasks ask about at once."""
    clean = read[(lessons.severities == 0.0).all(dim=1)]
    if not len(clean):
        return (0.3,) * read.shape[1]
    reached = clean.quantile(1.0 - _FALSE, dim=0).clamp(0.05, 0.9)
    return tuple(round(float(value) + 0.001, 3) for value in reached)


_FALSE = 0.03
"""Share of clean pictures about which one task may be wrong."""
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
    refit(diagnosis, lessons, seed)
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
