"""Training from a folder of clean photos: sentence encoder first, then network and head together.

Loss and optimiser follow the paper (section 4.1): L1 on the picture plus cross-entropy on the
task, weighted 1:1, AdamW, cosine decay. Every sample is steered by a sentence drawn from the
corpus, never by a task number.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import checkpoint
from ..model import InstructIR, NetworkConfig
from ..text import HashedEncoder, InstructionHead
from .dataset import Batches, Photo, load_photos, split_photos
from .degradations import TASKS
from .instructions import CLASSES, Sentence, load_corpus, vary
from .sentences import refit_classes, train_sentences

log = logging.getLogger(__name__)

MINI = NetworkConfig(16, (1, 1, 2, 2), 2, (1, 1, 1, 1))
"""The bundled model's network, 2.2 M parameters."""


@dataclass(frozen=True)
class TrainingConfig:
    """What a run needs to be repeated; stored in the weights' metadata."""

    steps: int | None = None
    """Length in steps, or None to train for `minutes`; only the former repeats exactly."""
    minutes: float = 100.0
    seed: int = 0
    stages: tuple[tuple[float, int, int], ...] = ((0.0, 64, 32), (0.55, 128, 8))
    """(share of the run at which it starts, crop size, batch size): small crops first are fast,
    large ones at the end show blur and haze whole."""
    learning_rate: float = 2e-3
    ema: float = 0.999
    sentence_steps: int = 3000
    network: NetworkConfig = MINI
    every: int = 250
    """Steps between saves."""


@dataclass
class Progress:
    """How far a run has come, by steps or by the clock."""

    config: TrainingConfig
    step: int = 0
    seconds: float = 0.0

    @property
    def share(self) -> float:
        if self.config.steps is not None:
            return min(1.0, self.step / self.config.steps)
        return min(1.0, self.seconds / (60.0 * self.config.minutes))

    @property
    def stage(self) -> int:
        return sum(self.share >= start for start, _, _ in self.config.stages) - 1


def sentence_bank(
    encoder: HashedEncoder, corpus: Sequence[Sentence], seed: int, copies: int = 4
) -> dict[str, Tensor]:
    """Vectors of the corpus as different people type it, per class: (N, width) each."""
    rng = np.random.default_rng((seed, 4))
    bank = {}
    for task in CLASSES:
        texts = [s.text for s in corpus if s.task == task]
        texts += [vary(t, rng) for t in texts for _ in range(copies - 1)]
        # Cloned, because the encoder's result belongs to inference mode.
        bank[task] = torch.cat([encoder.encode(texts[i : i + 512]) for i in
                                range(0, len(texts), 512)]).clone()  # fmt: skip
    return bank


def train(
    photos_folder: Path,
    out: Path,
    config: TrainingConfig,
    skip: Sequence[str] = (),
    teacher: Path | None = None,
    excluded: Sequence[str] = (),
    device: str | None = None,
    workers: int = 1,
) -> Path:
    """Train, resuming what ``out`` holds, and return the written ``out/model.safetensors``.

    ``excluded`` sentences (a test set) never enter the corpus. Raises ``ValueError`` when the
    folder has no photos, or ``out`` holds a run of another config.
    """
    out.mkdir(parents=True, exist_ok=True)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    training, held = split_photos(load_photos(photos_folder, skip))
    corpus = load_corpus(config.seed, excluded=excluded)
    log.info("%d photos, %d held out, %d sentences", len(training), len(held), len(corpus))

    encoder, head = _sentences(out / "sentences.safetensors", corpus, config, teacher)
    bank = sentence_bank(encoder, corpus, config.seed)
    torch.manual_seed(config.seed)
    run = Run(config, head, target)
    state = out / "state.pt"
    if state.exists():
        run.load(state)

    bar = tqdm(total=config.steps, initial=run.progress.step, desc="network")
    while run.progress.share < 1.0:
        stage = run.progress.stage
        _, size, batch = config.stages[stage]
        last = config.steps or 10**9
        data = Batches(training, bank, size, batch, config.seed, last)
        for samples in _batches(data, run.progress.step, last, workers):
            loss, intent = run.step(samples)
            bar.update()
            if run.progress.step % 25 == 0:
                bar.set_postfix(L1=f"{loss:.4f}", CE=f"{intent:.3f}", size=size)
            done = run.progress.share >= 1.0
            if run.progress.step % config.every == 0 or done:
                run.save(state)
            if run.progress.step % (8 * config.every) == 0 or done:
                _report(run, held, bank, config.seed, out, bar)
            if done or run.progress.stage != stage:
                break
    bar.close()
    path = out / "model.safetensors"
    provenance = {
        "name": "mini",
        "training": asdict(config),
        "steps": run.progress.step,
        "minutes": round(run.progress.seconds / 60, 1),
        "photos": len(training),
        "sentences": len(corpus),
        "device": target.type,
    }
    head = _copy_head(run.ema_head).cpu()
    refit_classes(encoder, head, corpus, config.seed)
    checkpoint.save(path, run.ema_network, head, CLASSES, encoder, provenance)
    return path


def _sentences(
    path: Path, corpus: Sequence[Sentence], config: TrainingConfig, teacher: Path | None
) -> tuple[HashedEncoder, InstructionHead]:
    if not path.exists():
        encoder, head = train_sentences(
            corpus, config.seed, config.sentence_steps, teacher=teacher,
            embedding_width=config.network.embedding_width,
        )  # fmt: skip
        checkpoint.save(path, None, head, CLASSES, encoder, {"stage": "sentences"}, torch.float32)
    loaded = checkpoint.load(path)
    assert isinstance(loaded.text_encoder, HashedEncoder) and loaded.head is not None
    return loaded.text_encoder, loaded.head


