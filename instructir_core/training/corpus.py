"""The instruction corpus: sentences for each task and kind of speaker, and how they are drawn.

`corpus/LANGUAGE.tsv` holds hand-written sentences and `corpus/LANGUAGE.txt` hand-written patterns,
which this module expands; `corpus/README.md` is the data card. What people add, such as greetings
and typos, is drawn by `framing.vary`. Test sentences live elsewhere (`tests/data`) and are refused
here.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from ..files import write_atomically
from ..tasks import CLASSES
from ..words import tokenize
from .framing import pick

SPEAKERS = ("photographer", "adult", "child")
SPLITS = ("train", "validation", "test")
_FIRST_READ = ("en", "zh")
"""Languages whose sentences and splits stay as they are whatever other languages are added."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of the corpus."""

    task: str
    speaker: str
    language: str
    """As its file is named: ``en``, ``zh``."""
    meaning: str
    """Shared by sentences that say the same in other words, whatever the language."""
    handwritten: bool
    """Written as it stands; otherwise expanded from a pattern."""
    text: str
    split: str = ""
    """One of ``SPLITS``."""


def load_corpus(
    seed: int = 0,
    per_pattern: int = 24,
    excluded: Iterable[str] = (),
    split: str | None = None,
    languages: Sequence[str] | None = None,
) -> list[Sentence]:
    """The hand-written sentences and up to ``per_pattern`` of each pattern, without near-repeats.

    ``excluded`` are sentences (such as a test set) that must not appear, nor nearly so. ``split``
    is one of ``SPLITS`` and ``languages`` such as ``["en"]``; None takes all. The same seed gives
    the same list. Raises ``ValueError`` for unknown names and for a line that cannot be read.
    """
    if split not in (None, *SPLITS):
        raise ValueError(f"found the split {split!r}; expected one of {', '.join(SPLITS)}.")
    candidates: list[Sentence] = []
    folder = resources.files(__package__).joinpath("corpus")

    def place(name: str) -> tuple[str, bool, str]:
        # .tsv first: of two that nearly repeat each other, the hand-written one stays.
        language, _, kind = name.partition(".")
        return kind, language not in _FIRST_READ, language

    for file in sorted(folder.iterdir(), key=lambda f: place(f.name)):
        if file.name.endswith(".tsv"):
            candidates += _handwritten(file.name, file.read_text("utf-8"))
        elif file.name.endswith(".txt"):
            candidates += _expanded(file.name, file.read_text("utf-8"), seed, per_pattern)
    known = sorted({s.language for s in candidates})
    if unknown := set(languages or ()) - set(known):
        raise ValueError(f"found no corpus in {', '.join(unknown)}; there is {', '.join(known)}.")
    splits = _deal(candidates)
    return [
        replace(s, split=splits[s.meaning])
        for s in _distinct(candidates, excluded)
        if split in (None, splits[s.meaning]) and s.language in (languages or known)
    ]


def _deal(sentences: Iterable[Sentence]) -> dict[str, str]:
    """The split of each meaning, so that rewordings are never parted.

    Dealt out for each task, language and origin, so that every one of them is in every split;
    patterns of the languages that have few of them are dealt together, or a quarter would be held.
    """
    groups: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    met: set[str] = set()
    for s in sentences:
        if s.meaning not in met:
            met.add(s.meaning)
            alone = s.handwritten or s.language in _FIRST_READ
            groups[s.task, s.language if alone else "", s.handwritten].append(s.meaning)
    splits = {}
    for meanings in groups.values():
        meanings.sort(key=lambda meaning: zlib.crc32(meaning.encode()))
        for place, meaning in enumerate(meanings):
            splits[meaning] = {0: "validation", 1: "test"}.get(place % 20, "train")
    return splits


def _handwritten(name: str, text: str) -> Iterator[Sentence]:
    language = name.partition(".")[0]
    for number, line in enumerate(text.splitlines(), 1):
        if line and not line.startswith("#"):
            cells = line.split("\t")
            if len(cells) != 4 or cells[0] not in CLASSES or cells[1] not in SPEAKERS:
                raise ValueError(
                    f"{name}, line {number}: found {line!r}; expected task, speaker, meaning and "
                    "sentence with tabs between. Correct the line."
                )
            task, speaker, meaning, sentence = cells
            yield Sentence(task, speaker, language, meaning, True, sentence)


_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")


class _Grammar:
    def __init__(self, lists: dict[str, list[str]]) -> None:
        self.lists = lists

    def draw(self, pattern: str, rng: np.random.Generator) -> str:
        """One random expansion of a pattern."""
        while True:
            filled = re.sub(r"\{(\w+)\}", lambda m: pick(self.lists[m.group(1)], rng), pattern)
            filled = _CHOICE.sub(lambda m: pick(m.group(1).split("|"), rng), filled)
            if filled == pattern:
                return " ".join(pattern.split()).replace(" ,", ",")
            pattern = filled


