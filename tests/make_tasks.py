"""The README's picture of all seven tasks: ``python tests/make_tasks.py docs/tasks.jpg``.

Inputs are the pack's own samples and, for blur and low resolution, scikit-image's photo of an
astronaut (NASA, public domain) damaged here; what comes out is what the bundled weights give.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

sys.path.insert(0, str(Path(__file__).parents[1]))
from instructir_core import Restorer, pictures, sheets
from instructir_core.tasks import TASKS
from instructir_core.training import degradations

ROOT = Path(__file__).parents[1]
SAMPLES = {"noise": "face.jpg", "rain": "rainy.png", "haze": "hazy.png", "lol": "night.jpg",
           "en": "print.jpg"}  # fmt: skip
WIDTH = 300


def damaged(task: str) -> sheets.Pixels:
    if task in SAMPLES:
        return pictures.read(ROOT / "example_workflows" / "inputs" / SAMPLES[task]).pixels
    clean = np.asarray(Image.fromarray(data.astronaut()).crop((60, 0, 420, 260)), np.float32)
    damage = degradations.blur if task == "blur" else degradations.low_resolution
    return damage(clean / np.float32(255), np.random.default_rng(1))


def main(out: Path) -> None:
    restorer = Restorer.from_pretrained("mini", device="cpu")
    pairs = []
    for task in TASKS.values():
        before = damaged(task.name)
        after = restorer.restore(torch.from_numpy(before), restorer.encode(task.prompt)).numpy()
        pairs.append(
            [(f"“{task.prompt}”", sheets.shrink(before, WIDTH)),
             ("", sheets.shrink(after, WIDTH))]
        )  # fmt: skip
    rows = [[*left, *right] for left, right in zip(pairs[::2], [*pairs[1::2], []], strict=True)]
    sheets.write(out, sheets.captioned("", rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
