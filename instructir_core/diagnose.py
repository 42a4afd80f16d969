"""From a picture to what is wrong with it: a severity from 0 to 1 for every task.

A tiny network of its own, trained on degradations whose severity is measured: with ``P`` the PSNR
in dB between a picture with and without one degradation, all others kept, the severity is
``clip((40 - P) / 25, 0, 1)`` for every task alike. 0 is invisible (40 dB), 1 is 15 dB or worse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_plain
from .files import brief
from .tasks import TASKS

MIN_SIDE = 16
"""Pixels of the shorter side below which nothing can be told: every severity is 0."""
_MAX_CELLS = 16
"""Rows, and columns, of the places where a crop may be cut."""
_RANKS = (0.0, 0.3, 0.6, 0.8, 0.95, 1.0)
"""Of the places in order of their detail: the flattest, the busiest and some between."""
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_SCALES = 4
"""Octaves whose detail is measured."""
_CROP_STATISTICS = 4 * _SCALES + 4 + 2
_VIEW_STATISTICS = 6 * len(_QUANTILES) + 3


def severity(psnr: float) -> float:
    """PSNR in dB with and without one degradation -> 0 (40 dB, invisible) to 1 (15 dB)."""
    return min(1.0, max(0.0, (40.0 - psnr) / 25.0))


@dataclass(frozen=True)
class DiagnosisConfig:
    """Shape and calibration of a diagnosing network."""

    tasks: tuple[str, ...] = tuple(TASKS)
    thresholds: tuple[float, ...] = (0.3,) * len(TASKS)
    """Of each task: the severity from which a restoration is suggested."""
    widths: tuple[int, ...] = (16, 32, 64, 96)
    """Channels of the strided convolutions, each of which halves the size."""
    hidden: int = 96
    view: int = 128
    """Pixels of each side of the whole picture's view."""
    crop: int = 96
    """Pixels of each side of the crops at full resolution."""

    def __post_init__(self) -> None:
        numbers = (*self.widths, self.hidden, self.view, self.crop)
        whole = all(isinstance(n, int) and 0 < n <= 1024 for n in numbers)
        names = all(isinstance(n, str) and n in TASKS for n in self.tasks)
        limits = all(isinstance(t, float) and 0.0 <= t <= 1.0 for t in self.thresholds)
        counts = len(self.tasks) == len(self.thresholds) == len(set(self.tasks)) > 0
        least = 2 ** max(len(self.widths), _SCALES + 2)
        if (
            not (whole and names and limits and counts and 0 < len(self.widths) <= 6)
            or min(self.view, self.crop) < least
        ):
            raise ValueError(
                f"found a diagnosis of {brief(asdict(self), 200)}; expected known tasks with a "
                f"threshold of 0 to 1 each, and sizes from {least} to 1024. Get the file again"
            )

    def to_json(self) -> str:
        """As it stands in the metadata of a weight file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DiagnosisConfig:
        """The opposite of `to_json`. Raises ValueError, KeyError or TypeError on other text."""
        known: Any = json.loads(text)
        if not isinstance(known, Mapping):
            raise ValueError(f"found the diagnosis {brief(text, 60)}; expected its sizes")
        lists = {name: tuple(known[name]) for name in ("tasks", "thresholds", "widths")}
        return cls(**{**known, **lists})


@dataclass(frozen=True)
class Look:
    """What the network is shown of one picture: float32 in [0, 1]."""

    view: Tensor = field(repr=False)
    """(3, V, V): all of it, shrunk by averaging and made square."""
    crops: Tensor = field(repr=False)
    """(N, 3, C, C): pieces at full resolution, from the flattest to the busiest."""

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the network takes, as a batch of one."""
        view, crops = self.view[None], self.crops[None]
        return view, crops, view_statistics(view), crop_statistics(self.crops)[None]


