"""Training of the judge of pictures: samples are made once, and judged for any network.

What the network changes in each sample is computed, which takes nearly all the time; then the judge
learns from that in seconds, and its thresholds are calibrated on photos that it never saw.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..diagnose import Diagnosis, Judge, JudgeConfig, fingerprint
from ..files import brief, write_atomically
from ..pipeline import Restorer
from ..tasks import CLASSES, TASKS
from .diagnosis_samples import Lessons, Sources, make_lessons
from .streams import Stream, stream

# --- learning ----------------------------------------------------------------------------------


@torch.inference_mode()
def look_at(diagnosis: Diagnosis, lessons: Lessons) -> Tensor:
    """The features of every sample, (B, F)."""
    rows = tqdm(range(len(lessons)), desc="changes", unit="picture", mininterval=10.0)
    return torch.stack([diagnosis.features(lessons.look(row)) for row in rows]).clone()


def learn(judge: Judge, features: Tensor, severities: Tensor, seed: int) -> float:
    """Train a judge in place on (B, F) and (B, tasks); returns the last loss."""
    rng, batch = stream(seed, Stream.DIAGNOSES, 0, 1), min(_BATCH, len(features))
    torch.manual_seed(seed)
    spread = features.std(dim=0, unbiased=False).clamp_min(1e-3).log()
    judge.usual.copy_(torch.stack([features.mean(dim=0), spread]))
    judge.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(judge.parameters(), _RATE, weight_decay=0.05)
    steps = max(_LEAST_STEPS, _EPOCHS * len(features) // batch)
    loss = torch.zeros(())
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = _RATE * 0.5 * (1.0 + np.cos(np.pi * step / steps))
        rows = torch.from_numpy(rng.integers(len(features), size=batch))
        jitter = torch.randn(batch, features.shape[1]) * judge.usual[1].exp() * _JITTER
        loss = _loss(judge(features[rows] + jitter), severities[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    judge.eval().requires_grad_(False)
    return float(loss.detach())


_BATCH, _RATE, _EPOCHS, _LEAST_STEPS = 128, 3e-3, 100, 300
_JITTER = 0.1
"""Noise on what is judged, in units of its spread: no value is learned by heart."""


def _loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy to a measured severity, above the least that it can be."""
    least = F.binary_cross_entropy(answers, answers, reduction="none")
    return (F.binary_cross_entropy_with_logits(logits, answers, reduction="none") - least).mean()


def calibrate(config: JudgeConfig, read: Tensor, severities: Tensor) -> JudgeConfig:
    """The limits of each task, from severities as read and as measured, both (B, tasks), of samples
    never learned: its threshold by `_spend`, and as absent what `_MISSED` of those that show it, if
    only a little, lie below."""
    clean = read[(severities == 0.0).all(dim=1)].double().numpy()
    shown = [found[true >= SHOWN] for found, true in zip(read.T, severities.T, strict=True)]
    found = [one.sort().values.double().numpy() for one in shown]
    thresholds = _spend(clean, found) if len(clean) else [0.3] * len(found)
    absent = [
        float(np.quantile(one, _MISSED)) if len(one) else limit / 2
        for one, limit in zip(found, thresholds, strict=True)
    ]
    least = [round(min(pair), 3) for pair in zip(absent, thresholds, strict=True)]
    return replace(config, thresholds=tuple(thresholds), absent=tuple(least))


def _spend(clean: Values, shown: Sequence[Values]) -> list[float]:
    """Thresholds that `_FALSE` of the clean pictures reach by any of them, spent on those tasks of
    which each such picture gains the most.

    ``clean`` are severities as read (B, tasks); ``shown``, sorted, of what shows each task.
    """
    limits = [min(max(float(values.max()) + 0.001, LEAST), 0.9) for values in clean.T]
    passed = (clean >= limits).any(axis=1)
    budget = _FALSE * len(clean)
    while True:
        best, choice = 0.0, None
        for task, values in enumerate(clean.T):
            below = np.unique(values[(values < limits[task]) & (values >= LEAST)])[::-1][:_AHEAD]
            # Just above the next lower picture, or as low as a threshold may be.
            for lower in [*below[1:] + 0.001, LEAST]:
                cost = int(((values >= lower) & ~passed).sum())
                reach = np.searchsorted(shown[task], [lower, limits[task]])
                gain = float(reach[1] - reach[0]) / max(1, len(shown[task])) / (cost + 0.1)
                if lower < limits[task] and passed.sum() + cost <= budget and gain > best:
                    best, choice = gain, (task, float(lower))
        if choice is None:
            return [round(limit, 3) for limit in limits]
        limits[choice[0]] = choice[1]
        passed |= clean[:, choice[0]] >= choice[1]


