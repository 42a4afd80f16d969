"""A training run between two steps: what it learns, how far it is, and how it is saved."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from ..files import write_atomically
from ..model import InstructIR
from ..text import InstructionHead
from .presets import Stage, TrainingConfig

Samples = Sequence[Tensor]
"""Degraded, clean (B, 3, S, S), sentence vectors (B, W) and class indices (B) of one crop size."""


class Steered(nn.Module):
    """Network and head as one module, so that one wrapper serves both on many devices."""

    def __init__(self, network: InstructIR, head: InstructionHead | None) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, *parts: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Of each part, (B, 3, H, W) and sentence vectors (B, W): restored (B, 3, H, W), and
        logits or None. Parts are of different sizes, and one backward pass serves them all."""
        return [self._restore(degraded, vectors) for degraded, vectors in parts]

    def _restore(self, degraded: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.head is None:
            width = self.network.config.embedding_width
            return self.network(degraded, degraded.new_zeros(len(degraded), width)), None
        # The head is tiny, and its cross-entropy wants all the digits.
        with torch.autocast(degraded.device.type, enabled=False):
            embedding, logits = self.head(vectors)
        return self.network(degraded, embedding), logits


LEAST_ERROR = 3e-5
"""Mean squared error, 45 dB, below which a sample counts as right. At 55 dB leaving clean pictures
alone was worth so much that real haze was left, too: SOTS-indoor lost 2 dB in one leg."""


LEAST_SCENE_ERROR = 1e-3
"""The same, 30 dB, for whole scenes. Under 3e-5 a light veil weighed hundreds of times what thick
haze does, and in doubt the network took it for one: held-out scenes stayed 11 levels too bright."""


def sample_loss(restored: Tensor, clean: Tensor, kind: str, least: float = LEAST_ERROR) -> Tensor:
    """The loss of each sample, (B, 3, H, W) -> (B,): its mean absolute error for ``l1``, the
    logarithm of its mean squared error, which counts from ``least`` on, for ``log``."""
    difference = restored - clean
    if kind == "l1":
        return difference.abs().flatten(1).mean(1)
    # A twentieth of it keeps the gradient's norm near that of L1, for the same clipping.
    return 0.05 * torch.log(difference.square().flatten(1).mean(1) + least)


@dataclass
class Pace:
    """How fast samples are made and learned, since the last time it was told."""

    crops: int = 0
    waited: float = 0.0
    """Seconds in which the network had nothing to do."""
    learned: float = 0.0
    """Seconds in which it had."""

    def tell(self) -> tuple[float, float]:
        """Crops per second of this process, learned and made; begins anew. Where other processes
        make them, the second is how many would come while the network waits."""
        told = self.crops / max(self.learned, 1e-9), self.crops / max(self.waited, 1e-9)
        self.crops, self.waited, self.learned = 0, 0.0, 0.0
        return told


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
        self.done, self.seconds, self.rate, self.pace = 0, 0.0, 0.0, Pace()
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
        if head is not None and config.head_rate:
            rate = config.learning_rate * config.head_rate
            groups.append({"params": list(head.parameters()), "lr": rate})
        elif head is not None:
            head.requires_grad_(False)
        optimizer = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay)
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
    def stage(self) -> Stage:
        """The config's stage that the run is in."""
        return [stage for stage in self.config.stages if self.share >= stage.start][-1]

    @property
    def factor(self) -> float:
        """The learning rate, of its peak: warm-up, constant, and a cosine down at the end."""
        late = max(0.0, self.share - (1.0 - self.config.decay)) / max(self.config.decay, 1e-9)
        falling = 0.5 * (1.0 + math.cos(math.pi * late))
        rising = min(1.0, (self.done + 1) / max(1, self.config.warm_up))
        return max(self.config.floor, falling) * rising

    def step(self, parts: Sequence[Samples]) -> dict[str, Tensor]:
        """One optimiser step over samples of one or more crop sizes; returns this process's losses:
        of pictures the means of each size, weighed by its share, of sentences their mean."""
        started = time.monotonic()
        device = self.accelerator.device
        parts = [[t.to(device, non_blocking=True) for t in part] for part in parts]
        inputs = [(x.contiguous(memory_format=torch.channels_last), v) for x, _, v, _ in parts]
        factor = self.factor
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.rate = self.config.learning_rate * factor
        outputs = self.wrapped(*inputs)
        pictures: list[Tensor] = []
        readings: list[Tensor] = []
        for (restored, logits), (_, clean, _, classes) in zip(outputs, parts, strict=True):
            least = LEAST_SCENE_ERROR if pictures else LEAST_ERROR  # scenes come after the crops
            pictures.append(sample_loss(restored.float(), clean, self.config.loss, least).mean())
            if logits is not None:
                readings.append(F.cross_entropy(logits.float(), classes, reduction="none"))
        weights = torch.tensor(self.config.part_shares, device=device)
        losses = {self.config.loss: (torch.stack(pictures) * weights).sum()}
        if readings:
            losses["CE"] = torch.cat(readings).mean()
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(torch.stack(list(losses.values())).sum())
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        # Early weights are worth nothing: the average opens its window as it goes.
        keep = min(self.config.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            averages, current = self.average.parameters(), self.model.parameters()
            torch._foreach_lerp_(list(averages), list(current), 1.0 - keep)
        self.done += 1
        elapsed = time.monotonic() - started
        self.seconds += elapsed
        self.pace.learned += elapsed
        self.pace.crops += sum(len(clean) for _, clean, _, _ in parts)
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
                "config": self.config.to_dict(),
                "done": self.done,
                "seconds": self.seconds,
                "share": self.share,
                **{name: part.state_dict() for name, part in self._parts().items()},
            },
            content,
        )
        write_atomically(path, content.getvalue())

    def load(self, path: Path) -> None:
        """Continue a saved run; raises ``ValueError`` when it was of another config."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not self.config.is_saved_as(state["config"], state.get("share", 1.0)):
            raise ValueError(
                f"{path}: found a run with the settings {state['config']}, expected "
                f"{self.config.to_dict()}. Repeat its settings, or choose another output folder."
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
