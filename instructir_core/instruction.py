"""A sentence as it was read: its embedding, the tasks it asks for, and what to say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from .tasks import NO_TASK, TASK_WORDS

SECOND_TASK = 0.2
"""A task read with at least this probability counts as asked for."""
UNSURE = 0.6
"""A sentence read less surely than this is worth saying in other words."""
NOTHING = 0.5
"""From this probability of `NO_TASK` on, a sentence is taken to ask for nothing."""
UNKNOWN_LANGUAGE = 0.7
"""From this probability on, a sentence is taken to be in no language that the model knows."""
LANGUAGES = {
    "en": "English", "zh": "Chinese (simplified)", "zh-Hant": "Chinese (traditional)",
    "ja": "Japanese", "ko": "Korean", "de": "German", "fr": "French", "es": "Spanish",
    "pt": "Portuguese", "ru": "Russian",
}  # fmt: skip
"""Codes of languages -> their names."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """A sentence as the image network sees it; ``eq=False`` because it holds a tensor."""

    text: str
    embedding: Tensor
    """(1, 256) float32, unit norm, on the CPU."""
    task: str
    """The most probable task, one of `tasks.CLASSES`."""
    probabilities: dict[str, float]
    """Probability of every task that the model knows; they sum to 1."""
    model: str
    """Name of the model that encoded it; embeddings of different models do not mix."""
    languages: tuple[str, ...] = ()
    """Where it is in none of the languages that the model knows: those."""

    def copy(self) -> Instruction:
        """The same with tensors of its own."""
        own = dict(self.probabilities)
        return replace(self, embedding=self.embedding.clone(), probabilities=own)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task the sentence seems to ask for, `task` first, then the most probable."""
        others = (t for t, p in self.probabilities.items() if t != self.task and p >= SECOND_TASK)
        return (self.task, *sorted(others, key=self.probabilities.__getitem__, reverse=True))

    @property
    def asks_nothing(self) -> bool:
        """It is no request that the model can carry out: the picture stays as it is."""
        return self.probabilities.get(NO_TASK, 0.0) >= NOTHING

    @property
    def doubt(self) -> str | None:
        """Why it may not be what was meant: ``language``, ``nothing``, ``several``, ``unsure``."""
        if self.languages:
            return "language"
        if self.task == NO_TASK:
            return "nothing"
        if len(self.tasks) > 1 and NO_TASK not in self.tasks[:2]:
            return "several"
        sure = self.probabilities[self.task] >= UNSURE and NO_TASK not in self.tasks
        return None if sure else "unsure"

    @property
    def advice(self) -> str | None:
        """What to do about a sentence that was not read surely as one task, or None."""
        read = [TASK_WORDS[t] for t in self.tasks]
        share = self.probabilities[self.task]
        match self.doubt:
            case None:
                return None
            case "language":
                known = ", ".join(LANGUAGES.get(code, code) for code in self.languages)
                return (
                    "This sentence seems to be in a language that the model does not read. It "
                    f"reads {known}."
                )
            case "nothing":
                return "This sentence names nothing that the model restores. Say what is wrong."
            case "several":
                return (
                    f"This sentence is about {' and '.join(read)} at once. Give each its own "
                    "instruction and chain them: the network is trained to do one thing at a time."
                )
        doubt = f"{share:.0%} only"
        if NO_TASK in self.tasks:
            doubt = f"{share:.0%}, and as {read[1]} with {self.probabilities[self.tasks[1]]:.0%}"
        return f"Read as {read[0]} with {doubt}. Say it in other words, such as 'remove the noise'."

    def __str__(self) -> str:
        read = " + ".join(f"{t} {self.probabilities[t]:.0%}" for t in self.tasks)
        return f"{self.text!r}: {read}"


def without(probabilities: dict[str, float], foreign: float) -> dict[str, float]:
    """What a sentence asks for when it is in an unknown language with this probability: nothing."""
    if not foreign:
        return probabilities
    shares = {task: p * (1.0 - foreign) for task, p in probabilities.items()}
    return {**shares, NO_TASK: shares[NO_TASK] + foreign}


def strongest(probabilities: Mapping[str, float]) -> str:
    """The most probable task; `NO_TASK` only where it is as probable as all others together."""
    best = max(probabilities, key=probabilities.__getitem__)
    if best == NO_TASK and probabilities[best] < NOTHING:
        best = max((t for t in probabilities if t != best), key=probabilities.__getitem__)
    return best