Values = npt.NDArray[np.float64]
LEAST = 0.1
"""What a threshold is at least: 37.5 dB."""
_AHEAD = 20
"""So many clean pictures are looked past for a gain."""
_FALSE, _MISSED = 0.15, 0.03
SHOWN = 0.2
"""Severity from which on a picture shows something: 35 dB."""

# --- all of it in order ------------------------------------------------------------------------

_HELD = 0.3
"""Samples of held-out photos for each one to learn."""


def train_diagnosis(
    training: Sources,
    held: Sources,
    restorer: Restorer,
    out: Path,
    *,
    seed: int = 0,
    samples: int = 3000,
    store: Path | None = None,
) -> Path:
    """Make samples, see what the network changes in them, learn, calibrate and write ``out``.

    ``store`` is a file of samples that is read where it is there, and made where it is not: of an
    other network the changes alone are computed anew. Raises ValueError where ``out`` has another
    suffix, the model has no reader, or the store is none.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: expected a name ending in .safetensors. Rename the output.")
    network = restorer.network
    config = JudgeConfig(
        embedding_width=network.config.embedding_width, network=fingerprint(network)
    )
    torch.manual_seed(seed)
    judge = Judge(config)
    asked = [restorer.encode(TASKS[task].prompt).embedding for task in config.tasks]
    judge.sentences.copy_(torch.cat(asked))
    if store is not None and store.exists():
        lessons, apart = read_lessons(store)
    else:
        lessons = make_lessons(training, seed, samples)
        apart = make_lessons(held, seed + 1, max(16, int(_HELD * samples)), guises=False)
        if store is not None:
            write_lessons(store, lessons, apart)
    diagnosis = Diagnosis(judge, network)
    loss = learn(judge, look_at(diagnosis, lessons), lessons.severities, seed)
    with torch.inference_mode():
        read = judge(look_at(diagnosis, apart)).sigmoid()
    judge.config = calibrate(config, read, apart.severities)
    made = {
        "seed": seed, "samples": len(lessons), "loss": loss, "model": restorer.name,
        "photos": len(training.photos), "graphics": len(training.graphics),
        "held_out_error": float((read - apart.severities).abs().mean()),
    }  # fmt: skip
    for name, threshold in diagnosis.thresholds.items():
        tqdm.write(f"{name:6} suggested from a severity of {threshold:.3f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        out, None, None, CLASSES, None, {"name": out.stem, "diagnosis": made}, diagnosis=judge
    )
    return out


_PARTS = ("view", "crops", "severities")


def write_lessons(path: Path, lessons: Lessons, apart: Lessons) -> None:
    """Keep samples to learn from and to calibrate on in one ``.safetensors``."""
    tensors = {
        f"{name}.{part}": getattr(kept, part)
        for name, kept in (("learn", lessons), ("apart", apart))
        for part in _PARTS
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        path, serialize(tensors, {"samples": "diagnosis", "tasks": json.dumps([*TASKS])})
    )


def read_lessons(path: Path) -> tuple[Lessons, Lessons]:
    """The opposite. Raises ValueError for other files, and samples of other tasks."""
    try:
        with safe_open(path, "pt") as file:
            tasks = json.loads((file.metadata() or {}).get("tasks", "[]"))
            found = [
                Lessons(*(file.get_tensor(f"{name}.{part}") for part in _PARTS))
                for name in ("learn", "apart")
            ]
    except (OSError, SafetensorError, ValueError) as exc:
        raise ValueError(
            f"{path}: found no samples ({brief(exc)}); expected those of an earlier "
            "train-diagnosis. Name another file, which is made if it is not there."
        ) from exc
    if tasks != [*TASKS]:
        raise ValueError(
            f"{path}: found samples of {brief(tasks, 100)}; expected {', '.join(TASKS)}. Name "
            "another file, which is made anew."
        )
    return found[0], found[1]
