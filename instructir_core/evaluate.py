"""What a model is worth: scores on test sets, and how it takes wording, nonsense and chains.

Each experiment reads its pictures one at a time and yields one flat row of results for each
measurement; `report` makes tables and files of them. The same files and model give the same rows.

Pictures are scored as people get them: whole, at any size, clamped, and not rounded. Scores to
set beside the paper's are taken as upstream takes them (``upstream``): of the middle of each
picture, cut to multiples of 16 pixels, unclamped.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from . import bounded
from .metrics import Pixels, measure, psnr, to_8bit
from .pipeline import Restorer
from .testsets import ImageSet, clean_pictures, cropped, parse_recipe
from .text import NO_TASK, TASKS, Instruction

Row = dict[str, Any]
Pictures = list[tuple[str, Pixels]]
"""Captions and (H, W, 3) pictures to look at beside a row."""

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
WHOLE, UPSTREAM = "whole", "upstream"
"""How a row was scored: as people get a picture, or as upstream's own code scores it."""
IDENTITY_SENTENCES = 3
"""Sentences of each kind that `identity` takes unless told otherwise."""


class Sentence(NamedTuple):
    """A test sentence; ``task`` is what it asks for, several joined by commas."""

    task: str
    speaker: str
    text: str


@torch.inference_mode()
def network_output(
    restorer: Restorer, pixels: Pixels, instruction: Instruction, *, upstream: bool = False
) -> Pixels:
    """(H, W, 3) in [0, 1] -> the network's own (H, W, 3) float32; unclamped for ``upstream``."""
    image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    image = image.permute(2, 0, 1)[None].to(restorer.device, restorer.dtype)
    embedding = instruction.embedding.to(restorer.device, restorer.dtype)
    restored = bounded.run(restorer.network, image, embedding)[0].permute(1, 2, 0).float()
    return (restored if upstream else restored.clamp(0.0, 1.0)).cpu().numpy()


# --- scores ------------------------------------------------------------------------------------


def score(
    restorer: Restorer,
    images: ImageSet,
    limit: int | None = None,
    lpips: Callable[[Pixels, Pixels], float] | None = None,
    *,
    upstream: bool = False,
) -> Iterator[tuple[Row, Pictures]]:
    """Every score of each input and of its restoration, and the pictures to look at.

    The sentence is the set's own or the task's in `PROMPTS`; ``limit`` takes only the first
    pictures, ``lpips`` is `metrics.lpips`.
    """
    instruction = restorer.encode(images.sentence or PROMPTS[images.task])
    for pair in _progress(images, images.name, images.count, limit):
        pair = cropped(pair) if upstream else pair
        result = network_output(restorer, pair.degraded, instruction, upstream=upstream)
        row = _row("score", images.name, images.task, pair.name, instruction)
        row["protocol"] = UPSTREAM if upstream else WHOLE
        row["height"], row["width"] = pair.clean.shape[:2]
        for label, picture in (("input", pair.degraded), ("restored", result)):
            scores = measure(picture, pair.clean)
            if lpips is not None:
                scores["lpips"] = lpips(picture, pair.clean)
            row |= {f"{label}_{name}": value for name, value in scores.items()}
        captions = [f"{label} {row[f'{label}_psnr_float']:.2f} dB" for label in _STAGES]
        yield row, [*zip(captions, (pair.degraded, result), strict=True), ("target", pair.clean)]


_STAGES = ("input", "restored")


def wording(
    restorer: Restorer,
    images: ImageSet,
    sentences: Sequence[Sentence],
    count: int = 10,
    limit: int | None = None,
) -> Iterator[Row]:
    """The PSNR of each picture under ``count`` phrasings of its task, drawn for it alone."""
    for pair in _progress(images, f"{images.name}, {count} phrasings", images.count, limit):
        for text in phrasings(sentences, images.task, count, f"{images.name}/{pair.name}"):
            instruction = restorer.encode(text)
            result = network_output(restorer, pair.degraded, instruction)
            row = _row("wording", images.name, images.task, pair.name, instruction)
            yield row | _both_psnr(result, pair.clean)


def phrasings(sentences: Sequence[Sentence], task: str, count: int, seed: str) -> list[str]:
    """``count`` distinct sentences of one task, the same for the same seed."""
    known = sorted({s.text for s in sentences if s.task == task})
    if len(known) < count:
        raise ValueError(
            f"Found {len(known)} sentences for {task!r}; expected {count} or more. Give a file "
            "with more of them, or ask for fewer."
        )
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    return [known[i] for i in rng.choice(len(known), count, replace=False)]


# --- what should change nothing, and what takes several steps ----------------------------------


