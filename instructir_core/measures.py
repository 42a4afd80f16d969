"""What is measured of pictures, and of what a restoration changes in them, to tell what they need.

All take (B, 3, H, W) in [0, 1] of at least 64 pixels a side and give (B, N) float32 numbers, most
of them logarithms, which no picture takes far from -8 to 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = 4
"""Octaves whose detail is measured."""
QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
CROP_STATISTICS = 4 * SCALES + 4 + 2
VIEW_STATISTICS = 6 * len(QUANTILES) + 3
CHANGES = 14
"""Numbers that each function gives: of a crop, of a view, and of a change."""
_PATCH = 9
"""Pixels of a view across a patch."""
_CELL = 8
"""Pixels of a change across a cell."""


# --- what a restoration changes ----------------------------------------------------------------


def change_statistics(before: Tensor, after: Tensor) -> Tensor:
    """How much changed and in what way: coarse or fine, light or colour, even or here and there,
    along the picture's own detail or across it, brighter, richer, more contrast."""
    change = after - before
    luma, restored = before.mean(dim=1, keepdim=True), after.mean(dim=1, keepdim=True)
    light = restored - luma
    fine, detail = light - _mean3(light), luma - _mean3(luma)
    energy, fine_energy = _mean(change.square()), _mean(fine.square())
    spread = (fine_energy + 1e-8).sqrt()
    contrast = (_variance(restored) + 1e-4).log() - (_variance(luma) + 1e-4).log()
    along = _mean(fine * detail) / ((fine_energy * _mean(detail.square())).sqrt() + 1e-7)
    cells = F.avg_pool2d(change.square().mean(dim=1, keepdim=True), _CELL).flatten(1)
    cells, last = cells.sort(dim=1).values, cells.shape[1]
    found = (
        _decades(energy),
        _decades(_mean(F.avg_pool2d(change, _CELL).square())),
        _decades(fine_energy),
        _decades(fine_energy) - _decades(energy),
        _decades(_mean((change - light).square())),
        _decades(_mean(light.diff(dim=3).square())) - _decades(_mean(light.diff(dim=2).square())),
        _decades(cells[:, last // 5]),
        _decades(cells[:, last * 19 // 20]),
        # Streaks that went are sparse and dark in what changed, grain is neither.
        (_mean(fine.pow(3)) / spread.pow(3)).clamp(-8.0, 8.0) / 4.0,
        (_mean(fine.pow(4)) / spread.pow(4) + 1.0).log10(),
        along,
        contrast,
        _mean(light) * 4.0,
        (_colourfulness(after) - _colourfulness(before)) * 4.0,
    )
    return torch.stack(found, dim=1)


def _decades(energy: Tensor) -> Tensor:
    """-7 for what float16 does not show, 0 for black turned white."""
    return (energy + 1e-7).log10()


def _mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=(1, 2, 3))


def _variance(maps: Tensor) -> Tensor:
    return maps.var(dim=(1, 2, 3), unbiased=False)


def _colourfulness(pictures: Tensor) -> Tensor:
    return (pictures.amax(dim=1) - pictures.amin(dim=1)).mean(dim=(1, 2))


# --- what a picture shows ----------------------------------------------------------------------


def crop_statistics(crops: Tensor) -> Tensor:
    """Detail by octave, direction and colour, and the blocks of JPEG."""
    luma = crops.mean(dim=1, keepdim=True)
    scale, found = luma, []
    for _ in range(SCALES):
        detail = (scale - _mean3(scale)).abs()
        across = _mean(scale.diff(dim=3).abs())
        down = _mean(scale.diff(dim=2).abs())
        found += [*_calm_and_busy(detail), _log(_mean(detail)), _log(across) - _log(down)]
        scale = F.avg_pool2d(scale, 2)
    colour = crops - luma
    for _ in range(2):
        detail = (colour - _mean3(colour)).abs().mean(dim=1, keepdim=True)
        found += [_calm_and_busy(detail)[0], _log(_mean(detail))]
        colour = F.avg_pool2d(colour, 2)
    for steps in (luma.diff(dim=3).abs().mean(dim=(1, 2)), luma.diff(dim=2).abs().mean(dim=(1, 3))):
        # Blocks begin with the picture, or where it was cut, anywhere.
        blocks = [steps[:, start::8].mean(dim=1) for start in range(8)]
        found.append(_log(torch.stack(blocks).amax(dim=0)) - _log(steps.mean(dim=1)))
    return torch.stack(found, dim=1)


def view_statistics(view: Tensor) -> Tensor:
    """Quantiles of the brightness, the darkest and the brightest channel and the colourfulness of
    the pixels, of the darkest (He et al., CVPR 2009) and the span of the brightness in the patch
    around each, and the mean colour."""
    luma, low, high = view.mean(dim=1), view.amin(dim=1), view.amax(dim=1)
    dark = -F.max_pool2d(-low, _PATCH, 2)
    span = F.max_pool2d(luma, _PATCH, 2) + F.max_pool2d(-luma, _PATCH, 2)
    found = []
    for values in (luma, low, high, high - low, dark, span):
        ordered = values.flatten(1).sort(dim=1).values
        last = ordered.shape[1] - 1
        found.append(ordered[:, [round(q * last) for q in QUANTILES]])
    return torch.cat([*found, view.mean(dim=(2, 3))], dim=1)


def _mean3(maps: Tensor) -> Tensor:
    """The mean of each 3 x 3 neighbourhood; at borders of what is there of it."""
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def _log(energy: Tensor) -> Tensor:
    """About -1 for what no 8-bit file shows to 3 for the strongest."""
    return (energy + 1e-3).log10() + 2.0


def _calm_and_busy(detail: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1, S, S) -> what a fifth of its cells of 4 x 4 lies below, and a twentieth above."""
    cells = F.avg_pool2d(detail, 4).flatten(1).sort(dim=1).values
    return _log(cells[:, cells.shape[1] // 5]), _log(cells[:, cells.shape[1] * 19 // 20])
