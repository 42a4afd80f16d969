"""Scores: PSNR, the published noise recipe, paired folders, held-out draws, sentence reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from . import image as pictures
from .pipeline import Restorer
from .text import Instruction

Pixels = npt.NDArray[Any]

PROMPTS = {
    "noise": "remove the noise from this photo",
    "blur": "this photo is blurry, make it sharp",
    "rain": "remove the rain from this photo",
    "haze": "remove the haze from this photo",
    "lol": "this photo is too dark, brighten it",
    "sr": "increase the resolution of this photo",
    "en": "improve the colours of this photo",
}
"""The sentence used for each task wherever a score needs one."""


def psnr(result: Pixels, target: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels of [0, 1] arrays."""
    if result.shape != target.shape:
        raise ValueError(f"found shapes {result.shape} and {target.shape}; expected equal ones.")
    error = float(np.mean((result.astype(np.float64) - target.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else -10.0 * float(np.log10(error))


def files(folder: Path) -> list[Path]:
    """The pictures of a folder in order of name; ValueError when there is none."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in pictures.READABLE)
    if not found:
        raise ValueError(f"{folder}: found no pictures; expected a test set. Check the path.")
    return found


@torch.inference_mode()
def network_output(restorer: Restorer, pixels: Pixels, instruction: Instruction) -> Pixels:
    """(H, W, 3) in [0, 1] -> the network's own (H, W, 3) float32, unclamped as upstream scores."""
    image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    image = image.permute(2, 0, 1)[None].to(restorer.device, restorer.dtype)
    embedding = instruction.embedding.to(restorer.device, restorer.dtype)
    restored = restorer.network(image.contiguous(memory_format=torch.channels_last), embedding)
    return restored[0].permute(1, 2, 0).float().cpu().numpy()


def noisy_set(folder: Path, sigma: float) -> Iterator[tuple[Pixels, Pixels]]:
    """Noisy and clean images of the CBSD68 protocol: seed 0 for each whole image, rounded to
    8 bits, then both centre-cropped to multiples of 16."""
    for path in files(folder):
        clean = np.rint(pictures.read(path).pixels * 255.0)
        noise = np.random.RandomState(0).normal(0, sigma, clean.shape)
        noisy = np.rint(np.clip(clean + noise, 0, 255))
        height, width = (n - n % 16 for n in clean.shape[:2])
        y, x = (clean.shape[0] - height) // 2, (clean.shape[1] - width) // 2
        window = slice(y, y + height), slice(x, x + width)
        yield noisy[window] / 255.0, clean[window] / 255.0


def paired_set(inputs: Path, targets: Path) -> Iterator[tuple[Pixels, Pixels]]:
    """Input and target of the same name, or of the name up to the first underscore (SOTS)."""
    known = {p.stem: p for p in files(targets)}
    for path in files(inputs):
        target = known.get(path.stem) or known.get(path.stem.split("_")[0])
        if target is None:
            raise ValueError(
                f"{path}: found no target of this name in {targets}; expected one. Check the set."
            )
        before, after = pictures.read(path).pixels, pictures.read(target).pixels
        if before.shape != after.shape:  # SOTS targets carry a border that the inputs lack
            y, x = ((a - b) // 2 for a, b in zip(after.shape[:2], before.shape[:2], strict=True))
            after = after[y : y + before.shape[0], x : x + before.shape[1]]
        yield before, after


def score(
    restorer: Restorer, pairs: Iterator[tuple[Pixels, Pixels]], sentence: str, label: str
) -> tuple[float, float, int]:
    """Mean PSNR in dB of the inputs and of the restored images, and how many they were."""
    instruction = restorer.encode(sentence)
    before, after = [], []
    for degraded, clean in tqdm(pairs, desc=label, leave=False):
        before.append(psnr(degraded, clean))
        after.append(psnr(network_output(restorer, degraded, instruction), clean))
    return float(np.mean(before)), float(np.mean(after)), len(before)


def read_sentences(path: Path) -> list[tuple[str, str]]:
    """(task or tasks joined by commas, sentence) of each line of a tab-separated file."""
    rows = []
    for line in path.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            task, *_, sentence = line.split("\t")
            rows.append((task, sentence))
    return rows


def misread(restorer: Restorer, sentences: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """The sentences whose task is read wrongly, as (task, task read, sentence)."""
    wrong = []
    for task, sentence in sentences:
        found = restorer.encode(sentence).task
        if found != task:
            wrong.append((task, found, sentence))
    return wrong
