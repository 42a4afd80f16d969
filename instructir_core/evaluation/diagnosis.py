"""What suggestions are worth: is the right sentence named, does it restore, are harms warned of.

On photos that training held out, under fresh degradations, and on test sets. Every picture gives a
row of results; the worst misreadings go on a sheet.

    report = evaluate_suggestions(restorer, sets, held, count=82)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .. import sheets
from ..diagnose import Diagnosis, severity
from ..guard import Guard
from ..instruction import Instruction
from ..pipeline import Restorer
from ..suggest import Suggestion
from ..tasks import NO_TASK, TASKS
from ..training.diagnosis_samples import Sample, Sources, draw_sample
from ..training.streams import Stream, stream
from .metrics import Pixels, psnr
from .report import Captioned, Report, Row
from .sets import ImageSet, clean_pictures

PLAIN = severity(32.0)
"""Degradations weaker than this are not asked about: 32 dB to the picture without."""
NEAR = 0.5
"""In dB: a suggestion that restores so close to the best of all sentences is good enough."""
HARM = 1.0
"""In dB: what a result has lost of the input's PSNR to be called harmed."""
_MISREAD = 24
"""Rows of the sheet of what was misread."""
_WIDTH = 320
_SEED = 20_000
"""Apart from every seed that training and calibration use."""


