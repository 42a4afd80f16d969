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
from ..words import tokenize
from .corpus import Sentence
from .framing import join, pick, vary
from .streams import Stream, stream

VARIANTS = 5
"""Times each corpus sentence is drawn as another person would type it."""
SHORT = 8
"""Words up to which a request is joined with another: long ones make no natural pair."""
_PAIR = "pair"
"""The meaning of all that is joined of two requests."""
PAIRED = 0.25
"""Share of what is joined of two requests among the examples of a task and language."""
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
    """Of each text, as `Sentence.meaning`; `_PAIR` and, of `OTHER`, none."""

    def shares(self) -> npt.NDArray[np.float64]:
        """(N,) how often to draw each.

        Every task alike, `NO_TASK` twice as often, for it must hold against each of them, and
        `OTHER` as one more. Within these, languages and within them meanings by the square root of
        what there is of them, so that small ones are heard; pairs have a share of their own.
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
            pairs = meanings.pop(_PAIR, [])
            paired = (PAIRED if meanings else 1.0) if pairs else 0.0
            shares[pairs] = cell * paired / max(len(pairs), 1)
            roots = sum(len(rows) ** 0.5 for rows in meanings.values())
            for rows in meanings.values():
                shares[rows] = cell * (1.0 - paired) / roots * len(rows) ** -0.5
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
        meanings.append(_PAIR)
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


_FAULTS = {
    "en": {
        "noise": "the noise|the grain|the graininess|the specks|the static",
        "blur": "the blur|the shake|the softness|the motion blur",
        "rain": "the rain|the raindrops|the drizzle|the rain streaks",
        "haze": "the haze|the fog|the mist|the smoke",
        "lol": "the darkness|the dark shadows|the underexposure",
        "sr": "the pixelation|the low resolution|the small size",
        "en": "the colour cast|the yellow tint|the dull colours|the faded colours",
    },
    "zh": {
        "noise": "噪点|颗粒|杂点|噪声", "blur": "模糊|抖动|虚焦", "rain": "雨|雨滴|雨丝|雨点",
        "haze": "雾|雾气|烟雾|霾", "lol": "黑暗|暗部|欠曝", "sr": "马赛克|低分辨率|像素块",
        "en": "偏色|发黄|褪色|偏黄",
    },
    "zh-Hant": {
        "noise": "雜訊|顆粒|噪點|雜點", "blur": "模糊|手震|失焦", "rain": "雨|雨滴|雨絲|雨點",
        "haze": "霧|霧氣|煙霧|霾", "lol": "陰暗|暗部|曝光不足", "sr": "馬賽克|低解析度|像素格",
        "en": "色偏|泛黃|褪色|偏黃",
    },
}  # fmt: skip
_LOOKS = {
    "en": {
        "noise": "noisy|grainy|speckled", "blur": "blurry|shaky|out of focus", "rain": "rainy",
        "haze": "foggy|hazy|misty|smoky", "lol": "dark|too dark|underexposed|dim",
        "sr": "tiny|pixelated|small", "en": "dull|pale|faded|yellowish|washed out",
    },
    "zh": {
        "noise": "有噪点|噪点多|都是颗粒", "blur": "模糊|糊|虚", "rain": "有雨|都是雨",
        "haze": "有雾|雾大|灰蒙蒙", "lol": "暗|太暗|黑", "sr": "小|分辨率低|像素低",
        "en": "偏黄|颜色淡|褪色|没色彩",
    },
    "zh-Hant": {
        "noise": "有雜訊|噪點多|都是顆粒", "blur": "模糊|糊|失焦", "rain": "有雨|都是雨",
        "haze": "有霧|霧大|霧濛濛", "lol": "暗|太暗|黑", "sr": "小|解析度低|畫素低",
        "en": "偏黃|顏色淡|褪色|沒色彩",
    },
}  # fmt: skip
"""What people call each fault, and a picture that has it."""
_SHARED = {
    "en": (
        "remove {0} and {1}|get rid of {0} and {1}|fix {0} and also {1}|take away {0} plus {1}|"
        "{0} and {1} must go|{0} & {1}, please clean up|no more {0} or {1}|{0} as well as {1}",
        "it is {0} and {1}|{0} and {1}|too {0}, also {1}|both {0} and {1}|{0}, {1}, help",
        "{0}, but leave {1} alone|{0} without touching {1}|{0}, keep {1}|{0}, {1} can stay",
    ),
    "zh": (
        "去掉{0}和{1}|{0}和{1}都去掉|把{0}还有{1}处理掉|{0}、{1}都要修|清除{0}与{1}|去{0}去{1}|{0}跟{1}一起修",
        "又{0}又{1}|{0}，还{1}|{0}而且{1}|既{0}又{1}|{0}，{1}|太{0}，也{1}",
        "{0}，{1}别动|{0}，保留{1}|{0}，{1}不变|{0}，但{1}留着|{0}，不要动{1}",
    ),
    "zh-Hant": (
        "去掉{0}和{1}|{0}和{1}都去掉|把{0}還有{1}處理掉|{0}、{1}都要修|清除{0}與{1}|去{0}去{1}|{0}跟{1}一起修",
        "又{0}又{1}|{0}，還{1}|{0}而且{1}|既{0}又{1}|{0}，{1}|太{0}，也{1}",
        "{0}，{1}不要動|{0}，保留{1}|{0}，{1}不變|{0}，但{1}留著|{0}，別動{1}",
    ),
}
"""Two faults under one verb, two in one look, and a request with what to leave alone."""


def _together(
    first: Sentence, second: Sentence, language: str, rng: np.random.Generator
) -> str | None:
    """Two faults said in one breath, or None where the language or the tasks have no words."""
    known = pick((_FAULTS, _LOOKS), rng)
    if language not in known or first.task == second.task:
        return None
    frames = _SHARED[language][0 if known is _FAULTS else 1].split("|")
    said = [pick(known[language][s.task].split("|"), rng) for s in (first, second)]
    return pick(frames, rng).format(*said)


def _but_leave(text: str, tasks: Sequence[str], language: str, rng: np.random.Generator) -> str:
    """The request with a fault of another task to leave alone, where the language has words."""
    others = sorted(set(_FAULTS.get(language, ())) - set(tasks))
    if not others:
        return text
    fault = pick(_FAULTS[language][pick(others, rng)].split("|"), rng)
    return pick(_SHARED[language][2].split("|"), rng).format(text, fault)


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
        shared = None
        if len(tasks) == 2 and rng.random() < 0.15:
            shared = _together(both[0], both[1], language, rng)
        if shared is not None:
            text = shared
        elif language in _IN_ORDER and rng.random() < 0.4:
            text = pick(_IN_ORDER[language].split("|"), rng).format(*said)
        else:
            text = join(said[0], said[1], rng, language)
        if len(tasks) == 2 and rng.random() < 0.1:
            text = _but_leave(text, tasks, language, rng)
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
