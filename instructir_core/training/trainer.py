"""Training network and instruction head together, on one device or on many.

Loss and optimiser follow the paper (section 4.1): L1 on the picture plus cross-entropy on the
task, weighted 1:1, AdamW, cosine decay. Every sample is steered by a sentence drawn from the
corpus, never by a task number. Devices, processes and mixed precision are Accelerate's.
"""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import checkpoint
from ..evaluation.metrics import psnr
from ..files import write_atomically
from ..model import InstructIR, NetworkConfig
from ..tasks import CLASSES, NO_TASK, OFFICIAL_TASKS
from ..text import HashedEncoder, InstructionHead, TextEncoder
from .corpus import SPLITS, Sentence, load_corpus, vary
from .samples import Batches, Pictures, Source, draw_pair
from .sentence_training import encode_all, refit_classes, train_sentences

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingConfig:
    """What a run needs to be repeated; stored in the weights' metadata."""

    shares: Mapping[str, float]
    """Share of the samples per task, and of `NO_TASK`; they need not sum to 1."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    steps: int | None = 155_000
    """Length in steps, or None to train for `minutes`; only the former repeats exactly."""
    minutes: float = 0.0
    stages: tuple[tuple[float, int, int], ...] = ((0.0, 256, 32),)
    """(share of the run at which it starts, crop size, batch size over all processes)."""
    learning_rate: float = 5e-4
    ema: float = 0.999
    weight_decay: float = 1e-4
    precision: str = "bf16"
    """``no`` (fp32), ``bf16`` or ``fp16``, as Accelerate names them."""
    text: bool = True
    """False: one learned steering for all, the ablation without text on the same backbone."""
    sentence_steps: int = 3000
    """Length of the sentence encoder's own training; 0 keeps that of the weights started from."""
    splits: tuple[str, ...] = ("train",)
    """Parts of the instruction corpus to train on."""
    sentences: int = 4000
    """Sentences drawn per class, once for the run."""
    seed: int = 0
    every: int = 1000
    """Steps between saves."""


MINI_NETWORK = NetworkConfig(16, (1, 1, 2, 2), 2, (1, 1, 1, 1))
"""The bundled model's network, 2.2 M parameters."""

# Shares, weight decay and warm-up are not published. 155,000 steps are 500 passes over the pairs
# of the published 7D mix. Equal shares, because what is published is an average over tasks.
PRESETS: dict[str, TrainingConfig] = {
    "3d": TrainingConfig(dict.fromkeys(("noise", "rain", "haze"), 1.0)),
    "5d": TrainingConfig(dict.fromkeys(("noise", "rain", "haze", "blur", "lol"), 1.0)),
    "6d": TrainingConfig(
        dict.fromkeys(("noise", "rain", "haze", "blur", "lol", "sr"), 1.0),
        steps=30_000,
        learning_rate=1e-4,
    ),
    "7d": TrainingConfig(dict.fromkeys(OFFICIAL_TASKS, 1.0)),
    "mini": TrainingConfig(
        # The tasks whose error falls slowest get the most.
        {
            "noise": 0.36, "blur": 0.14, "rain": 0.10, "haze": 0.08, "lol": 0.07, "sr": 0.13,
            "en": 0.06, NO_TASK: 0.06,
        },
        network=MINI_NETWORK,
        steps=None,
        minutes=120.0,
        # Small crops first are fast, large ones at the end show blur and haze whole.
        stages=((0.0, 96, 16), (0.6, 160, 6)),
        learning_rate=2e-3,
        splits=SPLITS,  # its reading is measured on sentences that are not of the corpus
        every=250,
    ),
}  # fmt: skip
"""The paper's models (section 4.2; 6D continues 5D, so it wants ``init``) and the bundled one."""


