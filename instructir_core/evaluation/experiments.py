"""What a model is worth: scores on test sets, and how it takes wording, nonsense and chains.

Each experiment reads its pictures one at a time and yields one flat row of results for each
measurement; `report` makes tables and files of them. The same files and model give the same rows.
`evaluate` runs them all, in order.

    restorer = Restorer.from_pretrained("mini")
    report = evaluate(restorer, Evaluation(sets=find_suite(Path("TEST_SETS"))[0]))

Pictures are scored as people get them: whole, at any size, clamped, and not rounded. Scores to
set beside the paper's are taken as upstream takes them (``upstream``): of the middle of each
picture, cut to multiples of 16 pixels, unclamped.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from .. import strips
from ..instruction import Instruction
from ..pipeline import Restorer
from ..tasks import CLASSES, NO_TASK, TASKS
from .metrics import Pixels, measure, psnr, to_8bit
from .metrics import lpips as load_lpips
from .report import (
    UPSTREAM,
    WHOLE,
    Captioned,
    Report,
    Row,
    score_header,
    score_line,
    summarise_scores,
)
from .sets import ImageSet, clean_pictures, cropped, parse_recipe

IDENTITY_SENTENCES = 3
"""Sentences of each kind that `identity` takes unless told otherwise."""


class LabelledSentence(NamedTuple):
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
    restored = strips.run(restorer.network, image, embedding)[0].permute(1, 2, 0).float()
    return (restored if upstream else restored.clamp(0.0, 1.0)).cpu().numpy()


# --- scores ------------------------------------------------------------------------------------


def score(
    restorer: Restorer,
    images: ImageSet,
    limit: int | None = None,
    lpips: Callable[[Pixels, Pixels], float] | None = None,
    *,
    upstream: bool = False,
) -> Iterator[tuple[Row, Captioned]]:
    """Every score of each input and of its restoration, and the pictures to look at.

    The sentence is the set's own or the task's of `TASKS`; ``limit`` takes only the first
    pictures, ``lpips`` is `metrics.lpips`.
    """
    instruction = restorer.encode(images.sentence or TASKS[images.task].prompt)
    for pair in _progress(images, images.name, images.count, limit):
        pair = cropped(pair) if upstream else pair
        result = network_output(restorer, pair.degraded, instruction, upstream=upstream)
        before, after = (measure(picture, pair.clean) for picture in (pair.degraded, result))
        if lpips is not None:
            before["lpips"] = lpips(pair.degraded, pair.clean)
            after["lpips"] = lpips(result, pair.clean)
        height, width = pair.clean.shape[:2]
        row = replace(
            _row("score", images.name, images.task, pair.name, instruction),
            protocol=UPSTREAM if upstream else WHOLE,
            height=height,
            width=width,
            input=before,
            restored=after,
        )
        yield (
            row,
            [
                (f"input {before['psnr_float']:.2f} dB", pair.degraded),
                (f"restored {after['psnr_float']:.2f} dB", result),
                ("target", pair.clean),
            ],
        )


def wording(
    restorer: Restorer,
    images: ImageSet,
    sentences: Sequence[LabelledSentence],
    count: int = 10,
    limit: int | None = None,
) -> Iterator[Row]:
    """The PSNR of each picture under ``count`` phrasings of its task, drawn for it alone."""
    for pair in _progress(images, f"{images.name}, {count} phrasings", images.count, limit):
        for text in phrasings(sentences, images.task, count, f"{images.name}/{pair.name}"):
            instruction = restorer.encode(text)
            result = network_output(restorer, pair.degraded, instruction)
            row = _row("wording", images.name, images.task, pair.name, instruction)
            yield _with_psnr(row, result, pair.clean)


def phrasings(sentences: Sequence[LabelledSentence], task: str, count: int, seed: str) -> list[str]:
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
    sentences: Sequence[LabelledSentence],
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
                    yield _with_psnr(row, result, np.asarray(pixels, np.float32))


def chain(
    restorer: Restorer,
    paths: Sequence[Path],
    composition: str,
    size: int | None = None,
    limit: int | None = None,
) -> Iterator[tuple[list[Row], Captioned]]:
    """Degrade by "first+second" recipes, then undo them from the last to the first.

    One row for the input and one after each instruction: its PSNR to the clean picture.
    """
    name = _chain_name(paths, composition)
    steps = [parse_recipe(part) for part in composition.split("+")]
    links = [(task, restorer.encode(TASKS[task].prompt)) for task, _ in reversed(steps)]
    for path, clean in _progress(clean_pictures(paths, size), name, len(paths), limit):
        picture = clean
        for _, degrade in steps:
            picture = np.asarray(degrade(picture, path.stem), np.float32)
        rows = [_with_psnr(Row("chain", name, image=path.stem, link=0), picture, clean)]
        shown = [("input", picture)]
        for number, (task, instruction) in enumerate(links, start=1):
            result = network_output(restorer, picture, instruction)
            row = _row("chain", name, task, path.stem, instruction)
            rows.append(_with_psnr(replace(row, link=number), result, clean))
            picture = result
            shown.append((task, picture))
        captions = [
            f"{label} {row.psnr_float:.2f} dB" for (label, _), row in zip(shown, rows, strict=True)
        ]
        yield rows, [*zip(captions, (p for _, p in shown), strict=True), ("target", clean)]


def _chain_name(paths: Sequence[Path], composition: str) -> str:
    return f"{paths[0].parent.name} {composition}"


# --- sentences ---------------------------------------------------------------------------------


def read_test_sentences(path: Path) -> list[LabelledSentence]:
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
        sentences.append(
            LabelledSentence(fields[0], fields[1] if len(fields) == 3 else "", fields[-1])
        )
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


def read_all(restorer: Restorer, sentences: Sequence[LabelledSentence]) -> Iterator[Row]:
    """One row for each sentence: what it asks for, who speaks, and the task that is read."""
    for sentence in sentences:
        if sentence.task not in CLASSES:
            raise ValueError(
                f"Found the task {sentence.task!r} for {sentence.text!r}; expected one of "
                f"{', '.join(CLASSES)}. Correct the file."
            )
        row = _row("sentences", "", sentence.task, "", restorer.encode(sentence.text))
        yield replace(row, speaker=sentence.speaker)


# --- shared ------------------------------------------------------------------------------------


def _row(test: str, name: str, task: str, image: str, instruction: Instruction) -> Row:
    return Row(test, name, task, image, instruction.text, instruction.task)


def _with_psnr(row: Row, result: Pixels, target: Pixels) -> Row:
    rounded = psnr(to_8bit(result), to_8bit(target), 255)
    return replace(row, psnr_float=psnr(result, target), psnr_8bit=rounded)


def _progress(items: Any, label: str, count: int, limit: int | None) -> Iterator[Any]:
    total = count if limit is None else min(count, limit)
    yield from tqdm(islice(items, limit), desc=label, total=total, leave=False)


# --- all of it, in order -----------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """What to measure; every part may be left out.

    Making one looks at all that can be wrong, before a model is loaded: raises ValueError.
    """

    sets: Sequence[ImageSet] = ()
    chains: Sequence[tuple[Sequence[Path], str]] = ()
    """Clean pictures, and recipes joined by +: see `chain`."""
    unchanged: Sequence[Path] = ()
    """Clean pictures: see `identity`."""
    sentences: Sequence[LabelledSentence] = ()
    """To be read, and to phrase tasks with; where none are given, the corpus' test part phrases."""
    phrasings: int = 0
    """Restore each picture under so many sentences, too."""
    limit: int | None = None
    """Only the first pictures of each set."""
    size: int | None = None
    """Clean pictures are cut to this."""
    upstream: bool = False
    """Score as the paper's tables."""

    def __post_init__(self) -> None:
        names = [s.name for s in self.sets]
        for paths, composition in self.chains:
            names.append(_chain_name(paths, composition))
            for recipe in composition.split("+"):
                parse_recipe(recipe)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"Found two sets called {', '.join(twice)}; expected different names, which tell "
                "them apart in the results. Rename a folder, or evaluate one at a time."
            )
        asked = {images.task for images in self.sets if self.phrasings and images.sentence is None}
        for task in CLASSES if self.unchanged else asked:
            phrasings(self.phrases, task, self.count, task)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.sets or self.chains or self.unchanged or self.sentences)

    @property
    def count(self) -> int:
        """Sentences for each picture and task."""
        return self.phrasings or (IDENTITY_SENTENCES if self.unchanged else 0)

    @cached_property
    def phrases(self) -> Sequence[LabelledSentence]:
        """What `wording` and `identity` ask with."""
        if self.sentences or not self.count:
            return self.sentences
        from ..training.corpus import load_corpus

        return [LabelledSentence(s.task, s.speaker, s.text) for s in load_corpus(split="test")]


