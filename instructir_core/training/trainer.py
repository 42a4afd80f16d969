"""Training network and instruction head together, on one device or on many.

Loss and optimiser follow the paper (section 4.1) unless the config says otherwise: L1 on the
picture plus cross-entropy on the task, weighted 1:1, AdamW, cosine decay. Every sample is steered
by a sentence drawn from the corpus, never by a task number. Devices, processes and mixed precision
are Accelerate's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .. import checkpoint, sheets
from ..evaluation.metrics import psnr
from ..model import InstructIR
from ..tasks import CLASSES, NO_TASK
from ..text import HashedEncoder, InstructionHead, TextEncoder
from .corpus import Sentence, load_corpus, vary
from .presets import Stage, TrainingConfig
from .recipes import RECIPES
from .run import Run, Samples
from .samples import Batches, Pictures, Source, draw_pair
from .sentence_training import encode_all, refit_classes, train_sentences
from .streams import Stream, stream


def sentence_bank(
    encoder: TextEncoder, corpus: Sequence[Sentence], seed: int, count: int = 4000
) -> dict[str, Tensor]:
    """Vectors of ``count`` sentences per class, as different people type them: (count, W) each."""
    rng = stream(seed, Stream.SENTENCES)
    bank = {}
    for task in sorted({s.task for s in corpus}):
        known = [s.text for s in corpus if s.task == task]
        texts = [known[i] for i in rng.permutation(len(known))[:count]]
        while len(texts) < count:
            texts.append(vary(known[int(rng.integers(len(known)))], rng))
        bank[task] = encode_all(encoder, texts)
    return bank


@dataclass(frozen=True)
class Reading:
    """What sentences are read with in a run, and the vectors of those that steer it."""

    classes: Sequence[str]
    encoder: TextEncoder | None
    head: InstructionHead | None
    """To start from."""
    bank: Mapping[str, Tensor]
    """(count, W) vectors for each class."""


def train(
    sources: Mapping[str, Source],
    held: Mapping[str, Source],
    out: Path,
    config: TrainingConfig,
    *,
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
    _check_sources(sources, config)
    accelerator = _accelerator(config, out, device)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    corpus = _corpus(config, excluded)
    reading = _reading(
        accelerator, config, corpus, out, init=init, text_encoder=text_encoder, teacher=teacher
    )
    run = Run(config, _network(config, init), reading.head, accelerator)
    state, stable = out / "state.pt", out / "stable.pt"  # the latter for a longer run to go on from
    if state.exists():
        run.load(state)
    if accelerator.is_main_process:
        accelerator.init_trackers("tensorboard")

    bar = tqdm(
        total=config.steps, initial=run.done, desc="network",
        disable=not accelerator.is_main_process,
    )  # fmt: skip
    for stage, losses in _steps(run, sources, reading, workers):
        bar.update()
        if run.done % 25 == 0:
            _tell(run, stage, losses, bar)
        finished = run.share >= 1.0
        if config.decay < 1.0 and not stable.exists() and run.share >= 1.0 - config.decay:
            run.save(stable)
        if run.done % config.every == 0 or finished:
            run.save(state)
        if run.done % (8 * config.every) == 0 or finished:
            _report(run, held, reading.bank, out, bar)
    bar.close()
    path = out / "model.safetensors"
    if accelerator.is_main_process:
        _write(path, run, reading, corpus, init.name if init is not None else None)
        print(f"{path}\nShip it with: instructir models convert --half {path} NAME.safetensors")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return path


def _check_sources(sources: Mapping[str, Source], config: TrainingConfig) -> None:
    lacking = [t for t in config.shares if t != NO_TASK and t not in sources]
    if lacking:
        raise ValueError(
            f"Found no training pictures for {', '.join(lacking)}; expected a data set for each "
            "task of the preset. Add the data sets, or clean photos to degrade."
        )


def _accelerator(config: TrainingConfig, out: Path, device: str | None) -> Accelerator:
    """Devices, processes and precision of a run; ValueError where batches cannot be shared."""
    accelerator = Accelerator(
        mixed_precision=config.precision,
        cpu=device == "cpu",
        log_with="tensorboard",
        project_dir=out,
        # The first process trains the sentence encoder while the others wait.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=3))],
    )
    world = accelerator.num_processes
    if config.loss not in ("l1", "log"):
        raise ValueError(f"Found the loss {config.loss!r}; expected l1 or log. Choose one.")
    batches = [*(s.batch for s in config.stages), *(batch for _, batch in config.scenes)]
    uneven = [batch for batch in batches if batch % world]
    if uneven:
        raise ValueError(
            f"Found a batch of {uneven[0]} for {world} processes; expected a multiple, so that "
            "every process weighs the same. Change the number of processes."
        )
    return accelerator


def _network(config: TrainingConfig, init: checkpoint.Checkpoint | None) -> InstructIR:
    """A new network, with the weights to start from where there are any."""
    network = InstructIR(config.network)
    if init is not None and init.network is not None:
        if init.network.config != config.network:
            raise ValueError(
                f"{init.name}: found {init.network.config}; expected {config.network}, as the "
                "preset says. Choose the preset the weights were made with."
            )
        network.load_state_dict(init.network.state_dict())
    return network


def _write(
    path: Path, run: Run, reading: Reading, corpus: Sequence[Sentence], init: str | None
) -> None:
    """The averaged weights as one file, with what they were made with."""
    config, head = run.config, run.average.head
    own = reading.encoder if isinstance(reading.encoder, HashedEncoder) else None
    if head is not None:
        head = head.cpu()
        if own is not None and tuple(reading.classes) == CLASSES and config.head_rate:
            refit_classes(own, head, corpus, config.seed, examples=16 * config.sentences)
    provenance = {
        "name": path.parent.name,
        "training": config.to_dict(),
        "steps": run.done,
        "minutes": round(run.seconds / 60, 1),
        "init": init,
        "processes": run.accelerator.num_processes,
        "device": run.accelerator.device.type,
    }
    checkpoint.save(path, run.average.network.cpu(), head, reading.classes, own, provenance)


def _corpus(config: TrainingConfig, excluded: Sequence[str]) -> list[Sentence]:
    if not config.text:
        return []
    whole = load_corpus(config.seed, excluded=excluded)
    return [s for s in whole if s.split in config.splits]


def _reading(
    accelerator: Accelerator,
    config: TrainingConfig,
    corpus: Sequence[Sentence],
    out: Path,
    *,
    init: checkpoint.Checkpoint | None,
    text_encoder: TextEncoder | None,
    teacher: Path | None,
) -> Reading:
    """Classes, encoder and head to start from, and the vectors of the corpus' sentences."""
    if not config.text:
        return Reading(CLASSES, None, None, {task: torch.zeros(1, 1) for task in CLASSES})
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
            small, head = _own_encoder(config, corpus, init, teacher)
            checkpoint.save(
                path, None, head, classes, small, {"stage": "sentences"}, dtype=torch.float32
            )
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
    bank = sentence_bank(encoder, corpus, config.seed, config.sentences)
    return Reading(classes, encoder, head, bank)