def look(image: Tensor, view: int = 128, crop: int = 96) -> Look:
    """(H, W, 3) in [0, 1] of any size -> what of it is looked at, on its device."""
    picture = image.detach().permute(2, 0, 1).float()
    # Small pictures are mirrored at their borders until a crop fits in.
    for axis in (1, 2):
        size = picture.shape[axis]
        if size < crop:
            places = torch.arange(crop, device=picture.device) % (2 * size)
            picture = picture.index_select(axis, torch.minimum(places, 2 * size - 1 - places))
    height, width = picture.shape[1:]
    rows, columns = min(height // crop, _MAX_CELLS), min(width // crop, _MAX_CELLS)
    lines = picture[1, ::4]
    changes = (lines[:, 1:] - lines[:, :-1]).abs()
    detail = F.adaptive_avg_pool2d(changes[None], (rows, columns)).flatten()
    order = detail.argsort(stable=True).tolist()
    crops = []
    for rank in _RANKS:
        row, column = divmod(order[round(rank * (len(order) - 1))], columns)
        # On multiples of 8, as the blocks of a JPEG file are.
        top = max(0, int((row + 0.5) * height / rows - crop / 2)) // 8 * 8
        left = max(0, int((column + 0.5) * width / columns - crop / 2)) // 8 * 8
        crops.append(picture[:, top : top + crop, left : left + crop])
    whole = F.adaptive_avg_pool2d(picture[None], view)[0]
    return Look(whole.clamp(0.0, 1.0), torch.stack(crops).clamp(0.0, 1.0))


class Diagnosis(nn.Module):
    """Two towers of strided convolutions, one on the view and one on the crops, and a judge."""

    def __init__(self, config: DiagnosisConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DiagnosisConfig()
        # To the colours of each pixel comes what sets it apart from its neighbours.
        self.view_tower = _tower(6, config.widths)
        self.crop_tower = _tower(6, config.widths)
        seen = 2 * config.widths[-1]
        wide = seen + _VIEW_STATISTICS + 3 * (seen + _CROP_STATISTICS)
        # Features are judged less their mean, in units of their spread over samples of training.
        self.register_buffer("usual", torch.zeros(2, wide))
        self.judge = nn.Sequential(
            nn.Linear(wide, config.hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(config.hidden, len(config.tasks)),
        )

    usual: Tensor
    """(2, F): mean, and logarithm of the spread, of each of the features."""

    @property
    def thresholds(self) -> dict[str, float]:
        """Of each task: the severity from which its restoration is suggested, calibrated on
        held-out photos. A threshold that somebody gives takes the place of all of them."""
        return dict(zip(self.config.tasks, self.config.thresholds, strict=True))

    def forward(self, view: Tensor, crops: Tensor, whole: Tensor, detail: Tensor) -> Tensor:
        """Logits of severity (B, tasks) from what `Look.inputs` gives, of several.

        ``view`` is (B, 3, V, V), ``crops`` (B, N, 3, C, C); ``whole`` (B, S) and ``detail``
        (B, N, D) are `view_statistics` and `crop_statistics` of them.
        """
        return self.judged(self.features(view, crops, whole, detail))

    def features(self, view: Tensor, crops: Tensor, whole: Tensor, detail: Tensor) -> Tensor:
        """(B, F) of what `forward` takes: the towers' and the measured, pooled over crops."""
        batch, count = crops.shape[:2]
        seen = _pooled(self.crop_tower, crops.flatten(0, 1)).reshape(batch, count, -1)
        local = torch.cat([seen, detail], dim=2)
        pooled = [local.mean(dim=1), local.amax(dim=1), local.amin(dim=1)]
        return torch.cat([_pooled(self.view_tower, view), whole, *pooled], dim=1)

    def judged(self, features: Tensor) -> Tensor:
        """(B, F) -> logits (B, tasks)."""
        logits: Tensor = self.judge((features - self.usual[0]) / self.usual[1].exp())
        return logits

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
        if min(image.shape[:2]) < MIN_SIDE:
            return dict.fromkeys(self.config.tasks, 0.0)
        seen = look(image, self.config.view, self.config.crop)
        weight = next(self.parameters())
        logits = self(*(part.to(weight) for part in seen.inputs()))
        found = logits.float().sigmoid()[0].tolist()
        if any(value != value for value in found):
            raise ValueError(
                "Found NaN in a picture; expected finite values in [0, 1]. Check the node or "
                "step that made it."
            )
        return dict(zip(self.config.tasks, found, strict=True))


def _tower(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layer = nn.Conv2d(inputs, width, 3, stride=2, padding=1)
        # PyTorch's own start halves what is seen in each layer, and training is short.
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        layers += [layer, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


def _pooled(tower: nn.Sequential, pictures: Tensor) -> Tensor:
    """(B, 3, S, S) -> mean and deviation of each of the tower's channels, (B, 2 C)."""
    maps = tower(_with_detail(pictures)).flatten(2)
    deviation = (maps.var(dim=2, unbiased=False) + 1e-6).sqrt()
    return torch.cat([maps.mean(dim=2), deviation], dim=1)


def _with_detail(pictures: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, 6, S, S): colours, and what sets each pixel apart from the mean of
    those around it; differences of a level or two tell noise, so they are made larger."""
    seen = torch.zeros_like(pictures).repeat(1, 2, 1, 1)
    torch.sub(pictures, 0.5, out=seen[:, :3])
    # Sums of slices take a fifth of the time of pooling.
    rows = pictures[..., :-2] + pictures[..., 1:-1] + pictures[..., 2:]
    around = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]
    fine = (pictures[..., 1:-1, 1:-1] - around / 9.0) * 8.0
    seen[:, 3:, 1:-1, 1:-1] = fine.clamp_(-2.0, 2.0)
    return seen


def _mean3(maps: Tensor) -> Tensor:
    """The mean of each 3 x 3 neighbourhood; at borders of what is there of it."""
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def _log(energy: Tensor) -> Tensor:
    """About -1 for what no 8-bit file shows to 3 for the strongest."""
    return (energy + 1e-3).log10() + 2.0


def crop_statistics(crops: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, N): detail by octave, direction and colour, and the blocks of JPEG."""
    luma = crops.mean(dim=1, keepdim=True)
    scale, found = luma, []
    for _ in range(_SCALES):
        detail = (scale - _mean3(scale)).abs()
        across = (scale[..., 1:] - scale[..., :-1]).abs().mean(dim=(1, 2, 3))
        down = (scale[..., 1:, :] - scale[..., :-1, :]).abs().mean(dim=(1, 2, 3))
        found += [*_calm_and_busy(detail), _log(detail.mean(dim=(1, 2, 3)))]
        found.append(_log(across) - _log(down))
        scale = F.avg_pool2d(scale, 2)
    colour = crops - luma
    for _ in range(2):
        detail = (colour - _mean3(colour)).abs().mean(dim=1, keepdim=True)
        found += [_calm_and_busy(detail)[0], _log(detail.mean(dim=(1, 2, 3)))]
        colour = F.avg_pool2d(colour, 2)
    for steps in (luma.diff(dim=3).abs().mean(dim=(1, 2)), luma.diff(dim=2).abs().mean(dim=(1, 3))):
        # Blocks begin with the picture, or where it was cut, anywhere.
        blocks = [steps[:, start::8].mean(dim=1) for start in range(8)]
        found.append(_log(torch.stack(blocks).amax(dim=0)) - _log(steps.mean(dim=1)))
    return torch.stack(found, dim=1)


def _calm_and_busy(detail: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1, S, S) -> what a fifth of its cells of 4 x 4 lies below, and a twentieth above."""
    cells = F.avg_pool2d(detail, 4).flatten(1).sort(dim=1).values
    return _log(cells[:, cells.shape[1] // 5]), _log(cells[:, cells.shape[1] * 19 // 20])


def view_statistics(view: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, N): quantiles of the brightness, the darkest and the brightest channel
    and the colourfulness of the pixels, of the darkest (He et al., CVPR 2009) and the span of the
    brightness in the patch around each, and the mean colour."""
    luma, low, high = view.mean(dim=1), view.amin(dim=1), view.amax(dim=1)
    dark = -F.max_pool2d(-low, _PATCH, 2)
    span = F.max_pool2d(luma, _PATCH, 2) + F.max_pool2d(-luma, _PATCH, 2)
    found = []
    for values in (luma, low, high, high - low, dark, span):
        ordered = values.flatten(1).sort(dim=1).values
        last = ordered.shape[1] - 1
        found.append(ordered[:, [round(q * last) for q in _QUANTILES]])
    return torch.cat([*found, view.mean(dim=(2, 3))], dim=1)


_PATCH = 9
"""Pixels of the view across a patch."""
