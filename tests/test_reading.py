"""Sentences in parts: a reader that knows a few words stands for the model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch

from instructir_core import Restorer
from instructir_core.reading import MOST_CLAUSES, ORDER, read_parts
from instructir_core.text import NO_TASK, TASKS, Instruction

KNOWN = {
    "noise": "nois|grain|rausch|bruit|ruido|ruído|шум|噪|ノイズ|노이즈",
    "lol": r"bright|dark|hell(?!o)|dunkel|éclair|aclar|ilumin|clare|ярч|светл|темн|亮|暗|明る|밝",
    "blur": "sharp|blur|scharf|schärf|net|nítid|nitid|резк|清晰|锐|銳|鮮明|선명",
    "rain": "(?<!g)rain|regen|pluie|lluvia|chuva|дожд|雨|비",
    "haze": "fog|nebel|brume|niebla|névoa|туман|雾|霧|안개",
    "en": "colour|farbe|couleur|color|cores|цвет|颜色|色|색",
}
CLAUSE = re.compile(r"[,，]|(?=but|without|aber|sans|但|不要)")
LEAVE = (
    "don't|keep|without|leave|lass|ohne|laisse|sans|deja|sin |deixa|sem |не трог|без|"
    "别|別|不要|말고"
)


class WordReader:
    """Reads a task by its words; half and half where there are two, and `none` where there is
    none or where it is refused."""

    def __init__(self, tasks: Sequence[str] = (*TASKS, NO_TASK)) -> None:
        self.tasks = tuple(tasks)
        self.asked: list[str] = []

    def read_all(self, texts: Sequence[str]) -> list[Instruction]:
        self.asked += texts
        return [self.read(text.strip()) for text in texts]

    def read(self, text: str) -> Instruction:
        found = [t for t, words in KNOWN.items() if re.search(words, text, re.IGNORECASE)]
        if NO_TASK in self.tasks:
            asked = [clause for clause in CLAUSE.split(text) if not re.search(LEAVE, clause, re.I)]
            found = [t for t in found if any(re.search(KNOWN[t], c, re.I) for c in asked)]
            found = found or [NO_TASK]
        sure = dict.fromkeys(found or self.tasks[:3], 0.96 / len(found or self.tasks[:3]))
        shares = {task: sure.get(task, 0.04 / len(self.tasks)) for task in self.tasks}
        best = max(shares, key=shares.__getitem__)
        return Instruction(text, torch.zeros(1, 256), best, shares, "words")


def tasks(text: str, reader: WordReader | None = None) -> list[str]:
    return [part.task for part in read_parts(text, reader or WordReader())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("denoise and brighten", "noise lol"),
        ("brighten and denoise", "noise lol"),  # noise before light where no order is said
        ("first brighten it, then remove the noise", "lol noise"),
        ("brighten it, then the fog, and finally the colours", "lol haze en"),
        ("brighten it after removing the rain", "rain lol"),
        ("after the rain is gone, brighten it", "rain lol"),
        ("brighten it before you remove the noise", "lol noise"),
        ("before you brighten it, remove the rain", "rain lol"),
        ("brighten it, but first remove the fog", "haze lol"),
        ("denoise brighten", "noise lol"),
        ("the fog, the rain and the noise", "noise rain haze"),  # the last damage first
        ("去噪并提亮", "noise lol"),
        ("先提亮再去噪", "lol noise"),
        ("提亮之前先去雨", "rain lol"),
        ("去雾后提亮，最后去噪", "haze lol noise"),
        ("降噪提亮", "noise lol"),
        ("先提亮，然後去霧", "lol haze"),
        ("提亮並去噪", "noise lol"),
        ("まず明るくして、次にノイズを消して", "lol noise"),
        ("明るくしてからノイズを消して", "lol noise"),
        ("明るくする前に雨を消して", "rain lol"),
        ("明るくして、ノイズも消して", "noise lol"),
        ("먼저 밝게 하고 그다음 노이즈를 없애줘", "lol noise"),
        ("밝게 하기 전에 비를 없애줘", "rain lol"),
        ("밝게 해주고 노이즈도 없애줘", "noise lol"),
        ("mach es heller und entferne das Rauschen", "noise lol"),
        ("erst aufhellen, dann entrauschen", "lol noise"),
        ("bevor du aufhellst, nimm den Regen weg", "rain lol"),
        ("enlève le bruit et éclaircis", "noise lol"),
        ("d'abord éclaircis, puis enlève le bruit", "lol noise"),
        ("avant d'éclaircir, enlève la pluie", "rain lol"),
        ("aclara y quita el ruido", "noise lol"),
        ("primero aclara, luego quita el ruido", "lol noise"),
        ("antes de aclarar, quita la lluvia", "rain lol"),
        ("clareia e tira o ruído", "noise lol"),
        ("primeiro clareia, depois tira o ruído", "lol noise"),
        ("antes de clarear, tira a chuva", "rain lol"),
        ("сделай светлее и убери шум", "noise lol"),
        ("сначала сделай светлее, потом убери шум", "lol noise"),
        ("прежде чем сделать светлее, убери дождь", "rain lol"),
    ],
)
def test_parts_and_their_order(text: str, expected: str) -> None:
    assert tasks(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't touch the noise, just brighten it", "lol"),
        ("brighten it but keep the grain", "lol"),
        ("brighten it without touching the colours", "lol"),
        ("hello there, remove the rain please, thank you", "rain"),
        ("remove the rain, keep the colours, then sharpen", "rain blur"),
        ("提亮，别动噪点", "lol"),
        ("提亮但保留颗粒，不要去噪", "lol"),
        ("entferne den Regen, aber lass die Farben", "rain"),
        ("éclaircis sans toucher au bruit", "lol"),
        ("сделай светлее, цвета не трогай", "lol"),
    ],
)
def test_what_asks_for_nothing_is_left_out(text: str, expected: str) -> None:
    assert tasks(text) == expected.split()


def test_one_task_stays_the_whole_sentence() -> None:
    for text in ("remove the noise", "it is dark, so dark, and I want it bright", "hi, noise!"):
        parts = read_parts(f"  {text} ", WordReader())
        assert [part.text for part in parts] == [text]


def test_nothing_else_remains() -> None:
    for text in ("keep the grain and leave the colours", "good morning, how are you?", "?!"):
        parts = read_parts(text, WordReader())
        assert [(part.text, part.task) for part in parts] == [(text, NO_TASK)]


def test_a_task_said_twice_is_carried_out_once() -> None:
    assert tasks("denoise, brighten, remove the grain and sharpen") == ["noise", "blur", "lol"]


def test_a_model_without_a_class_for_nothing() -> None:
    # Upstream's classes: refusals are known by their words, and all else as some task.
    reader = WordReader(TASKS)
    assert tasks("don't touch the noise, just brighten it", reader) == ["lol"]
    assert tasks("先提亮再去噪", reader) == ["lol", "noise"]
    assert len(tasks("keep the grain", reader)) == 1
    assert len(tasks("good morning", reader)) == 1


def test_every_task_has_its_place() -> None:
    assert sorted(ORDER) == sorted(TASKS)


def test_a_long_text_is_looked_at_within_bounds() -> None:
    reader = WordReader()
    text = "remove the noise, " + "and some more, " * 500 + "brighten it"
    assert read_parts(text, reader)[0].task == "noise"
    assert len(reader.asked) < 8 * MOST_CLAUSES + 2


def test_texts_of_marks_alone_and_empty_ones(restorer: Restorer) -> None:
    assert restorer.reader is not None
    for text in ("and", "，，", "...", "not", "然后"):
        assert len(read_parts(text, restorer.reader)) == 1
    with pytest.raises(ValueError, match="instruction is empty"):
        read_parts("  ", restorer.reader)
