"""A picture under every instruction, on one sheet: to choose by eye.

instructir sheet PHOTO -o SHEET.jpg
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import pictures, sheets
from .instruction import Instruction
from .pipeline import Restorer
from .suggest import Suggestion
from .tasks import TASKS

COLUMNS = 4
NO_DIAGNOSIS = "This model has no diagnosis: judge by eye."
SMALLEST = 16
"""Pixels of the longer side of a view."""


def instructions(restorer: Restorer) -> dict[str, Instruction]:
    """Task -> its instruction, in the menu's order, of every task that the model knows.

    Raises ValueError where the model has no reader.
    """
    known = restorer.reader.tasks if restorer.reader is not None else TASKS
    return {name: restorer.encode(task.prompt) for name, task in TASKS.items() if name in known}


def shrunk(picture: Tensor, size: int) -> Tensor:
    """(H, W, 3) -> the same with a longer side of at most ``size``; 0 keeps it."""
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    if not 0.0 < scale < 1.0:
        return picture
    smaller = (max(1, round(scale * height)), max(1, round(scale * width)))
    shown = picture.permute(2, 0, 1)[None].float()
    shown = F.interpolate(shown, smaller, mode="bilinear", antialias=True)
    return shown[0].permute(1, 2, 0).clamp(0.0, 1.0)


def try_all(restorer: Restorer, picture: Tensor) -> dict[str, Tensor]:
    """(H, W, 3) -> task -> the same restored, in the menu's order; errors as `Restorer.restore`."""
    return {task: restorer.restore(picture, one) for task, one in instructions(restorer).items()}


def sheet(
    picture: Tensor, tried: Mapping[str, Tensor], found: Suggestion | None = None
) -> sheets.Bytes:
    """(H, W, 3) and it under every task -> one captioned picture, (H, W, 3) of 8 bits.

    Each caption tells how severe ``found`` says the task's damage is, and how many levels of 255
    the restoration changed on average. A frame marks the best guess: the first of what is
    suggested, or the picture as it is.
    """
    before = picture.detach().float().cpu()
    best = None
    if found is not None:
        best = found.instructions[0].text if found.instructions else ""
    cells = [("as it is" + (" (best guess)" if best == "" else ""), before)]
    for task, after in tried.items():
        after = after.detach().float().cpu()
        words = [TASKS[task].label]
        if found is not None and task in found.severities:
            words.append(f"severity {found.severities[task]:.2f}")
        words.append(f"changed {255 * float((after - before).abs().mean()):.1f}")
        mark = " (best guess)" if best == TASKS[task].prompt else ""
        cells.append((", ".join(words) + mark, after))
    drawn = [(words, sheets.shrink(pixels.numpy(), pixels.shape[1])) for words, pixels in cells]
    marked = next((words for words, _ in drawn if words.endswith("(best guess)")), None)
    title = NO_DIAGNOSIS if found is None else f"{found.report}. Severities are from 0 to 1."
    title += "\nChanged: by so many levels of 255, on average."
    rows = [drawn[start : start + COLUMNS] for start in range(0, len(drawn), COLUMNS)]
    return sheets.captioned(title, rows, marked=marked)


def check_size(size: int) -> None:
    """Raise ValueError unless it is 0 or `SMALLEST` pixels and more."""
    if size != 0 and size < SMALLEST:
        raise ValueError(f"--size is {size}; expected {SMALLEST} pixels or more, or 0 to keep it.")


def write_sheet(restorer: Restorer, photo: Path, target: Path, size: int = 512) -> str:
    """`sheet` of a picture file as another file; returns what was found, in words.

    Raises OSError and ValueError as `pictures.read`, `sheets.write` and `Restorer.restore`.
    """
    whole = torch.from_numpy(pictures.read(photo).for_network())
    found = restorer.suggest(whole, 1) if restorer.diagnosis is not None else None
    view = shrunk(whole, size)
    sheets.write(target, sheet(view, try_all(restorer, view), found))
    return found.report if found is not None else NO_DIAGNOSIS
