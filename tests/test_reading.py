"""Sentences in parts: a reader that knows a few words stands for the model."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from word_reader import KNOWN, WordReader

from instructir_core import Restorer
from instructir_core.instruction import Instruction
from instructir_core.reading import MOST_CLAUSES, ORDER, read_parts
from instructir_core.tasks import NO_TASK, TASKS


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
        ("brighten it first, then remove the noise", "lol noise"),
        ("remove the noise last, and sharpen", "blur noise"),
        ("remove the fog, but brighten it first", "lol haze"),
        ("sharpen it and do the colours last", "blur en"),
        ("mach es zuerst heller, dann entrausche es", "lol noise"),
        ("éclaircis d'abord, puis enlève le bruit", "lol noise"),
        ("denoise brighten", "noise lol"),
        ("the fog, the rain and the noise", "noise rain haze"),  # the last damage first
        ("去噪并提亮", "noise lol"),
        ("先提亮再去噪", "lol noise"),
        ("提亮之前先去雨", "rain lol"),
        ("去雾后提亮，最后去噪", "haze lol noise"),
        ("降噪提亮", "noise lol"),
        ("先提亮，去噪放到最后处理", "lol noise"),
        ("先提亮，其次去噪", "lol noise"),
        ("去雾加调亮", "lol haze"),
        ("雨去好了再调亮", "rain lol"),
        ("提亮，另外把雨去掉", "lol rain"),
        ("besides the fog, remove the noise", "noise haze"),
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


class Hasty(WordReader):
    """Hears one task of several in a sentence, and no refusal, as trained readers may."""

    def read(self, text: str) -> Instruction:
        found = [t for t, words in KNOWN.items() if re.search(words, text, re.IGNORECASE)]
        task = NO_TASK if "留着" in text or not found else found[-1]
        share = 0.93 if len(found) == 1 else 0.96
        shares = {t: share if t == task else (1 - share) / 7 for t in self.tasks}
        return Instruction(text, torch.zeros(1, 256), task, shares, self.name)


def test_what_a_link_ties_is_heard_in_its_clause() -> None:
    assert tasks("remove the noise and sharpen it", Hasty()) == ["noise", "blur"]
    assert tasks("去噪并锐化", Hasty()) == ["noise", "blur"]
    # A comma alone says less: what stands there may describe what is asked for.
    assert tasks("remove the noise, sharpen it", Hasty()) == ["blur"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't remove the grain", NO_TASK),
        ("do not sharpen this", NO_TASK),
        ("Please never brighten it", NO_TASK),
        ("I don't want it any brighter", NO_TASK),
        ("不要去噪", NO_TASK),
        ("请别把雾去了", NO_TASK),
        ("雨留着别去", NO_TASK),
        ("don't denoise, only brighten it", "lol"),
        ("不用提亮，去雾就好", "haze"),
        # What it does not want is the fault, not the repair.
        ("I don't want noise", "noise"),
        ("don't leave the fog in", "haze"),
        ("不要雨", "rain"),
    ],
)
def test_a_repair_that_is_forbidden_by_its_name(text: str, expected: str) -> None:
    assert tasks(text, Hasty()) == [expected]
    assert all(part.asks_nothing == (part.task == NO_TASK) for part in read_parts(text, Hasty()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("make the colours less vivid", "none"),
        ("it's too bright, lower the exposure", "none"),
        ("please add some film grain", "none"),
        ("blur the background", "none"),
        ("make it darker and remove the noise", "noise"),
        ("太亮了，降低曝光", "none"),
        ("加点噪点", "none"),
        ("把颜色变淡一点", "en"),  # begins otherwise: the model's to read
        ("make it less noisy", "noise"),
        ("lower the noise a bit", "noise"),
        ("apply rain removal", "rain"),
        ("too dark, brighten it", "lol"),
        ("降低噪点", "noise"),
    ],
)
def test_the_opposite_of_a_task_asks_for_nothing(text: str, expected: str) -> None:
    class Deaf(WordReader):
        """Hears the words and not what is said of them."""

        def read(self, text: str) -> Instruction:
            return replace(super().read(re.sub("less|lower|降低|加", "", text)), text=text)

    assert tasks(text, Deaf()) == [expected]


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
