"""What the sentence encoder and the head are trained on: the corpus as people type it, requests
joined, and text in languages that it has none of."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..tasks import CLASSES, NO_TASK
from ..text import tokenize
from .corpus import Sentence
from .framing import join, pick, vary
from .streams import Stream, stream

VARIANTS = 5
"""Times each corpus sentence is drawn as another person would type it."""
SHORT = 8
"""Words up to which a request is joined with another: long ones make no natural pair."""
OTHER = ""
"""Stands for every language that the encoder does not know."""


@dataclass(frozen=True)
class Examples:
    """What the encoder and the head are trained on."""

    texts: list[str]
    targets: Tensor
    """(N, 8) probabilities."""
    languages: list[str]
    """Of each text; `OTHER` where it should not be read."""

    meanings: list[str]
    """Of each text, as `Sentence.meaning`; those of pairs and of `OTHER` are one."""

    def shares(self) -> npt.NDArray[np.float64]:
        """(N,) how often to draw each.

        Every task alike, `NO_TASK` twice as often, for it must hold against each of them, and
        `OTHER` as one more. Within these, languages and within them meanings by the square root of
        what there is of them, so that small ones are heard.
        """
        cells: dict[tuple[int, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, task in enumerate(self.targets.argmax(1).tolist()):
            language = self.languages[i]
            place = task if language != OTHER else len(CLASSES)
            cells[place, language][self.meanings[i]].append(i)
        mass: Counter[int] = Counter()
        for (task, _), meanings in cells.items():
            mass[task] += sum(map(len, meanings.values())) ** 0.5
        shares = np.zeros(len(self.texts))
        for (task, _), meanings in cells.items():
            cell = sum(map(len, meanings.values())) ** 0.5 / mass[task]
            cell *= 2.0 if task == CLASSES.index(NO_TASK) else 1.0
            roots = sum(len(rows) ** 0.5 for rows in meanings.values())
            for rows in meanings.values():
                shares[rows] = cell / roots * len(rows) ** -0.5
        return shares / shares.sum()


def _targets(tasks: Sequence[str]) -> Tensor:
    """(8,) probabilities: shared equally by the tasks asked for."""
    target = torch.zeros(len(CLASSES))
    for task in tasks:
        target[CLASSES.index(task)] += 1.0 / len(tasks)
    return target


def build_examples(corpus: Sequence[Sentence], seed: int, *, languages: bool = True) -> Examples:
    """Varied sentences, two joined into one, and, with ``languages``, text in other languages."""
    rng = stream(seed, Stream.EXAMPLES)
    texts, targets, spoken, meanings = [], [], [], []
    for sentence in corpus:
        # Hand-written sentences say what no pattern does, and are far fewer.
        copies = VARIANTS * (2 if sentence.handwritten else 1)
        typed = (vary(sentence.text, rng, sentence.language) for _ in range(copies - 1))
        texts += [sentence.text, *typed]
        targets += [_targets([sentence.task])] * copies
        spoken += [sentence.language] * copies
        meanings += [sentence.meaning] * copies
    pairs = draw_pairs(corpus, len(corpus), rng)
    for tasks, language, text in pairs:
        texts.append(vary(text, rng, language))
        targets.append(_targets(tasks))
        spoken.append(language)
        meanings.append("")
    if languages:
        foreign = draw_foreign(corpus, len(corpus) // 4, rng)
        texts += foreign
        targets += [_targets([NO_TASK])] * len(foreign)
        spoken += [OTHER] * len(foreign)
        meanings += [""] * len(foreign)
    return Examples(texts, torch.stack(targets), spoken, meanings)


_IN_ORDER = {
    "en": "first {0}, then {1}|{0} {1}|{1} after you {0}|before you {1}, {0}|{1}, but first {0}",
    "zh": "先{0}再{1}|{0}并{1}|{0}{1}|{1}前先{0}|{0}后{1}|{0}还要{1}|{0}也{1}",
    "zh-Hant": "先{0}再{1}|{0}並{1}|{0}{1}|{1}前先{0}|{0}後{1}|{0}還要{1}|{0}也{1}",
    "ja": "まず{0}、次に{1}|{0}、{1}|{0}{1}|{1}前に{0}|{0}、そして{1}|{0}、それから{1}",
    "ko": "먼저 {0} 그다음 {1}|{0} {1}|{1} 전에 {0}|{0} 그리고 {1}|{0}, {1}",
    "de": "erst {0}, dann {1}|{0} {1}|bevor du {1}, {0}|{1}, aber vorher {0}",
    "fr": "d'abord {0}, puis {1}|{0} {1}|avant de {1}, {0}|{1}, mais d'abord {0}",
    "es": "primero {0}, luego {1}|{0} {1}|antes de {1}, {0}|{1}, pero primero {0}",
    "pt": "primeiro {0}, depois {1}|{0} {1}|antes de {1}, {0}|{1}, mas primeiro {0}",
    "ru": "сначала {0}, потом {1}|{0} {1}|прежде чем {1}, {0}|{1}, но сначала {0}",
}
"""Two requests whose order is said, or with nothing between them."""


def draw_pairs(
    corpus: Sequence[Sentence], count: int, rng: np.random.Generator
) -> list[tuple[list[str], str, str]]:
    """(tasks, language, text) of ``count`` sentences joined of two short ones of one language.

    A quarter joins a request with one for nothing, and asks for the request alone.
    """
    requests: dict[str, list[Sentence]] = defaultdict(list)
    nothing: dict[str, list[Sentence]] = defaultdict(list)
    for s in corpus:
        if len(tokenize(s.text)) <= SHORT:
            (nothing if s.task == NO_TASK else requests)[s.language].append(s)
    languages = sorted(language for language, known in requests.items() if len(known) > 1)
    mass = np.array([len(requests[language]) ** 0.5 for language in languages])
    pairs = []
    for index in rng.choice(len(languages), count, p=mass / mass.sum()):
        language = languages[int(index)]
        first = pick(requests[language], rng)
        if nothing[language] and rng.random() < 0.25:
            both, tasks = [first, pick(nothing[language], rng)], [first.task]
            both = both[:: pick((1, -1), rng)]
        else:
            both = [first, pick(requests[language], rng)]
            tasks = [s.task for s in both]
        said = [s.text.rstrip(".!?。！？") for s in both]
        if language in _IN_ORDER and rng.random() < 0.35:
            text = pick(_IN_ORDER[language].split("|"), rng).format(*said)
        else:
            text = join(said[0], said[1], rng, language)
        pairs.append((tasks, language, text))
    return pairs


def draw_foreign(corpus: Sequence[Sentence], count: int, rng: np.random.Generator) -> list[str]:
    """Text in languages that the corpus has none of: written, mixed anew, and made up."""
    file = resources.files(__package__).joinpath("corpus/other-languages.list")
    lines = file.read_text("utf-8").splitlines()
    written: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line and not line.startswith("#"):
            language, _, text = line.partition("\t")
            written[language].append(text)
    texts = [text for known in written.values() for text in known]
    for known in written.values():
        words = " ".join(known).split()
        for length in rng.integers(2, 9, size=4 * len(known)):
            texts.append(" ".join(words[int(i)] for i in rng.integers(len(words), size=length)))
    spaced = [s.text for s in corpus if s.language not in ("zh", "zh-Hant", "ja")]
    return texts + [disguise(pick(spaced, rng), rng) for _ in range(count)]


_VOWELS = "aeiouyáéíóúàèâêôäöüåæøõãаеиоуыэюяёі"
_CONSONANTS = (
    "bcdfghjklmnpqrstvwxz", "bdgjklmnprstvz", "bčdďfghjklmnňprřsštvzž", "bcdđghklmnpqrstvx",
    "ptkmnlrsvhjd", "bcçdfgğhjklmnprsştvz",
)  # fmt: skip
_SCRIPTS = ((0x3B1, 24), (0x561, 38), (0x5D0, 27), (0x627, 36), (0x905, 53), (0xE01, 46),
            (0x10D0, 33), (0xB85, 50), (0x995, 35), (0x13A0, 80), (0x1200, 90))  # fmt: skip
"""First letter and count of letters of scripts that no language of the corpus is written in."""


def disguise(text: str, rng: np.random.Generator) -> str:
    """The sentence in a language that does not exist: other vowels, other consonants, and now and
    then another script, by one substitution throughout."""
    text = text.casefold()
    letters = sorted({c for c in text if c.isalpha()})
    if rng.random() < 0.15 or not any(c < "\u0530" for c in letters):
        start, count = pick(_SCRIPTS, rng)
        stands_for = {c: chr(start + int(rng.integers(count))) for c in letters}
    else:
        cyrillic = sum("\u0400" <= c <= "\u04ff" for c in letters) > len(letters) / 2
        vowels = (
            "аеиоуіэ" if cyrillic else pick(("aeiou", "aeiouäöõ", "aeiouáéíů", "aeiyouăâ"), rng)
        )
        others = "бвгджзклмнпрстфхцчш" if cyrillic else pick(_CONSONANTS, rng)
        stands_for = {c: pick(vowels if c in _VOWELS else others, rng) for c in letters}
    return re.sub(r"\w", lambda m: stands_for.get(m.group(), m.group()), text)
