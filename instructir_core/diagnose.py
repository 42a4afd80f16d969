"""From a picture to what is wrong with it: a severity from 0 to 1 for every task.

With ``P`` the PSNR in dB between a picture with and without one degradation, all others kept, the
severity is ``clip((40 - P) / 25, 0, 1)`` for every task alike: 0 is invisible (40 dB), 1 is 15 dB
or worse. A small judge reads it from what the restoring network itself changes in small parts of
the picture under the sentence of each task, and from plain measurements.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_plain
from .files import brief
from .measures import (
    CHANGES,
    CROP_STATISTICS,
    VIEW_STATISTICS,
    change_statistics,
    crop_statistics,
    view_statistics,
)
from .model import EMBEDDING_WIDTH, InstructIR
from .tasks import TASKS

log = logging.getLogger(__name__)

MIN_SIDE = 16
"""Pixels of the shorter side below which nothing can be told: every severity is 0."""
VIEW, CROP = 128, 80
"""Pixels of each side of the whole picture's view, and of the crops at full resolution."""
SCENE = ("haze", "lol", "en")
"""Tasks of which the whole picture tells, shrunk to half a view; the others are looked for at full
resolution."""
_MAX_CELLS = 16
"""Rows, and columns, of the places where a crop may be cut."""
_RANKS = (0.3, 0.95)
"""Of the places in order of their detail: a calm one and a busy one."""
_CROPS = {"noise": (0,), "rain": (0, 1)}
"""Task -> the crops in which it is looked for, where that is not the busy one alone."""


def severity(psnr: float) -> float:
    """PSNR in dB with and without one degradation -> 0 (40 dB, invisible) to 1 (15 dB)."""
    return min(1.0, max(0.0, (40.0 - psnr) / 25.0))


@dataclass(frozen=True)
class JudgeConfig:
    """Shape and calibration of a judge."""

    tasks: tuple[str, ...] = tuple(TASKS)
    thresholds: tuple[float, ...] = (0.3,) * len(TASKS)
    """Of each task: the severity from which a restoration is suggested."""
    absent: tuple[float, ...] = (0.15,) * len(TASKS)
    """Of each task: the severity below which a picture surely does not show it."""
    hidden: int = 64
    embedding_width: int = EMBEDDING_WIDTH
    network: str = ""
    """`fingerprint` of the network whose changes it learned to judge."""

    def __post_init__(self) -> None:
        numbers = (self.hidden, self.embedding_width)
        whole = all(isinstance(n, int) and 1 < n <= 4096 for n in numbers)
        names = all(isinstance(n, str) and n in TASKS for n in self.tasks)
        severities = (*self.thresholds, *self.absent)
        limits = all(isinstance(t, float) and 0.0 <= t <= 1.0 for t in severities)
        counts = {len(self.tasks), len(self.thresholds), len(self.absent)} == {len({*self.tasks})}
        several = bool(self.tasks) and isinstance(self.network, str)
        if not (whole and names and limits and counts and several):
            raise ValueError(
                f"found a diagnosis of {brief(asdict(self), 200)}; expected known tasks with "
                "severities of 0 to 1 each, and sizes from 2 to 4096. Get the file again"
            )

    def to_json(self) -> str:
        """As it stands in the metadata of a weight file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> JudgeConfig | None:
        """The opposite of `to_json`; None for that of a diagnosis that did not ask the network.

        Raises ValueError, KeyError or TypeError on other text.
        """
        known: Any = json.loads(text)
        if not isinstance(known, Mapping):
            raise ValueError(f"found the diagnosis {brief(text, 60)}; expected its sizes")
        if "widths" in known and "network" not in known:
            return None
        lists = {name: tuple(known[name]) for name in ("tasks", "thresholds", "absent")}
        return cls(**{**known, **lists})


@dataclass(frozen=True)
class Look:
    """What of one picture is looked at: float32 in [0, 1]."""

    view: Tensor = field(repr=False)
    """(3, V, V): all of it, shrunk by averaging and made square."""
    crops: Tensor = field(repr=False)
    """(N, 3, C, C): pieces at full resolution, from the calmest to the busiest."""


def look(image: Tensor) -> Look:
    """(H, W, 3) in [0, 1] of any size -> what of it is looked at, on its device."""
    picture = image.detach().permute(2, 0, 1).float()
    # Small pictures are mirrored at their borders until a crop fits in.
    for axis in (1, 2):
        size = picture.shape[axis]
        if size < CROP:
            places = torch.arange(CROP, device=picture.device) % (2 * size)
            picture = picture.index_select(axis, torch.minimum(places, 2 * size - 1 - places))
    height, width = picture.shape[1:]
    rows, columns = min(height // CROP, _MAX_CELLS), min(width // CROP, _MAX_CELLS)
    lines = picture[1, ::4]
    steps = (lines[:, 1:] - lines[:, :-1]).abs()
    detail = F.adaptive_avg_pool2d(steps[None], (rows, columns)).flatten()
    order = detail.argsort(stable=True).tolist()
    crops = []
    for rank in _RANKS:
        row, column = divmod(order[round(rank * (len(order) - 1))], columns)
        # On multiples of 8, as the blocks of a JPEG file are.
        top = max(0, int((row + 0.5) * height / rows - CROP / 2)) // 8 * 8
        left = max(0, int((column + 0.5) * width / columns - CROP / 2)) // 8 * 8
        crops.append(picture[:, top : top + CROP, left : left + CROP])
    whole = F.adaptive_avg_pool2d(picture[None], VIEW)[0]
    return Look(whole.clamp(0.0, 1.0), torch.stack(crops).clamp(0.0, 1.0))


def _asked(tasks: Sequence[str]) -> list[tuple[int, int | None]]:
    """Which task's sentence is carried out on which crop, or on the scene: None."""
    asked: list[tuple[int, int | None]] = []
    for number, task in enumerate(tasks):
        places = (None,) if task in SCENE else _CROPS.get(task, (len(_RANKS) - 1,))
        asked += [(number, place) for place in places]
    return asked


