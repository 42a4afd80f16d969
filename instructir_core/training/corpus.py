"""The instruction corpus: sentences for each task and kind of speaker, and how they are drawn.

`corpus/LANGUAGE.tsv` holds hand-written sentences and `corpus/LANGUAGE.txt` hand-written patterns,
which this module expands; `corpus/README.md` is the data card. When drawing, `vary` adds what
people add: greetings, politeness, typos, missing capitals. Test sentences live elsewhere
(`tests/data`) and are refused here.
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
from typing import TypeVar

import numpy as np

from ..files import write_atomically
from ..tasks import CLASSES
from ..text import tokenize

SPEAKERS = ("photographer", "adult", "child")
SPLITS = ("train", "validation", "test")
_T = TypeVar("_T")


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
    # .tsv first: of two that nearly repeat each other, the hand-written one stays.
    for file in sorted(folder.iterdir(), key=lambda f: f.name.split(".")[::-1]):
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

    Dealt out for each task, language and origin, so that every one of them is in every split.
    """
    groups: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    met: set[str] = set()
    for s in sentences:
        if s.meaning not in met:
            met.add(s.meaning)
            groups[s.task, s.language, s.handwritten].append(s.meaning)
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
            filled = re.sub(r"\{(\w+)\}", lambda m: _pick(self.lists[m.group(1)], rng), pattern)
            filled = _CHOICE.sub(lambda m: _pick(m.group(1).split("|"), rng), filled)
            if filled == pattern:
                return " ".join(pattern.split()).replace(" ,", ",")
            pattern = filled


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]


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


_OPENINGS = (
    "please", "can you", "could you please", "hey,", "hi!", "pls", "I want you to", "would you",
    "yo", "kindly", "help!", "ok so", "um", "hello,", "I need you to", "just", "quickly",
)  # fmt: skip
_CLOSINGS = (
    "please", "thanks", "pls", "thank you!", "!!", "asap", "?", "for me", ":)", "lol", "if you can",
    "thx", "plz", "...", "right now", "as best you can", "and keep the rest", ".",
)  # fmt: skip
_OPENINGS_ZH = (
    "请", "帮我", "请帮我", "麻烦", "麻烦你", "能不能", "可以", "帮忙", "你好，", "嗨，", "那个，",
    "我想", "急！", "拜托，", "大神，", "老师，", "亲，", "给我", "快",
)  # fmt: skip
_CLOSINGS_ZH = (
    "吧", "谢谢", "，谢谢", "，谢谢！", "！", "。", "！！", "？", "啊", "呗", "可以吗", "好吗",
    "行吗", "，拜托了", "，急", "～", "……", "，辛苦了", "，其他别动", " 3q",
)  # fmt: skip
_SLIPS_ZH = dict(
    zip(
        "的得在再像象做作糊噪暗点那哪清晰雨雾亮片照",
        "得的再在象像作做胡燥按典哪那青析语务量篇找",
        strict=True,
    )
)
"""Characters that a phonetic keyboard confuses."""
_CHINESE = re.compile("[\u3400-\u9fff]")
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
        return word[:i] + _pick(_NEIGHBOURS.get(word[i], "e"), rng) + word[i + 1 :]
    vowels = [k for k, letter in enumerate(word) if letter in "aeiou"]
    if not vowels:
        return word
    k = vowels[int(rng.integers(len(vowels)))]
    return word[:k] + _pick("aeiou", rng) + word[k + 1 :]


def vary(text: str, rng: np.random.Generator) -> str:
    """The sentence as another person would type it: framed, misspelt, without capitals."""
    if _CHINESE.search(text):
        return _vary_chinese(text, rng)
    opening = _pick(_OPENINGS, rng) + " " if rng.random() < 0.2 else ""
    closing = " " + _pick(_CLOSINGS, rng) if rng.random() < 0.2 else ""
    words = text.split()
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 3)):
            i = int(rng.integers(len(words)))
            words[i] = _misspell(words[i], rng)
    if len(words) > 4 and rng.random() < 0.1:
        del words[int(rng.integers(len(words)))]
    return opening + " ".join(words) + closing


def _vary_chinese(text: str, rng: np.random.Generator) -> str:
    opening = _pick(_OPENINGS_ZH, rng) if rng.random() < 0.2 else ""
    closing = _pick(_CLOSINGS_ZH, rng) if rng.random() < 0.2 else ""
    if rng.random() < 0.2:
        text = re.sub("[，。！？、；：]", lambda _: _pick(("", " ", ","), rng), text).strip()
    characters = list(text)
    if rng.random() < 0.15:
        slips = [i for i, c in enumerate(characters) if c in _SLIPS_ZH]
        if slips:
            i = _pick(slips, rng)
            characters[i] = _SLIPS_ZH[characters[i]]
    if len(characters) > 6 and rng.random() < 0.1:
        del characters[int(rng.integers(len(characters)))]
    text = "".join(characters)
    return opening + (text.rstrip("。！？，") if closing else text) + closing


_LINKS = (" and ", ", then ", " and also ", ", ", "; ", " and then ", " & ", " plus ")
_LINKS_ZH = ("，", "，然后", "，再", "，并且", "，同时", "，还有", "，也", "；", "，最后", "，顺便")


def join(first: str, second: str, rng: np.random.Generator) -> str:
    """Two requests of one language in one sentence."""
    links = _LINKS_ZH if _CHINESE.search(first) else _LINKS
    return first.rstrip(".!?。！？") + _pick(links, rng) + second


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
