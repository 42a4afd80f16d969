"""From what is wrong with a picture to the sentences that mend it, in the order to carry out.

`diagnose` says how severe each damage is; here the worst are chosen, and told in plain words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from statistics import median

from torch import Tensor

from .checks import check_images
from .diagnose import Diagnosis
from .instruction import Instruction
from .reading import ORDER
from .tasks import TASK_WORDS, TASKS

FRAMES = 5
"""Frames looked at, at the most, of a batch or a video."""
STRONG, MODERATE = 0.7, 0.4
"""Severities from which on a damage is called strong, and is not called a little of it: 22.5 and
30 dB."""
_DEGREES = {
    "noise": ("a little noise", "noise", "strong noise"),
    "blur": ("a little blur", "blur", "strong blur"),
    "rain": ("a little rain", "rain", "heavy rain"),
    "haze": ("a little haze", "haze", "thick haze"),
    "lol": ("a little dark", "dark", "very dark"),
    "sr": ("slightly low resolution", "low resolution", "very low resolution"),
    "en": ("slightly dull colours", "dull colours", "very dull colours"),
}
"""Task -> what is said of a slight, a moderate and a strong damage."""


@dataclass(frozen=True, eq=False)
class Suggestion:
    """What a picture needs; ``eq=False`` because instructions hold tensors."""

    severities: dict[str, float]
    """How bad each thing is, from 0 (invisible) to 1; see `diagnose`."""
    instructions: tuple[Instruction, ...]
    """What to restore, in the order to carry out; empty where nothing was found."""
    report: str
    """What was found, in plain words, the worst first."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was suggested, as a user would have said it."""
        return tuple(instruction.text for instruction in self.instructions)


def suggest(
    images: Tensor,
    diagnosis: Diagnosis,
    encode: Callable[[str], Instruction],
    *,
    most: int = 2,
    threshold: float | None = None,
) -> Suggestion:
    """Look at (H, W, 3) or (B, H, W, 3) pictures and suggest what all of them need.

    Chosen are the ``most`` severest of what reaches ``threshold``, None for the diagnosis's own
    of each task. Of more than `FRAMES` pictures as many are looked at, spread evenly; medians
    count. Raises ValueError on bad pictures, as `restore`, and bad options.
    """
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"most is {most!r}; expected how many things to suggest, 1 or more.")
    if threshold is not None and not (isinstance(threshold, Real) and 0.0 <= threshold <= 1.0):
        raise ValueError(
            f"threshold is {threshold!r}; expected a severity from 0 to 1, or None for the "
            "calibrated one of each task."
        )
    frames = check_images(images)
    looked = spread(len(frames))
    each = [diagnosis.severities(frames[index].clamp(0.0, 1.0)) for index in looked]
    severities = {task: float(median(one[task] for one in each)) for task in each[0]}
    thresholds = diagnosis.thresholds if threshold is None else dict.fromkeys(severities, threshold)
    found = [task for task in severities if severities[task] >= thresholds[task]]
    found.sort(key=severities.__getitem__, reverse=True)
    chosen = sorted(found[:most], key=lambda t: ORDER.index(t) if t in ORDER else len(ORDER))
    report = _report(severities, found, most)
    if len(frames) > 1:
        report += f" ({_which(looked, len(frames))})"
    return Suggestion(severities, tuple(encode(TASKS[task].prompt) for task in chosen), report)


def checked(diagnosis: Diagnosis | None, model: str) -> Diagnosis:
    """The diagnosis; ValueError where the model has none."""
    if diagnosis is None:
        raise ValueError(
            f"The model {model!r} has no diagnosis, which tells from a picture what it needs; "
            "expected one in the weights file. Load one that has it, such as 'mini', or add it: "
            "instructir models convert --diagnosis FILE_WITH_ONE NETWORK OUT"
        )
    return diagnosis


def spread(count: int, most: int = FRAMES) -> list[int]:
    """Which of ``count`` frames to look at: the middles of ``most`` equal parts.

    Never the very first and last of many, which fade in and out.
    """
    parts = min(count, most)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def degree(task: str, severity: float) -> str:
    """A damage and how strong it is, in words."""
    words = TASK_WORDS.get(task, task)
    slight, moderate, strong = _DEGREES.get(task, (f"a little {words}", words, f"strong {words}"))
    return strong if severity >= STRONG else moderate if severity >= MODERATE else slight


def _report(severities: Mapping[str, float], found: list[str], most: int) -> str:
    if not found:
        return "nothing found"
    words = [degree(task, severities[task]) for task in found]
    rest = f"left aside: {', '.join(words[most:])}" if words[most:] else "nothing else found"
    return f"{', '.join(words[:most])}; {rest}"


def _which(looked: list[int], count: int) -> str:
    """Which frames a suggestion stands on, counted from 1."""
    if len(looked) == count:
        return f"{count} frames"
    return f"frames {', '.join(str(index + 1) for index in looked)} of {count}"
