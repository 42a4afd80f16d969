"""Do no harm: what is said before a picture is restored for what it does not show, and after one
got worse.

    guard = Guard(restorer.diagnosis, "warn")
    asked = guard.before(picture, instructions)
    restored = restorer.restore(picture, asked)
    if not guard.after(restored):
        restored = picture
    print(guard.notes)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .diagnose import Diagnosis
from .instruction import Instruction
from .tasks import TASK_WORDS

MODES = ("off", "warn", "skip")
"""Look at nothing; say what does harm; and keep the picture from it."""
RISE = 0.15
"""By so much a severity has to rise to be called worse: 4 dB."""
TASTE = {"lol": 0.5, "en": 0.5}
"""Light and colour are matters of taste: by so much they have to rise."""
TASTE_SHOWN = 0.5
"""Of light and colour: the share of the severity below which the picture does not show them."""
LEAST = 96
"""Pixels of the shorter side of what is looked at, where only a part is to be restored."""
_KIN = {"blur": ("blur", "sr"), "sr": ("sr", "blur")}
"""Task -> what calls for it: the lack of sharpness is one of two, and either sentence helps."""
_LIFTS = {"lol", "haze", "en"}
"""Tasks that multiply contrast, and so bring out what nobody could see before."""
_ABSENT = {
    "lol": "This picture is not dark",
    "sr": "This picture is not low in resolution",
    "en": "The colours of this picture are not dull",
}


class Guard:
    """Watches over one restoration. `before` it, then `after` it; ``notes`` is what to say."""

    def __init__(self, diagnosis: Diagnosis | None, mode: str = "warn") -> None:
        """Without a diagnosis it is off. Raises ValueError for what is none of `MODES`."""
        if mode not in MODES:
            raise ValueError(f"guard is {mode!r}; expected one of {', '.join(MODES)}.")
        self.mode = mode
        self.diagnosis = None if mode == "off" else diagnosis
        self.notes: list[str] = []
        self._found: dict[str, float] = {}
        self._asked: set[str] = set()
        self._part = (slice(None), slice(None))

    def before(
        self, picture: Tensor, instructions: Sequence[Instruction], mask: Tensor | None = None
    ) -> list[Instruction]:
        """(H, W, 3) in [0, 1] -> those to carry out: all, but with "skip" what it does not show.

        Of a picture with an (H, W) mask, what that selects is looked at.
        """
        kept = list(instructions)
        if self.diagnosis is None or not kept:
            return kept
        if mask is not None:
            self._part = (_span(mask.amax(1)), _span(mask.amax(0)))
        self._found = self.diagnosis.severities(picture[self._part].clamp(0.0, 1.0))
        kept, lifted = [], False
        for instruction in instructions:
            task = instruction.task
            # What comes later may be meant for what the earlier brings out.
            if self._shows(task) or (lifted and task not in TASTE):
                kept.append(instruction)
            else:
                absent = _ABSENT.get(task, f"This picture shows no {TASK_WORDS.get(task, task)}")
                if self.mode == "skip":
                    self.notes.append(f"{absent}: {instruction.text!r} was left out.")
                else:
                    self.notes.append(f"{absent}: {instruction.text!r} may do harm.")
                    kept.append(instruction)
            lifted = lifted or task in _LIFTS
        self._asked = {instruction.task for instruction in kept}
        return kept

    def after(self, restored: Tensor) -> bool:
        """(H, W, 3) of the same picture, restored -> False where the picture is to come back."""
        if self.diagnosis is None or not self._found or not self._asked:
            return True
        now = self.diagnosis.severities(restored[self._part].clamp(0.0, 1.0))
        before, thresholds = self._found, self.diagnosis.thresholds
        # Haze taken away brings out some noise: that is no harm where more was gained than lost.
        gain = max((before[t] - now[t] for t in self._asked if t in now), default=0.0)
        worse = [
            f"{TASK_WORDS.get(task, task)} rose from {before[task]:.1f} to {now[task]:.1f}"
            for task in now
            if now[task] - before[task] >= max(TASTE.get(task, RISE), gain)
            and now[task] >= thresholds[task]
        ]
        if not worse:
            return True
        end = ": the picture is left as it was." if self.mode == "skip" else "."
        self.notes.append(f"Got worse: {', '.join(worse)}{end}")
        return self.mode != "skip"

    def _shows(self, task: str) -> bool:
        """Whether a picture asks for this, as far as is known."""
        assert self.diagnosis is not None
        absent = self.diagnosis.absent
        if task not in absent:
            return True
        share = TASTE_SHOWN if task in TASTE else 1.0
        return any(
            self._found[kin] >= share * absent[kin]
            for kin in _KIN.get(task, (task,))
            if kin in absent
        )


def _span(selected: Tensor) -> slice:
    """The places along a side that a mask selects, and some beside them where these are few."""
    places = (selected >= 0.5).nonzero().flatten().tolist()
    if not places:
        return slice(None)
    first, end = places[0], places[-1] + 1
    more = max(0, LEAST - (end - first))
    first = max(0, min(first - more // 2, len(selected) - LEAST))
    return slice(first, max(end, first + LEAST))
