"""The instruction corpus: size, origin, splits, repeats and exclusions, and its data card."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from tiny_model import DATA

from instructir_core.cli import main
from instructir_core.evaluation.experiments import read_sentences
from instructir_core.tasks import CLASSES, NO_TASK
from instructir_core.training import corpus, framing
from instructir_core.training.corpus import (
    SPEAKERS,
    SPLITS,
    card,
    load_corpus,
)
from instructir_core.training.framing import join, vary
from instructir_core.words import tokenize

TEST_FILES = sorted(DATA.glob("*sentences*.tsv"))
EXCLUDED = [text for path in TEST_FILES for _, text in read_sentences(path)]
CORPUS = load_corpus(excluded=EXCLUDED)
LANGUAGES = sorted({s.language for s in CORPUS})


def key(text: str) -> str:
    return " ".join(tokenize(text))


def test_size() -> None:
    distinct = {language: set() for language in LANGUAGES}
    for s in CORPUS:
        distinct[s.language].add(key(s.text))
    assert len(distinct["en"]) >= 8000
    assert "zh" not in LANGUAGES or sum(map(len, distinct.values())) > 12000


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", CLASSES)
def test_handwritten_and_expanded_for_every_cell(task: str, language: str) -> None:
    own = [s for s in CORPUS if (s.task, s.language) == (task, language)]
    assert sum(s.handwritten for s in own) >= 40
    assert len({s.meaning for s in own if s.handwritten}) >= 8
    assert {s.speaker for s in own if s.handwritten} == set(SPEAKERS)
    assert all(n >= 20 for n in Counter(s.speaker for s in own).values())
    lengths = [len(tokenize(s.text)) for s in own]
    assert min(lengths) <= 2 and max(lengths) >= 12
    # Every split has hand-written sentences to learn from or to be measured by.
    assert {s.split for s in own if s.handwritten} == set(SPLITS)


def test_expansions_are_complete_sentences() -> None:
    for s in CORPUS:
        assert s.text == s.text.strip() and "\t" not in s.text and "  " not in s.text
        if not s.handwritten:
            assert not set("{}|()@") & set(s.text.replace(":)", "")), s


def test_one_sentence_has_one_task() -> None:
    tasks: dict[str, set[str]] = {}
    for s in CORPUS:
        tasks.setdefault(key(s.text), set()).add(s.task)
    assert not {text for text, found in tasks.items() if len(found) > 1}


def test_split_parts_no_meaning() -> None:
    parts = [load_corpus(excluded=EXCLUDED, split=split) for split in SPLITS]
    assert sum(map(len, parts)) == len(CORPUS)
    meanings = [{s.meaning for s in part} for part in parts]
    assert not any(meanings[a] & meanings[b] for a, b in ((0, 1), (0, 2), (1, 2)))
    assert 0.83 < len(parts[0]) / len(CORPUS) < 0.93
    for part in parts[1:]:
        assert 0.03 < len(part) / len(CORPUS) < 0.09


def test_no_near_duplicates_within_a_task() -> None:
    # By the definition itself: every pair of one task, in a spaced and an unspaced language.
    own = [s for s in CORPUS if s.task == "rain" and s.language in ("en", "zh-Hant")]
    bags = [corpus._bag(s.text) for s in own]
    for one, other in itertools.combinations(bags, 2):
        assert len(one & other) < 0.9 * len(one | other)


def test_test_sentences_are_enough() -> None:
    counts = Counter(task for task, _ in read_sentences(DATA / "test_sentences.tsv"))
    assert all(counts[task] >= 25 for task in CLASSES)
    for language in set(LANGUAGES) - {"en"}:
        rows = read_sentences(DATA / f"test_sentences_{language}.tsv")
        counts = Counter(task for task, _ in rows)
        assert all(counts[task] >= 12 for task in CLASSES), language


@pytest.mark.parametrize("language", ["", "_zh"])
@pytest.mark.parametrize("kind", ["negation", "opposite", "two_step"])
def test_hard_test_sentences_are_enough(kind: str, language: str) -> None:
    rows = read_sentences(DATA / f"{kind}_sentences{language}.tsv")
    assert len({key(text) for _, text in rows}) >= 60
    for tasks, _ in rows:
        parts = tasks.split(",")
        assert set(parts) <= set(CLASSES)
        assert len(set(parts)) == len(parts) == (2 if kind == "two_step" else 1)
        assert kind != "opposite" or parts == [NO_TASK]


def test_excluded_sentences_stay_out() -> None:
    assert len(EXCLUDED) > 200
    assert not {key(t) for t in EXCLUDED} & {key(s.text) for s in CORPUS}
    unwanted = [s.text.upper() + "!" for s in CORPUS[::50]]
    left = {key(s.text) for s in load_corpus(excluded=unwanted)}
    assert not left & {key(t) for t in unwanted}


def test_same_seed_same_corpus() -> None:
    assert load_corpus(1, 3) == load_corpus(1, 3) != load_corpus(2, 3)
    english = load_corpus(1, 3, languages=["en"])
    assert english == [s for s in load_corpus(1, 3) if s.language == "en"]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "remove the rain"),
        ("de", "den Regen wegmachen, für größere Abzüge"),
        ("ru", "убери дождь с фото, ещё мокро"),
        ("zh", "去掉照片里的雨，谢谢"),
        ("zh-Hant", "幫我把照片裡的雨去掉，謝謝"),
        ("ja", "写真のノイズをぜんぶ消して、お願い"),
        ("ko", "사진에 찍힌 비 좀 지워주세요"),
    ],
)
def test_variants(language: str, text: str) -> None:
    one = [vary(text, np.random.default_rng(s), language) for s in range(60)]
    assert one == [vary(text, np.random.default_rng(s), language) for s in range(60)]
    assert len(set(one)) > 10
    letters = {c for variant in one for c in variant if c.isascii() and c.isalpha()}
    assert language in ("en", "de") or letters <= set("q")  # no slips of an English keyboard
    # Some people type no umlauts and no ё.
    assert language not in ("de", "ru") or any("groessere" in v or " еще" in v for v in one)
    # Koreans leave out spaces at will.
    assert language != "ko" or any("찍힌비좀" in v for v in one)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_its_frame(language: str) -> None:
    frame = framing._FRAMES[language]
    for part in frame:
        options = part.split("|")
        assert len(options) >= 8 and len(set(options)) == len(options)
        assert all(o.strip() for o in options)
    drawn = {vary("ж", np.random.default_rng(s), language) for s in range(400)}
    assert any(v.startswith(tuple(frame.openings.split("|"))) for v in drawn)
    assert any(v.endswith(tuple(frame.closings.split("|"))) for v in drawn)


def test_two_requests_are_joined_in_their_language() -> None:
    joined = join("remove the rain.", "brighten it", np.random.default_rng(0), "en")
    assert joined.startswith("remove the rain") and joined.endswith("brighten it")
    joined = join("去雨。", "提亮", np.random.default_rng(0), "zh")
    assert joined.startswith("去雨") and joined.endswith("提亮") and not joined.isascii()
    assert "。" not in joined and " and " not in joined


def test_unknown_names_and_broken_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="split 'dev'; expected one of train"):
        load_corpus(split="dev")
    with pytest.raises(ValueError, match=r"no corpus in fi; there is"):
        load_corpus(languages=["fi"])
    for line in ("noise\tadult\tno tabs enough", "noize\tadult\tm\tt", "noise\tdog\tm\tt"):
        with pytest.raises(ValueError, match=r"xx\.tsv, line 2: found .*expected task, speaker"):
            list(corpus._handwritten("xx.tsv", "# note\n" + line))
    with pytest.raises(ValueError, match=r"xx\.txt, line 1: found '## noise dog'"):
        list(corpus._expanded("xx.txt", "## noise dog\nhello", 0, 1))


def test_command_writes_the_table_and_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corpus.tsv"
    assert main(["corpus", str(out), "--exclude", *map(str, TEST_FILES)]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == card(CORPUS)
    readme = resources.files(corpus.__package__).joinpath("corpus/README.md")
    # If this fails, the corpus has changed: paste what the command prints into the card.
    assert printed in readme.read_text("utf-8")
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [(r["sentence"], r["split"], r["meaning"]) for r in rows] == [
        (s.text, s.split, s.meaning) for s in CORPUS
    ]
    assert {r["origin"] for r in rows} == {"handwritten", "expanded"}