class Judge(nn.Module):
    """What a weight file holds of a diagnosis: the sentences asked, and two layers that weigh
    what `Diagnosis.features` gives."""

    def __init__(self, config: JudgeConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or JudgeConfig()
        wide = len(_asked(config.tasks)) * CHANGES + VIEW_STATISTICS + len(_RANKS) * CROP_STATISTICS
        self.register_buffer("sentences", torch.zeros(len(config.tasks), config.embedding_width))
        # Features are judged less their mean, in units of their spread over samples of training.
        self.register_buffer("usual", torch.zeros(2, wide))
        self.layers = nn.Sequential(
            nn.Dropout(0.1),
            nn.Linear(wide, config.hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(config.hidden, len(config.tasks)),
        )

    sentences: Tensor
    """(tasks, E): the embedding of each task's sentence, as the network learned it."""
    usual: Tensor
    """(2, F): mean, and logarithm of the spread, of each of the features."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> logits of severity (B, tasks)."""
        logits: Tensor = self.layers(self.scaled(features))
        return logits

    def scaled(self, features: Tensor) -> Tensor:
        """(B, F) -> less their mean, in units of their spread; what is beyond 4 tells no more."""
        return ((features - self.usual[0]) / self.usual[1].exp()).clamp(-4.0, 4.0)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """A judge, and the network whose changes it judges, wherever that lies."""

    judge: Judge
    network: InstructIR

    @property
    def thresholds(self) -> dict[str, float]:
        """Of each task: the severity from which its restoration is suggested, calibrated on
        held-out photos. A threshold that somebody gives takes the place of all of them."""
        config = self.judge.config
        return dict(zip(config.tasks, config.thresholds, strict=True))

    @property
    def absent(self) -> dict[str, float]:
        """Of each task: the severity below which a picture surely does not show it."""
        config = self.judge.config
        return dict(zip(config.tasks, config.absent, strict=True))

    @torch.inference_mode()
    def severities(self, image: Tensor) -> dict[str, float]:
        """(H, W, 3) sRGB floats in [0, 1] -> 0 (nothing) to 1 (15 dB or worse) for each task.

        The picture may be of any size and on any device. One whose shorter side is below
        `MIN_SIDE` shows too little to judge by: every severity is 0. Raises ValueError on other
        shapes and types, and on NaN.
        """
        check_plain(image, "a picture")
        if image.ndim != 3 or image.shape[2] != 3 or not image.is_floating_point():
            raise ValueError(
                f"Found a picture of shape {tuple(image.shape)} in {image.dtype}; expected "
                "(H, W, 3) floats. Hand over one picture, without its batch."
            )
        tasks = self.judge.config.tasks
        if min(image.shape[:2]) < MIN_SIDE:
            return dict.fromkeys(tasks, 0.0)
        seen = look(image)
        if not torch.isfinite(seen.view).all():
            raise ValueError(
                "Found NaN in a picture; expected finite values in [0, 1]. Check the node or "
                "step that made it."
            )
        found = self.judge(self.features(seen)[None]).sigmoid()[0].tolist()
        return dict(zip(tasks, found, strict=True))

    def features(self, seen: Look) -> Tensor:
        """(F,) on the CPU: what the network changes, then what the picture itself shows."""
        scene = F.avg_pool2d(seen.view[None], 2)[0]
        asked = _asked(self.judge.config.tasks)
        whole = [(scene, task) for task, place in asked if place is None]
        local = [(seen.crops[place], task) for task, place in asked if place is not None]
        found = [self._changes(several) for several in (whole, local) if several]
        found += [view_statistics(seen.view[None]), crop_statistics(seen.crops)]
        return torch.cat([part.flatten().cpu() for part in found])

    def _changes(self, asked: Sequence[tuple[Tensor, int]]) -> Tensor:
        """B pictures (3, S, S), each under the sentence of its task -> (B, N)."""
        weight = next(self.network.parameters())
        before = torch.stack([picture for picture, _ in asked]).to(weight.device)
        tasks = [task for _, task in asked]
        given = before.to(weight.dtype, memory_format=torch.channels_last)
        after = self.network(given, self.judge.sentences[tasks].to(weight)).float()
        # What leaves the range of float16 would be run again to restore; here it tells nothing.
        after = torch.where(torch.isfinite(after), after, before).clamp(0.0, 1.0)
        return change_statistics(before, after)


def fingerprint(network: InstructIR) -> str:
    """Names a network by its weights at the precision of float16, in which files ship."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_fit(judge: Judge, network: InstructIR, path: Path) -> None:
    """Of a judge and a network from ``path``: ValueError where it cannot ask this network, a
    warning in the log where it learned of another."""
    wanted, found = network.config.embedding_width, judge.config.embedding_width
    if wanted != found:
        raise ValueError(
            f"found a diagnosis that asks in embeddings of width {found}; expected {wanted}, as "
            "the network takes. Take the diagnosis that was made for it"
        )
    if judge.config.network not in ("", fingerprint(network)):
        log.warning(
            "%s: the diagnosis was fitted to another network than this: what it suggests is less "
            "sure. Fit it anew: instructir train-diagnosis --model %s", path, path
        )  # fmt: skip