_MEANING = re.compile(r"@(\S+) +(.*)")


def _expanded(name: str, text: str, seed: int, per_pattern: int) -> Iterator[Sentence]:
    language = name.partition(".")[0]
    lists: dict[str, list[str]] = {}
    patterns: list[tuple[str, str, str]] = []
    first = second = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            first, _, second = line[3:].partition(" ")
            if first != "list" and (first not in CLASSES or second not in SPEAKERS):
                raise ValueError(
                    f"{name}, line {number}: found {line!r}; expected '## list NAME' or "
                    "'## TASK SPEAKER'. Correct the line."
                )
        elif line and not line.startswith("# "):
            if first == "list":
                lists[second] = line.split("|")
            else:
                patterns.append((first, second, line))
    grammar = _Grammar(lists)
    for number, (task, speaker, pattern) in enumerate(patterns):
        # A pattern that names no meaning is taken to have one of its own.
        meaning = f"{task}/{language}-p{number:03}"
        if named := _MEANING.fullmatch(pattern):
            meaning, pattern = named.groups()
        rng = np.random.default_rng((seed, zlib.crc32(pattern.encode())))
        # A short pattern has few expansions: stop once draws only repeat.
        drawn = dict.fromkeys(grammar.draw(pattern, rng) for _ in range(4 * per_pattern))
        for sentence in itertools.islice(drawn, per_pattern):
            yield Sentence(task, speaker, language, meaning, False, sentence)


_FILLERS = frozenset("a an the please pls plz \u8bf7 \u7684 \u4e86 \u5427 \u554a \u5462".split())
_ALIKE = 0.9
"""Jaccard index of two sentences' words from which one nearly repeats the other."""


def _distinct(sentences: Sequence[Sentence], excluded: Iterable[str]) -> Iterator[Sentence]:
    """Those that do not nearly repeat an excluded sentence or an earlier one of the same task.

    Two sets this alike share one of their few rarest words, so only sentences that share one are
    compared (prefix filtering; Bayardo et al., Scaling up all pairs similarity search, WWW 2007).
    """
    bags = [_bag(s.text) for s in sentences]
    frequency = Counter(itertools.chain.from_iterable(bags))
    seen: dict[tuple[str, str], list[frozenset[str]]] = defaultdict(list)

    def rarest(bag: frozenset[str]) -> list[str]:
        count = len(bag) - math.ceil(_ALIKE * len(bag)) + 1
        return sorted(bag, key=lambda word: (frequency[word], word))[:count]

    for bag in map(_bag, excluded):
        for task, word in itertools.product(CLASSES, rarest(bag)):
            seen[task, word].append(bag)
    for sentence, bag in zip(sentences, bags, strict=True):
        words = rarest(bag)
        earlier = itertools.chain.from_iterable(seen[sentence.task, word] for word in words)
        if not any(len(bag & other) >= _ALIKE * len(bag | other) for other in earlier):
            for word in words:
                seen[sentence.task, word].append(bag)
            yield sentence


def _bag(text: str) -> frozenset[str]:
    words = frozenset(tokenize(text))
    return words - _FILLERS or words


def card(corpus: Sequence[Sentence]) -> str:
    """The data card's tables in Markdown: hand-written + expanded sentences, and the split."""
    cells = Counter((s.task, s.language, s.speaker, s.handwritten) for s in corpus)

    def cell(task: str, language: str, speakers: Sequence[str]) -> str:
        tasks = CLASSES if task == "all" else (task,)
        keys = list(itertools.product(tasks, (language,), speakers))
        return " + ".join(str(sum(cells[(*key, hand)] for key in keys)) for hand in (True, False))

    languages = sorted({s.language for s in corpus})
    lines = [
        f"| task | language | {' | '.join(SPEAKERS)} | all |",
        "|---|---|" + "--:|" * (len(SPEAKERS) + 1),
    ]
    for task, language in itertools.product((*CLASSES, "all"), languages):
        columns = [cell(task, language, [s]) for s in SPEAKERS] + [cell(task, language, SPEAKERS)]
        lines.append(f"| {task} | {language} | {' | '.join(columns)} |")
    meanings = {part: {s.meaning for s in corpus if s.split == part} for part in SPLITS}
    parts = Counter(s.split for s in corpus)
    lines += ["", "| split | meanings | sentences |", "|---|--:|--:|"]
    lines += [f"| {part} | {len(meanings[part])} | {parts[part]} |" for part in SPLITS]
    return "\n".join(lines)


def write_tsv(path: Path, corpus: Iterable[Sentence]) -> None:
    """The whole corpus as one table, tab-separated, with a heading line."""
    rows = ["task\tlanguage\tspeaker\tmeaning\torigin\tsplit\tsentence"]
    for s in corpus:
        origin = "handwritten" if s.handwritten else "expanded"
        rows.append("\t".join((s.task, s.language, s.speaker, s.meaning, origin, s.split, s.text)))
    write_atomically(path, ("\n".join(rows) + "\n").encode())