def _say(line: str) -> None:
    print(line, flush=True)


def evaluate(
    restorer: Restorer,
    evaluation: Evaluation,
    report: Report | None = None,
    *,
    lpips: bool = False,
    tell: Callable[[str], None] = _say,
) -> Report:
    """Run every experiment; the report is saved after each set, and its lines are told.

    ``lpips`` adds that score; its errors as `metrics.lpips`.
    """
    report = report or Report(None, {})
    measure_lpips = load_lpips(restorer.device) if lpips else None
    limit, size = evaluation.limit, evaluation.size
    for row in read_all(restorer, evaluation.sentences):
        report.add([row])
        if row.task != row.read_as:
            tell(f"  read {row.read_as} instead of {row.task}: {row.sentence}")
    if evaluation.sets:
        tell(score_header(upstream=evaluation.upstream))
    for images in evaluation.sets:
        rows: list[Row] = []
        for row, shown in score(
            restorer, images, limit, measure_lpips, upstream=evaluation.upstream
        ):
            report.show(images.name, shown, len(rows), min(images.count, limit or images.count))
            rows.append(row)
        report.add(rows)
        tell(score_line(summarise_scores(rows)))
        if evaluation.phrasings and images.sentence is None:
            report.add(wording(restorer, images, evaluation.phrases, evaluation.phrasings, limit))
        report.save()
    for paths, composition in evaluation.chains:
        for index, (rows, shown) in enumerate(chain(restorer, paths, composition, size, limit)):
            report.show(rows[0].set, shown, index, min(len(paths), limit or len(paths)))
            report.add(rows)
        report.save()
    if evaluation.unchanged:
        report.add(
            identity(
                restorer, evaluation.unchanged, evaluation.phrases, evaluation.count, size, limit
            )
        )
    report.save()
    if text := report.text:
        tell(f"\n{text}" if evaluation.sets else text)
    return report