class Steered(nn.Module):
    """Network and head as one module, so that one wrapper serves both on many devices."""

    def __init__(self, network: InstructIR, head: InstructionHead | None) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, degraded: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) and sentence vectors (B, W) -> restored (B, 3, H, W), logits or None."""
        if self.head is None:
            width = self.network.config.embedding_width
            return self.network(degraded, degraded.new_zeros(len(degraded), width)), None
        # The head is tiny, and its cross-entropy wants all the digits.
        with torch.autocast(degraded.device.type, enabled=False):
            embedding, logits = self.head(vectors)
        return self.network(degraded, embedding), logits


def sentence_bank(
    encoder: TextEncoder, corpus: Sequence[Sentence], seed: int, count: int = 4000
) -> dict[str, Tensor]:
    """Vectors of ``count`` sentences per class, as different people type them: (count, W) each."""
    rng = np.random.default_rng((seed, 4))
    bank = {}
    for task in sorted({s.task for s in corpus}):
        known = [s.text for s in corpus if s.task == task]
        texts = [known[i] for i in rng.permutation(len(known))[:count]]
        while len(texts) < count:
            texts.append(vary(known[int(rng.integers(len(known)))], rng))
        bank[task] = encode_all(encoder, texts)
    return bank


def train(
    sources: Mapping[str, Source],
    held: Mapping[str, Source],
    out: Path,
    config: TrainingConfig,
    init: checkpoint.Checkpoint | None = None,
    text_encoder: TextEncoder | None = None,
    teacher: Path | None = None,
    excluded: Sequence[str] = (),
    device: str | None = None,
    workers: int = 1,
) -> Path:
    """Train, resuming what ``out`` holds, and return the written ``out/model.safetensors``.

    ``sources`` and ``held`` are what to train on and to report scores of, per task. ``init``
    gives weights to start from; ``text_encoder`` a frozen encoder, else our own small one is
    trained first, with ``teacher`` (a folder of a BERT-like encoder) to learn from. ``excluded``
    sentences (a test set) never enter the corpus. Under `accelerate launch` or torchrun every
    process calls this alike. Raises ``ValueError`` when a task has no source, or ``out`` holds a
    run of another config.
    """
    lacking = [t for t in config.shares if t != NO_TASK and t not in sources]
    if lacking:
        raise ValueError(
            f"Found no training pictures for {', '.join(lacking)}; expected a data set for each "
            "task of the preset. Add the data sets, or clean photos to degrade."
        )
    accelerator = Accelerator(
        mixed_precision=config.precision,
        cpu=device == "cpu",
        log_with="tensorboard",
        project_dir=out,
        # The first process trains the sentence encoder while the others wait.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=3))],
    )
    world = accelerator.num_processes
    uneven = [batch for _, _, batch in config.stages if batch % world]
    if uneven:
        raise ValueError(
            f"Found a batch of {uneven[0]} for {world} processes; expected a multiple, so that "
            "every process weighs the same. Change the number of processes."
        )
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    classes, encoder, head, bank = _text(
        accelerator, out, config, init, text_encoder, teacher, excluded
    )
    network = InstructIR(config.network)
    if init is not None and init.network is not None:
        if init.network.config != config.network:
            raise ValueError(
                f"{init.name}: found {init.network.config}; expected {config.network}, as the "
                "preset says. Choose the preset the weights were made with."
            )
        network.load_state_dict(init.network.state_dict())
    run = Run(config, network, head, accelerator)
    state = out / "state.pt"
    if state.exists():
        run.load(state)
    if accelerator.is_main_process:
        accelerator.init_trackers("tensorboard")

    bar = tqdm(
        total=config.steps, initial=run.done, desc="network",
        disable=not accelerator.is_main_process,
    )  # fmt: skip
    while run.share < 1.0:
        stage = run.stage
        _, size, batch = config.stages[stage]
        data = Batches(
            sources, config.shares, classes, bank, size, batch, config.seed,
            accelerator.process_index, world,
        )  # fmt: skip
        for samples in _batches(data, run.done, config.steps or 10**9, workers):
            losses = run.step(samples)
            bar.update()
            if run.done % 25 == 0:
                values = {name: float(value) for name, value in losses.items()}
                bar.set_postfix({k: f"{v:.4f}" for k, v in values.items()} | {"size": size})
                accelerator.log({**values, "learning_rate": run.rate}, step=run.done)
            finished = run.share >= 1.0
            if run.done % config.every == 0 or finished:
                run.save(state)
            if run.done % (8 * config.every) == 0 or finished:
                _report(run, held, bank, out, bar)
            if finished or run.stage != stage:
                break
    bar.close()
    path = out / "model.safetensors"
    if accelerator.is_main_process:
        _write(path, run, config, classes, encoder, init, excluded)
        print(f"{path}\nShip it with: instructir models convert --half {path} NAME.safetensors")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return path


def _write(
    path: Path,
    run: Run,
    config: TrainingConfig,
    classes: Sequence[str],
    encoder: TextEncoder | None,
    init: checkpoint.Checkpoint | None,
    excluded: Sequence[str],
) -> None:
    network, head = run.average.network.cpu(), run.average.head
    own = encoder if isinstance(encoder, HashedEncoder) else None
    if head is not None:
        head = head.cpu()
        if own is not None and tuple(classes) == CLASSES:
            refit_classes(
                own, head, _corpus(config, excluded), config.seed, examples=16 * config.sentences
            )
    provenance = {
        "name": path.parent.name,
        "training": asdict(config),
        "steps": run.done,
        "minutes": round(run.seconds / 60, 1),
        "init": init.name if init is not None else None,
        "processes": run.accelerator.num_processes,
        "device": run.accelerator.device.type,
    }
    checkpoint.save(path, network, head, classes, own, provenance)


def _corpus(config: TrainingConfig, excluded: Sequence[str]) -> list[Sentence]:
    whole = load_corpus(config.seed, excluded=excluded)
    return [s for s in whole if s.split in config.splits]


def _text(
    accelerator: Accelerator,
    out: Path,
    config: TrainingConfig,
    init: checkpoint.Checkpoint | None,
    text_encoder: TextEncoder | None,
    teacher: Path | None,
    excluded: Sequence[str],
) -> tuple[Sequence[str], TextEncoder | None, InstructionHead | None, dict[str, Tensor]]:
    """Class names, encoder, head to start from, and the vectors of the corpus' sentences."""
    if not config.text:
        return CLASSES, None, None, {task: torch.zeros(1, 1) for task in CLASSES}
    corpus = _corpus(config, excluded)
    head = init.head if init is not None else None
    classes: Sequence[str] = init.tasks if init is not None and head is not None else CLASSES
    unknown = [t for t in config.shares if t not in classes]
    if unknown:
        raise ValueError(
            f"Found a head of the classes {', '.join(classes)}; expected one that knows "
            f"{', '.join(unknown)}. Choose other weights to start from, or another preset."
        )
    encoder = text_encoder
    if encoder is None:
        path = out / "sentences.safetensors"
        if accelerator.is_main_process and not path.exists():
            start = None
            if init is not None and isinstance(init.text_encoder, HashedEncoder) and head:
                start = init.text_encoder, head
            if start is not None and config.sentence_steps == 0:
                small, head = start
            else:
                small, head = train_sentences(
                    corpus, config.seed, config.sentence_steps, teacher=teacher,
                    embedding_width=config.network.embedding_width, start=start,
                )  # fmt: skip
            checkpoint.save(path, None, head, classes, small, {"stage": "sentences"}, torch.float32)
        accelerator.wait_for_everyone()
        loaded = checkpoint.load(path)
        encoder, head = loaded.text_encoder, loaded.head
        assert encoder is not None
    if head is None:
        head = InstructionHead(encoder.width, config.network.embedding_width, len(classes))
    elif head.fc1.in_features != encoder.width:
        raise ValueError(
            f"Found a head for sentence vectors of {head.fc1.in_features} values and an encoder "
            f"of {encoder.width}; expected the encoder the head was trained with. Name it."
        )
    return classes, encoder, head, sentence_bank(encoder, corpus, config.seed, config.sentences)


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

    def __init__(
        self,
        config: TrainingConfig,
        network: InstructIR,
        head: InstructionHead | None,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.done, self.seconds, self.rate = 0, 0.0, 0.0
        self.model = Steered(network, head).train().requires_grad_(True)
        self.average = Steered(
            InstructIR(config.network), _copy_head(head) if head is not None else None
        )
        self.average.load_state_dict(self.model.state_dict())
        self.average.to(accelerator.device).requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = [{"params": list(network.parameters()), "lr": config.learning_rate}]
        if head is not None:
            groups.append({"params": list(head.parameters()), "lr": config.learning_rate / 10})
        # The paper's betas are not stated; (0.9, 0.9) is NAFNet's.
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.9), weight_decay=config.weight_decay)
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        self.wrapped, self.optimizer = accelerator.prepare(self.model, optimizer)

    @property
    def share(self) -> float:
        """How far the run has come, 0 to 1, by steps or by the clock."""
        if self.config.steps is not None:
            return min(1.0, self.done / self.config.steps)
        return min(1.0, self.seconds / (60.0 * self.config.minutes))

    @property
    def stage(self) -> int:
        """Which of the config's stages the run is in."""
        return sum(self.share >= start for start, _, _ in self.config.stages) - 1

    def step(self, samples: Sequence[Tensor]) -> dict[str, Tensor]:
        """One optimiser step; returns this process's losses."""
        started = time.monotonic()
        device = self.accelerator.device
        degraded, clean, vectors, classes = (s.to(device, non_blocking=True) for s in samples)
        degraded = degraded.contiguous(memory_format=torch.channels_last)
        decay = 0.5 * (1.0 + math.cos(math.pi * self.share))
        factor = max(1e-3, decay) * min(1.0, (self.done + 1) / 200)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.rate = self.config.learning_rate * factor
        restored, logits = self.wrapped(degraded, vectors)
        losses = {"L1": F.l1_loss(restored.float(), clean)}
        if logits is not None:
            losses["CE"] = F.cross_entropy(logits.float(), classes)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(torch.stack(list(losses.values())).sum())
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        # Early weights are worth nothing: the average opens its window as it goes.
        keep = min(self.config.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            averages, current = self.average.parameters(), self.model.parameters()
            torch._foreach_lerp_(list(averages), list(current), 1.0 - keep)
        self.done += 1
        self.seconds += time.monotonic() - started
        if self.config.steps is None and self.accelerator.num_processes > 1:
            # Clocks differ, and every process must take the same number of steps.
            self.seconds = float(broadcast(torch.tensor(self.seconds, device=device)))
        return {name: loss.detach() for name, loss in losses.items()}

    def save(self, path: Path) -> None:
        """Write the state whole or not at all; by the first process alone."""
        if not self.accelerator.is_main_process:
            return
        content = io.BytesIO()
        torch.save(
            {
                "config": asdict(self.config),
                "done": self.done,
                "seconds": self.seconds,
                **{name: part.state_dict() for name, part in self._parts().items()},
            },
            content,
        )
        write_atomically(path, content.getvalue())

    def load(self, path: Path) -> None:
        """Continue a saved run; raises ``ValueError`` when it was of another config."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["config"] != asdict(self.config):
            raise ValueError(
                f"{path}: found a run with the settings {state['config']}, expected "
                f"{asdict(self.config)}. Repeat its settings, or choose another output folder."
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.done, self.seconds = state["done"], state["seconds"]

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        scaler = self.accelerator.scaler
        return parts if scaler is None else {**parts, "scaler": scaler}


def _copy_head(head: InstructionHead) -> InstructionHead:
    copy = InstructionHead(head.fc1.in_features, head.fc1.out_features, head.fc2.out_features)
    copy.load_state_dict(head.state_dict())
    return copy


@torch.no_grad()
def _report(
    run: Run, held: Mapping[str, Source], bank: Mapping[str, Tensor], out: Path, bar: tqdm[Any]
) -> None:
    """PSNR on held-out pictures per task, and a sheet: input, result, target of each."""
    if not run.accelerator.is_main_process:
        return
    store, rows, scores = Pictures(), [], {}
    for number, (task, source) in enumerate(held.items()):
        before, after = [], []
        for index in range(6):
            rng = np.random.default_rng((run.config.seed, 5, number, index))
            degraded, clean = draw_pair(source, store, 192, rng, plain=True)
            vector = bank[task][int(rng.integers(len(bank[task])))][None]
            batch = torch.from_numpy(degraded).permute(2, 0, 1)[None]
            device = run.accelerator.device
            restored = run.average(batch.to(device), vector.to(device))[0]
            result = restored[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
            before.append(psnr(degraded, clean))
            after.append(psnr(result, clean))
            if index == number % 6:
                rows.append(np.concatenate([degraded, result, clean], axis=1))
        scores[task] = float(np.mean(before)), float(np.mean(after))
    sheet = np.rint(np.concatenate(rows, axis=0) * 255).astype(np.uint8)
    Image.fromarray(sheet).save(out / "samples.jpg", quality=90)
    tracker = run.accelerator.get_tracker("tensorboard", unwrap=True)
    tracker.add_image("samples", sheet, run.done, dataformats="HWC")
    run.accelerator.log({f"PSNR/{t}": after for t, (_, after) in scores.items()}, step=run.done)
    lines = [f"{task} {before:.2f}->{after:.2f}" for task, (before, after) in scores.items()]
    text = f"step {run.done}, {run.seconds / 60:.1f} min: " + ", ".join(lines)
    bar.write(text)
    with (out / "log.txt").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
