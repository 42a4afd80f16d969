"""What a training run is made with, and the runs that are known by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ..model import NetworkConfig
from ..tasks import NO_TASK, OFFICIAL_TASKS
from .corpus import SPLITS
from .recipes import RECIPES


class Stage(NamedTuple):
    """A part of a run."""

    start: float
    """Share of the run at which it begins."""
    crop: int
    """Pixels each way."""
    batch: int
    """Samples of a step, over all processes."""


@dataclass(frozen=True)
class TrainingConfig:
    """What a run needs to be repeated; stored in the weights' metadata."""

    shares: Mapping[str, float]
    """Share of the samples per task, and of `NO_TASK`; they need not sum to 1."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    steps: int | None = 155_000
    """Length in steps, or None to train for `minutes`; only the former repeats exactly."""
    minutes: float = 0.0
    stages: tuple[Stage, ...] = (Stage(0.0, 256, 32),)
    scenes: tuple[tuple[int, int], ...] = ()
    """(crop size, batch size), one of them drawn for each step, of the samples of haze, low light
    and colour, which want whole views beside the stage's crops; none: all tasks share the crops."""
    loss: str = "l1"
    """``l1``, or ``log``: the logarithm of each sample's mean squared error, which is its PSNR."""
    learning_rate: float = 5e-4
    """Its peak."""
    head_rate: float = 0.1
    """Learning rate of the head, times the network's; 0 keeps the head as it is."""
    decay: float = 1.0
    """Share of the run, at its end, in which the learning rate falls to ``floor`` of its peak along
    a cosine. Below 1 it is constant before, and what is saved then can go on under another
    length."""
    warm_up: int = 200
    """Steps in which the learning rate rises."""
    floor: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.9)
    """AdamW's; the paper does not state them, these are NAFNet's."""
    clip: float = 1.0
    """Longest gradient, as a norm."""
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

    @property
    def part_shares(self) -> list[float]:
        """Of a step's loss, the share of its crops and, where there are, of its scenes: by number,
        many small crops would drown the scenes."""
        tasks = [task for task in self.shares if task != NO_TASK]
        whole = sum(self.shares[task] for task in tasks if RECIPES[task].whole_scene)
        scenes = whole / sum(self.shares[task] for task in tasks)
        return [1.0 - scenes, scenes] if self.scenes else [1.0]

    def to_dict(self) -> dict[str, Any]:
        """The config as plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def is_saved_as(self, values: Mapping[str, Any], share: float) -> bool:
        """Whether a saved run's `to_dict` says the same; what it lacks was as the default is.

        While the rate was constant, at this ``share`` of the run, its length may differ: legs add
        up.
        """
        expected = self.to_dict()
        found = TrainingConfig({}).to_dict() | json.loads(json.dumps(dict(values)))
        if share <= 1.0 - found["decay"]:
            found |= {name: expected[name] for name in ("steps", "minutes", "decay", "every")}
        return bool(found == expected)


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
        # The tasks whose error falls slowest get the most, and none less than a tenth.
        {
            "noise": 0.25, "blur": 0.18, "rain": 0.10, "haze": 0.12, "lol": 0.10, "sr": 0.18,
            "en": 0.10, NO_TASK: 0.04,
        },
        network=MINI_NETWORK,
        steps=None,
        minutes=120.0,
        # Small crops first are fast, large ones at the end show blur and haze whole.
        stages=(Stage(0.0, 96, 16), Stage(0.6, 160, 6)),
        learning_rate=2e-3,
        splits=SPLITS,  # its reading is measured on sentences that are not of the corpus
        every=250,
    ),
}  # fmt: skip
"""The paper's models (section 4.2; 6D continues 5D, so it wants ``init``) and the bundled one."""