@dataclass
class Findings:
    """Collects what was found, and tells it."""

    report: Report
    tell: Callable[[str], None]
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Keep one row."""
        self.report.add([row])

    def misread(self, true: str, read: str, picture: Pixels, clean: Pixels, said: str) -> None:
        """Keep a picture whose suggestion is wrong for the sheet."""
        shown: Captioned = [
            (f"{true}, read {read}", sheets.shrink(picture, _WIDTH)),
            (said[:60], sheets.shrink(clean, _WIDTH)),
        ]
        rows = self.report.shown.setdefault("suggest misread", [])
        if len(rows) < _MISREAD:
            rows.append(shown)

    def share(self, label: str, hits: Sequence[bool], wanted: str = "") -> None:
        """A line such as "right sentence 92.0% of 84 (88%)"."""
        if hits:
            aim = f"  (aim: {wanted})" if wanted else ""
            self.tell(f"  {label:<58}{np.mean(hits):>7.1%} of {len(hits)}{aim}")


def evaluate_suggestions(
    restorer: Restorer,
    sets: Sequence[ImageSet],
    held: Sources | None,
    *,
    unchanged: Sequence[Path] = (),
    count: int = 12,
    limit: int | None = None,
    report: Report | None = None,
    tell: Callable[[str], None] = tqdm.write,
) -> Report:
    """Every experiment: ``count`` fresh pictures of each task from ``held`` photos, and the sets.

    ``unchanged`` are clean pictures; ``limit`` takes only the first of each set. Raises ValueError
    where the model has no diagnosis.
    """
    report = report or Report(None, {})
    findings = Findings(report, tell)
    if held is not None:
        single(restorer, held, count, findings)
        composed(restorer, held, 3 * count, findings)
        for guises in (False, True):
            samples = (draw_sample(held, _rng(8, n), 0, guises=guises) for n in range(8 * count))
            name = "clean held-out pictures" + (
                " in other guises" if guises else ", cut and scaled"
            )
            nothing(restorer, name, (sample.picture for sample in samples), findings)
        whole = (pixels for _, pixels in clean_pictures([*held.photos, *held.graphics]))
        nothing(restorer, "held-out photos and graphics as they are", whole, findings)
    if unchanged:
        clean = (pixels for _, pixels in clean_pictures(unchanged[:limit]))
        nothing(restorer, f"{unchanged[0].parent.name} as it is", clean, findings)
    for images in sets:
        known(restorer, images, limit, findings)
    report.save()
    return report


def _rng(*place: int) -> np.random.Generator:
    return stream(_SEED, Stream.DIAGNOSES, *place)


def _tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels, np.float32))


def _tasks(suggestion: Suggestion) -> list[str]:
    """What is suggested, in the order to carry out."""
    named = {known.prompt: task for task, known in TASKS.items()}
    return [named[sentence] for sentence in suggestion.sentences]


def _plain(held: Sources, number: int, count: int, task: str | None = None) -> Iterator[Sample]:
    """Samples all of whose degradations are `PLAIN`."""
    for attempt in range(10_000):
        sample = draw_sample(held, _rng(count, number, attempt), count, task, guises=False)
        if min(sample.severities[name] for name in sample.tasks) > PLAIN:
            yield sample


# --- fresh degradations ------------------------------------------------------------------------


def single(restorer: Restorer, held: Sources, count: int, findings: Findings) -> None:
    """One degradation each: what is suggested, how well it restores, and what is warned of."""
    sentences = {task: restorer.encode(known.prompt) for task, known in TASKS.items()}
    right, near, harmed, unharmed, fine = [], [], [], [], []
    for number, task in enumerate(TASKS):
        samples = islice(_plain(held, number, 1, task), count)
        for index, sample in enumerate(tqdm(samples, task, count, leave=False)):
            suggestion = restorer.suggest(_tensor(sample.picture), 1)
            (read,) = _tasks(suggestion) or [NO_TASK]
            before = psnr(sample.picture, sample.clean)
            after, warned = _all(restorer, sample, sentences)
            gap = max(after.values()) - after.get(read, before)
            findings.confusion[task, read] += 1
            right.append(read == task)
            near.append(gap <= NEAR)
            harmed += [warned[t] for t in TASKS if t != task and before - after[t] >= HARM]
            unharmed += [warned[t] for t in TASKS if t != task and before - after[t] < HARM]
            fine.append(warned[task])
            image = f"{task} {index}"
            findings.add(
                Row("suggest", "held-out", task, image, read_as=read, value=gap, unit="dB")
            )
            for t, instruction in sentences.items():
                row = Row("guard", "held-out", task, image, instruction.text, t)
                said = "warned" if warned[t] else "silent"
                findings.add(replace(row, value=before - after[t], unit="dB", speaker=said))
            if read != task:
                findings.misread(task, read, sample.picture, sample.clean, suggestion.report)
    findings.tell(_table(findings.confusion))
    findings.share("the suggested sentence is the right one", right, "88%")
    findings.share(f"and restores within {NEAR} dB of the best of all", near, "95%")
    findings.share(f"warned of a wrong sentence that lost {HARM:g} dB or more", harmed, "90%")
    findings.share("warned of a wrong sentence that lost less", unharmed)
    findings.share("warned of the right sentence", fine, "5% at most")


def _all(
    restorer: Restorer, sample: Sample, sentences: dict[str, Instruction]
) -> tuple[dict[str, float], dict[str, bool]]:
    """PSNR of the result of every sentence, and whether it was warned of."""
    picture, after, warned = _tensor(sample.picture), {}, {}
    once = _Once(restorer.diagnosis)
    for task, instruction in sentences.items():
        guard = Guard(once)  # type: ignore[arg-type]
        result = restorer.restore(picture, guard.before(picture, [instruction]))
        guard.after(result)
        after[task] = psnr(result.numpy(), sample.clean)
        warned[task] = bool(guard.notes)
    return after, warned


class _Once:
    """A diagnosis that looks only once at the picture to which every sentence is put."""

    def __init__(self, diagnosis: Diagnosis | None) -> None:
        assert diagnosis is not None
        self.diagnosis = diagnosis
        self.first: torch.Tensor | None = None
        self.thresholds, self.absent = diagnosis.thresholds, diagnosis.absent
        self.found: dict[str, float] = {}

    def severities(self, image: torch.Tensor) -> dict[str, float]:
        if self.first is None:
            self.first, self.found = image.clone(), self.diagnosis.severities(image)
        elif not torch.equal(image, self.first):
            return self.diagnosis.severities(image)
        return self.found


def composed(restorer: Restorer, held: Sources, count: int, findings: Findings) -> None:
    """Two degradations each: are both named, and in the order that undoes them."""
    both, ordered = [], []
    for number in tqdm(range(count), "two composed", leave=False):
        sample = next(_plain(held, number, 2))
        suggestion = restorer.suggest(_tensor(sample.picture), 2)
        read = _tasks(suggestion)
        both.append(set(read) == set(sample.tasks))
        if both[-1]:
            ordered.append(read == [*reversed(sample.tasks)])
        true = "+".join(sample.tasks)
        findings.add(Row("suggest", "held-out, two", true, str(number), read_as="+".join(read)))
        if not both[-1]:
            said = suggestion.report
            findings.misread(true, "+".join(read), sample.picture, sample.clean, said)
    findings.share("of two composed, both are named", both, "75%")
    findings.share("and in the order that undoes them", ordered, "90%")


def nothing(restorer: Restorer, name: str, pictures: Iterator[Pixels], findings: Findings) -> None:
    """Pictures that need nothing: is nothing suggested?"""
    right, read = [], Counter[str]()
    for index, pixels in enumerate(tqdm(pictures, name, leave=False)):
        suggestion = restorer.suggest(_tensor(pixels), 2)
        tasks = _tasks(suggestion)
        right.append(not tasks)
        read.update(tasks)
        said = "+".join(tasks) or NO_TASK
        findings.add(Row("suggest", name, NO_TASK, str(index), read_as=said))
        if tasks:
            findings.misread("clean", said, pixels, pixels, suggestion.report)
    findings.share(f"nothing suggested: {name}", right, "95%")
    if read:
        findings.tell(f"    wrongly: {', '.join(f'{t} {n}' for t, n in read.most_common())}")


def _table(confusion: Counter[tuple[str, str]]) -> str:
    """Rows: what was done to a picture; columns: what was suggested first."""
    names = [*TASKS, NO_TASK]
    lines = ["Held-out photos: what was done (rows), and what is suggested first (columns)"]
    lines.append(f"{'':<8}" + "".join(f"{name:>7}" for name in names) + f"{'right':>9}")
    for task in TASKS:
        counts = [confusion[task, read] for read in names]
        share = confusion[task, task] / max(1, sum(counts))
        lines.append(f"{task:<8}" + "".join(f"{n or '.':>7}" for n in counts) + f"{share:>9.1%}")
    return "\n".join(lines)


# --- test sets ---------------------------------------------------------------------------------


def known(restorer: Restorer, images: ImageSet, limit: int | None, findings: Findings) -> None:
    """A test set: the share of right suggestions, and ``auto`` beside the right sentence."""
    right, gaps, others = [], [], Counter[str]()
    count = images.count if limit is None else min(limit, images.count)
    for pair in tqdm(islice(images, limit), images.name, count, leave=False):
        picture = _tensor(pair.degraded)
        suggestion = restorer.suggest(picture, 2)
        tasks = _tasks(suggestion)
        first = max(tasks, key=suggestion.severities.__getitem__, default=NO_TASK)
        right.append(first == images.task)
        row = Row("suggest", images.name, images.task, pair.name, read_as="+".join(tasks))
        if images.task in TASKS:
            auto = restorer.restore(picture, suggestion.instructions).numpy()
            asked = restorer.encode(TASKS[images.task].prompt)
            best = restorer.restore(picture, asked).numpy() if tasks != [images.task] else auto
            gaps.append(psnr(auto, pair.clean) - psnr(best, pair.clean))
            row = replace(row, value=gaps[-1], unit="dB")
        findings.add(row)
        if not right[-1]:
            others[first] += 1
            findings.misread(images.task, first, pair.degraded, pair.clean, suggestion.report)
    line = f"  {images.name:<30}{sum(right):>4} of {len(right)} right"
    if gaps:
        line += f", auto less the right sentence: {np.mean(gaps):+.2f} dB, worst {min(gaps):+.2f}"
    findings.tell(line + (f"; else {dict(others)}" if others else ""))
