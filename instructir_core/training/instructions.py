"""The instruction corpus: sentences for each task and kind of speaker, and how they are drawn.

`instructions.txt` holds hand-written patterns; this module expands them, and when drawing adds
what people add: greetings, politeness, typos, missing capitals. Test sentences live elsewhere
(`tests/data`) and are refused here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import numpy as np

from ..text import NO_TASK, TASKS, tokenize

CLASSES = (*TASKS, NO_TASK)
SPEAKERS = ("photographer", "adult", "child")


@dataclass(frozen=True)
class Sentence:
    """One sentence of the corpus."""

    task: str
    speaker: str
    text: str
    pattern: int
    """Number of the pattern it was expanded from; sentences of one pattern mean the same."""


_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")


class _Grammar:
    def __init__(self, lists: dict[str, list[str]]) -> None:
        self.lists = lists

    def draw(self, pattern: str, rng: np.random.Generator) -> str:
        """One random expansion of a pattern."""
        while True:
            filled = re.sub(r"\{(\w+)\}", lambda m: _pick(self.lists[m.group(1)], rng), pattern)
            filled = _CHOICE.sub(lambda m: _pick(m.group(1).split("|"), rng), filled)
            if filled == pattern:
                return " ".join(pattern.split()).replace(" ,", ",")
            pattern = filled


def _pick(options: list[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def load_corpus(
    seed: int = 0, per_pattern: int = 24, excluded: Iterable[str] = ()
) -> list[Sentence]:
    """Expand the corpus: up to ``per_pattern`` distinct sentences of each pattern.

    ``excluded`` are sentences (such as a test set) whose words, in the same order, must not
    appear as a training sentence. The same seed gives the same list.
    """
    lists: dict[str, list[str]] = {}
    patterns: list[tuple[str, str, str]] = []
    section: tuple[str, str] = ("", "")
    text = resources.files(__package__).joinpath("instructions.txt").read_text("utf-8")
    for line in text.splitlines():
        if line.startswith("## "):
            first, _, second = line[3:].partition(" ")
            section = (first, second)
        elif line and not line.startswith("# "):
            if section[0] == "list":
                lists[section[1]] = line.split("|")
            else:
                patterns.append((*section, line))
    grammar = _Grammar(lists)
    seen = {" ".join(tokenize(s)) for s in excluded}
    rng = np.random.default_rng(seed)
    corpus = []
    for number, (task, speaker, pattern) in enumerate(patterns):
        found = 0
        # A short pattern has few expansions: stop once draws only repeat.
        for _ in range(4 * per_pattern):
            sentence = grammar.draw(pattern, rng)
            key = " ".join(tokenize(sentence))
            if key not in seen:
                seen.add(key)
                corpus.append(Sentence(task, speaker, sentence, number))
                found += 1
            if found == per_pattern:
                break
    return corpus


_OPENINGS = (
    "please", "can you", "could you please", "hey,", "hi!", "pls", "I want you to", "would you",
    "yo", "kindly", "help!", "ok so", "um", "hello,", "I need you to", "just", "quickly",
)  # fmt: skip
_CLOSINGS = (
    "please", "thanks", "pls", "thank you!", "!!", "asap", "?", "for me", ":)", "lol", "if you can",
    "thx", "plz", "...", "right now", "as best you can", "and keep the rest", ".",
)  # fmt: skip
_NEIGHBOURS = dict(
    zip(
        "qwertyuiopasdfghjklzxcvbnm",
        "wa esd rdf tfg ygh uhj ijk okl pl o qsz awdx sefc drgv fthb gyjn hukm jil ko asx zsdc "
        "xdfv cfgb vghn bhjm njk".split(),
        strict=True,
    )
)


def _misspell(word: str, rng: np.random.Generator) -> str:
    """One slip of the fingers or the ear in a word of at least four letters."""
    if len(word) < 4:
        return word
    i = int(rng.integers(1, len(word) - 1))
    kind = rng.integers(5)
    if kind == 0:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[:i] + word[i] + word[i:]
    if kind == 2:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 3:
        return word[:i] + _pick(list(_NEIGHBOURS.get(word[i], "e")), rng) + word[i + 1 :]
    vowels = [k for k, letter in enumerate(word) if letter in "aeiou"]
    if not vowels:
        return word
    k = vowels[int(rng.integers(len(vowels)))]
    return word[:k] + _pick(list("aeiou"), rng) + word[k + 1 :]


def vary(text: str, rng: np.random.Generator) -> str:
    """The sentence as another person would type it: framed, misspelt, without capitals."""
    opening = _pick(list(_OPENINGS), rng) + " " if rng.random() < 0.2 else ""
    closing = " " + _pick(list(_CLOSINGS), rng) if rng.random() < 0.2 else ""
    words = text.split()
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 3)):
            i = int(rng.integers(len(words)))
            words[i] = _misspell(words[i], rng)
    if len(words) > 4 and rng.random() < 0.1:
        del words[int(rng.integers(len(words)))]
    return opening + " ".join(words) + closing


def join(first: str, second: str, rng: np.random.Generator) -> str:
    """Two requests in one sentence."""
    links = (" and ", ", then ", " and also ", ", ", "; ", " and then ", " & ", " plus ")
    return first.rstrip(".!?") + _pick(list(links), rng) + second


def counts(corpus: Iterable[Sentence]) -> dict[tuple[str, str], int]:
    """Number of sentences per (task, speaker)."""
    cells = dict.fromkeys(itertools.product(CLASSES, SPEAKERS), 0)
    for sentence in corpus:
        cells[sentence.task, sentence.speaker] += 1
    return cells