def _own_encoder(
    config: TrainingConfig,
    corpus: Sequence[Sentence],
    init: checkpoint.Checkpoint | None,
    teacher: Path | None,
) -> tuple[HashedEncoder, InstructionHead]:
    """The small encoder and its head, trained, or kept where the config has no steps for it."""
    start = None
    if init is not None and isinstance(init.text_encoder, HashedEncoder) and init.head is not None:
        start = init.text_encoder, init.head
    if start is not None and config.sentence_steps == 0:
        return start
    return train_sentences(
        corpus, config.seed, config.sentence_steps, teacher=teacher,
        embedding_width=config.network.embedding_width, start=start,
    )  # fmt: skip


def _steps(
    run: Run, sources: Mapping[str, Source], reading: Reading, workers: int
) -> Iterator[tuple[Stage, dict[str, Tensor]]]:
    """Step until the run is over, stage by stage; tells the stage and the losses of each step."""
    config, accelerator = run.config, run.accelerator
    while run.share < 1.0:
        stage = run.stage
        data = Views(
            sources, config, stage, reading.classes, reading.bank,
            rank=accelerator.process_index, world=accelerator.num_processes,
        )  # fmt: skip
        before = time.monotonic()
        for samples in _batches(data, run.done, config.steps or 10**9, workers):
            run.pace.waited += time.monotonic() - before
            yield stage, run.step(samples)
            before = time.monotonic()
            if run.share >= 1.0 or run.stage != stage:
                break