def identity(
    restorer: Restorer,
    paths: Sequence[Path],
    sentences: Sequence[Sentence],
    count: int = IDENTITY_SENTENCES,
    size: int | None = None,
    limit: int | None = None,
) -> Iterator[Row]:
    """PSNR of the result to the *input* where nothing should change.

    That is: clean pictures, and each task's degradation of them, under ``count`` sentences of
    `NO_TASK`; and clean pictures under ``count`` sentences of each task. ``size`` cuts the
    pictures to their middle.
    """
    recipes = {task: parse_recipe(task)[1] for task in TASKS}
    pictures = clean_pictures(paths, size)
    for path, clean in _progress(pictures, "identity", len(paths), limit):
        for task in (NO_TASK, *TASKS):
            given = {"clean": clean}
            if task == NO_TASK:
                given |= {f"{t} degraded": d(clean, path.stem) for t, d in recipes.items()}
            for text in phrasings(sentences, task, count, path.stem):
                instruction = restorer.encode(text)
                for state, pixels in given.items():
                    result = network_output(restorer, pixels, instruction)
                    row = _row("identity", f"{state}, asked {task}", task, path.stem, instruction)
                    yield row | _both_psnr(result, np.asarray(pixels, np.float32))


def chain(
    restorer: Restorer,
    paths: Sequence[Path],
    composition: str,
    size: int | None = None,
    limit: int | None = None,
) -> Iterator[tuple[list[Row], Pictures]]:
    """Degrade by "first+second" recipes, then undo them from the last to the first.

    One row for the input and one after each instruction: its PSNR to the clean picture.
    """
    name = f"{paths[0].parent.name} {composition}"
    steps = [parse_recipe(part) for part in composition.split("+")]
    links = [(task, restorer.encode(PROMPTS[task])) for task, _ in reversed(steps)]
    for path, clean in _progress(clean_pictures(paths, size), name, len(paths), limit):
        picture = clean
        for _, degrade in steps:
            picture = np.asarray(degrade(picture, path.stem), np.float32)
        first = {"test": "chain", "set": name, "image": path.stem, "link": 0}
        rows, shown = [first | _both_psnr(picture, clean)], [("input", picture)]
        for number, (task, instruction) in enumerate(links, start=1):
            result = network_output(restorer, picture, instruction)
            row = _row("chain", name, task, path.stem, instruction) | {"link": number}
            rows.append(row | _both_psnr(result, clean))
            picture = result
            shown.append((task, picture))
        captions = [
            f"{label} {row['psnr_float']:.2f} dB"
            for (label, _), row in zip(shown, rows, strict=True)
        ]
        yield rows, [*zip(captions, (p for _, p in shown), strict=True), ("target", clean)]


# --- sentences ---------------------------------------------------------------------------------


def read_test_sentences(path: Path) -> list[Sentence]:
    """The sentences of a tab-separated file: task, speaker (may be left out), sentence.

    Lines that are empty or start with # are left out. Raises ValueError naming a bad line.
    """
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(
            f"{path}: could not be read ({exc}); expected a UTF-8 text file of sentences. Check "
            "the path."
        ) from exc
    sentences = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) not in (2, 3) or not all(fields):
            raise ValueError(
                f"{path}, line {number}: found {line[:60]!r}; expected a task, a speaker and a "
                "sentence, with tabs between. Correct the line."
            )
        sentences.append(Sentence(fields[0], fields[1] if len(fields) == 3 else "", fields[-1]))
    if not sentences:
        raise ValueError(f"{path}: found no sentences; expected one a line. Check the file.")
    return sentences


def read_sentences(path: Path) -> list[tuple[str, str]]:
    """(task or tasks joined by commas, sentence) of each line of a tab-separated file."""
    return [(s.task, s.text) for s in read_test_sentences(path)]


def misread(restorer: Restorer, sentences: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """The sentences whose task is read wrongly, as (task, task read, sentence)."""
    read = [(task, restorer.encode(text).task, text) for task, text in sentences]
    return [row for row in read if row[0] != row[1]]


def read_all(restorer: Restorer, sentences: Sequence[Sentence]) -> Iterator[Row]:
    """One row for each sentence: what it asks for, who speaks, and the task that is read."""
    for sentence in sentences:
        if sentence.task not in (*TASKS, NO_TASK):
            raise ValueError(
                f"Found the task {sentence.task!r} for {sentence.text!r}; expected one of "
                f"{', '.join((*TASKS, NO_TASK))}. Correct the file."
            )
        row = _row("sentences", "", sentence.task, "", restorer.encode(sentence.text))
        yield row | {"speaker": sentence.speaker}


def confusion(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """(classes, counts) of rows with ``task`` and ``read_as``: a row a task, a column a reading."""
    classes = [*TASKS, NO_TASK]
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for row in rows:
        counts[classes.index(row["task"]), classes.index(row["read_as"])] += 1
    return classes, counts


# --- shared ------------------------------------------------------------------------------------


def _row(test: str, name: str, task: str, image: str, instruction: Instruction) -> Row:
    return {
        "test": test,
        "set": name,
        "task": task,
        "image": image,
        "sentence": instruction.text,
        "read_as": instruction.task,
    }


def _both_psnr(result: Pixels, target: Pixels) -> Row:
    return {
        "psnr_float": psnr(result, target),
        "psnr_8bit": psnr(to_8bit(result), to_8bit(target), 255),
    }


def _progress(items: Any, label: str, count: int, limit: int | None) -> Iterator[Any]:
    total = count if limit is None else min(count, limit)
    yield from tqdm(islice(items, limit), desc=label, total=total, leave=False)