def _batches(data: Batches, first: int, last: int, workers: int) -> Iterator[tuple[Tensor, ...]]:
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )
    yield from loader


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


class Run:
    """Network, head, their averages, optimiser and progress: all that a resumed run needs."""

    def __init__(self, config: TrainingConfig, head: InstructionHead, device: torch.device) -> None:
        self.config, self.device = config, device
        self.progress = Progress(config)
        self.network = InstructIR(config.network)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = _copy_head(head).to(device)
        self.ema_network = InstructIR(config.network).to(device).requires_grad_(False)
        self.ema_network.load_state_dict(self.network.state_dict())
        self.ema_head = _copy_head(head).to(device).requires_grad_(False)
        self.parameters: list[Tensor] = [*self.network.parameters(), *self.head.parameters()]
        self.averages: list[Tensor] = [*self.ema_network.parameters(), *self.ema_head.parameters()]
        # The paper's betas are not stated; (0.9, 0.9) is NAFNet's.
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.network.parameters()), "lr": config.learning_rate},
                {"params": list(self.head.parameters()), "lr": config.learning_rate / 10},
            ],
            betas=(0.9, 0.9),
            weight_decay=1e-4,
        )
        for group in self.optimizer.param_groups:
            group["peak"] = group["lr"]

    def step(self, samples: Sequence[Tensor]) -> tuple[float, float]:
        """One optimiser step; returns the two losses."""
        started = time.monotonic()
        self.network.train()
        degraded, clean, vectors, classes = (s.to(self.device) for s in samples)
        degraded = degraded.contiguous(memory_format=torch.channels_last)
        decay = 0.5 * (1.0 + math.cos(math.pi * self.progress.share))
        warm = min(1.0, (self.progress.step + 1) / 200)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * max(1e-3, decay) * warm
        embedding, logits = self.head(vectors)
        with torch.autocast(self.device.type, torch.bfloat16):
            restored = self.network(degraded, embedding)
        l1 = F.l1_loss(restored.float(), clean)
        intent = F.cross_entropy(logits, classes)
        self.optimizer.zero_grad(set_to_none=True)
        (l1 + intent).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        # Early weights are worth nothing: the average opens its window as it goes.
        keep = min(self.config.ema, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1.0 - keep)
        self.progress.step += 1
        self.progress.seconds += time.monotonic() - started
        return float(l1.detach()), float(intent.detach())

    def save(self, path: Path) -> None:
        """Write the state whole or not at all."""
        temporary = path.with_suffix(".tmp")
        torch.save(
            {
                "config": asdict(self.config),
                "step": self.progress.step,
                "seconds": self.progress.seconds,
                **{name: part.state_dict() for name, part in self._parts().items()},
            },
            temporary,
        )
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Continue a saved run; raises ``ValueError`` when it was of another config."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["config"] != asdict(self.config):
            raise ValueError(
                f"{path}: found a run with the settings {state['config']}, expected "
                f"{asdict(self.config)}. Repeat its settings, or choose another output folder."
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.progress.step, self.progress.seconds = state["step"], state["seconds"]

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "head": self.head,
            "ema_network": self.ema_network,
            "ema_head": self.ema_head,
            "optimizer": self.optimizer,
        }


def _copy_head(head: InstructionHead) -> InstructionHead:
    copy = InstructionHead(head.fc1.in_features, head.fc1.out_features, head.fc2.out_features)
    copy.load_state_dict(head.state_dict())
    return copy


@torch.no_grad()
def _report(
    run: Run, held: Sequence[Photo], bank: dict[str, Tensor], seed: int, out: Path, bar: tqdm[Any]
) -> None:
    """PSNR on held-out photos per task, and a sheet: input, result, target of each."""
    rows, lines = [], []
    for number, (task, degrade) in enumerate(TASKS.items()):
        before, after = [], []
        for index, photo in enumerate(held[:6]):
            rng = np.random.default_rng((seed, 5, number, index))
            pixels = photo.scales[1]
            y, x = (max(0, n - 192) // 2 for n in pixels.shape[:2])
            clean = pixels[y : y + 192, x : x + 192].astype(np.float32) / np.float32(255)
            degraded = degrade(clean, rng)
            vector = bank[task][int(rng.integers(len(bank[task])))][None].to(run.device)
            batch = torch.from_numpy(degraded).permute(2, 0, 1)[None].to(run.device)
            restored = run.ema_network(batch, run.ema_head(vector)[0])[0].permute(1, 2, 0)
            result = restored.clamp(0, 1).cpu().numpy()
            before.append(-10 * np.log10(np.mean((degraded - clean) ** 2) + 1e-12))
            after.append(-10 * np.log10(np.mean((result - clean) ** 2) + 1e-12))
            if index == number % 6:
                rows.append(np.concatenate([degraded, result, clean], axis=1))
        lines.append(f"{task} {np.mean(before):.2f}->{np.mean(after):.2f}")
    width = max(r.shape[1] for r in rows)
    rows = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in rows]
    sheet = np.concatenate(rows, axis=0)
    Image.fromarray(np.rint(sheet * 255).astype(np.uint8)).save(out / "samples.jpg", quality=90)
    text = f"step {run.progress.step}, {run.progress.seconds / 60:.1f} min: " + ", ".join(lines)
    bar.write(text)
    with (out / "log.txt").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