class Views(Dataset[list[tuple[Tensor, ...]]]):
    """Step -> its samples: those of the stage's crops and, where the config has scenes, those of
    the tasks that want whole scenes, in a view of a size drawn for the step."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        config: TrainingConfig,
        stage: Stage,
        classes: Sequence[str],
        bank: Mapping[str, Tensor],
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.seed, store = config.seed, Pictures()

        def batches(shares: Mapping[str, float], size: int, batch: int, seed: int) -> Batches:
            return Batches(
                sources, shares, classes, bank, size=size, batch=batch, seed=seed, rank=rank,
                world=world, store=store,
            )  # fmt: skip

        def only(scenes: bool) -> dict[str, float]:
            known = config.shares.items()
            return {t: s for t, s in known if t == NO_TASK or RECIPES[t].whole_scene == scenes}

        near = only(False) if config.scenes else config.shares
        self.near = batches(near, stage.crop, stage.batch, config.seed)
        # Other draws than the crops'.
        self.far = [batches(only(True), s, b, config.seed + 1) for s, b in config.scenes]

    def __getitem__(self, step: int) -> list[tuple[Tensor, ...]]:
        if not self.far:
            return [self.near[step]]
        chosen = int(stream(self.seed, Stream.VIEWS, step).integers(len(self.far)))
        return [self.near[step], self.far[chosen][step]]


def _batches(data: Views, first: int, last: int, workers: int) -> Iterator[list[Samples]]:
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


def _tell(run: Run, stage: Stage, losses: Mapping[str, Tensor], bar: tqdm[Any]) -> None:
    """Losses and pace of the last steps: crops that one process learns and makes each second."""
    values = {name: float(value) for name, value in losses.items()}
    learned, made = run.pace.tell()
    bar.set_postfix(
        {k: f"{v:.4f}" for k, v in values.items()}
        | {"size": stage.crop, "crops/s": f"{learned:.1f}", "made/s": f"{made:.0f}"}
    )
    values |= {"learning_rate": run.rate, "crops_learned": learned, "crops_made": made}
    run.accelerator.log(values, step=run.done)


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
            rng = stream(run.config.seed, Stream.SCORES, number, index)
            degraded, clean = draw_pair(source, store, 192, rng, plain=True)
            vector = bank[task][int(rng.integers(len(bank[task])))][None]
            batch = torch.from_numpy(degraded).permute(2, 0, 1)[None]
            device = run.accelerator.device
            restored, _ = run.average((batch.to(device), vector.to(device)))[0]
            result = restored[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
            before.append(psnr(degraded, clean))
            after.append(psnr(result, clean))
            if index == number % 6:
                rows.append([degraded, result, clean])
        scores[task] = float(np.mean(before)), float(np.mean(after))
    sheet = sheets.mosaic(rows)
    sheets.write(out / "samples.jpg", sheet)
    tracker = run.accelerator.get_tracker("tensorboard", unwrap=True)
    tracker.add_image("samples", sheet, run.done, dataformats="HWC")
    run.accelerator.log({f"PSNR/{t}": after for t, (_, after) in scores.items()}, step=run.done)
    lines = [f"{task} {before:.2f}->{after:.2f}" for task, (before, after) in scores.items()]
    text = f"step {run.done}, {run.seconds / 60:.1f} min: " + ", ".join(lines)
    bar.write(text)
    with (out / "log.txt").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
