"""Training the reader: what it is shown, what it keeps, and how it joins another network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import CLASSES, DATA, TINY, fill, tiny_parts

from instructir_core import checkpoint
from instructir_core.cli import main
from instructir_core.model import InstructIR
from instructir_core.tasks import NO_TASK
from instructir_core.text import HashedEncoderConfig
from instructir_core.training.corpus import load_corpus
from instructir_core.training.examples import (
    _FAULTS,
    _LOOKS,
    _PAIR,
    OTHER,
    PAIRED,
    build_examples,
    disguise,
    draw_foreign,
    draw_pairs,
)
from instructir_core.training.sentence_training import task_means, train_reader, widen

CORPUS = load_corpus(per_pattern=2)[::5]


def test_shares_hear_every_class_alike_and_small_languages() -> None:
    examples = build_examples(CORPUS, 0)
    assert len(examples.texts) == len(examples.targets) == len(examples.languages)
    assert torch.allclose(examples.targets.sum(1), torch.ones(len(examples.texts)))
    heard: Counter[str] = Counter()
    for share, target, language in zip(
        examples.shares(), examples.targets, examples.languages, strict=True
    ):
        heard[OTHER if language == OTHER else CLASSES[int(target.argmax())]] += share
    alike = dict.fromkeys((*CLASSES, OTHER), 0.1) | {NO_TASK: 0.2}
    assert heard == pytest.approx(alike)
    other = [t for t, s in zip(examples.targets, examples.languages, strict=True) if s == OTHER]
    assert all(target[CLASSES.index(NO_TASK)] == 1 for target in other)
    again = build_examples(CORPUS, 0)
    assert again.texts == examples.texts and torch.equal(again.targets, examples.targets)


def test_pairs_have_a_share_of_their_own() -> None:
    examples = build_examples(CORPUS, 0)
    paired = np.array(examples.meanings) == _PAIR
    shares = examples.shares()
    single = np.array([s != OTHER for s in examples.languages]) & ~paired
    # No pair asks for nothing, and nothing is heard twice as often as each of the seven tasks.
    assert shares[paired].sum() == pytest.approx(PAIRED * 0.7)
    assert shares[single].sum() == pytest.approx((1 - PAIRED) * 0.7 + 0.2)


def test_two_faults_are_said_in_one_breath() -> None:
    assert _FAULTS.keys() == _LOOKS.keys()
    for language, faults in _FAULTS.items():
        assert [*faults] == [*_LOOKS[language]] and set(faults) == set(CLASSES) - {NO_TASK}
    english = [s for s in CORPUS if s.language == "en"]
    words = {t: f"{_FAULTS['en'][t]}|{_LOOKS['en'][t]}".split("|") for t in _FAULTS["en"]}
    shared = 0
    for tasks, _, text in draw_pairs(english, 800, np.random.default_rng(0)):
        frames = ("get rid of {} and {}", "it is {} and {}", "both {} and {}", "remove {} and {}")
        for frame in frames if len(tasks) == 2 else ():
            said = [frame.format(a, b) for a in words[tasks[0]] for b in words[tasks[1]]]
            shared += text in said
    assert shared >= 10


def test_pairs_are_of_one_language_and_ask_what_is_asked() -> None:
    task_of = {s.text.rstrip(".!?。！？"): s.task for s in CORPUS}
    pairs = draw_pairs(CORPUS, 300, np.random.default_rng(0))
    assert len({language for _, language, _ in pairs}) == 10
    alone = whole = 0
    for tasks, _, text in pairs:
        assert NO_TASK not in tasks
        within = {task for known, task in task_of.items() if known in text}
        # Some name two faults of these tasks in words of their own.
        whole += set(tasks) <= within
        alone += NO_TASK in within and len(tasks) == 1
    assert 40 < alone < 150 and whole > 260


def test_other_languages_are_not_those_of_the_tests() -> None:
    path = Path(checkpoint.__file__).parent / "training/corpus/other-languages.list"
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    tested = [line for line in (DATA / "other_languages.tsv").read_text("utf-8").splitlines()]
    tested = [line for line in tested if not line.startswith("#")]
    known = {s.language for s in CORPUS}
    for rows in (lines, tested):
        assert all(len(line.split("\t")) == 2 for line in rows)
    languages = {line.split("\t")[0] for line in lines}
    assert not languages & (known | {line.split("\t")[0] for line in tested})
    assert not {line.split("\t")[1] for line in lines} & {line.split("\t")[1] for line in tested}
    foreign = draw_foreign(CORPUS, 5, np.random.default_rng(0))
    assert set(line.split("\t")[1] for line in lines) <= set(foreign)


def test_a_disguise_is_one_substitution() -> None:
    rng = np.random.default_rng(0)
    for text in ("remove the noise", "убери шум с фото", "ノイズを消して") * 20:
        hidden = disguise(text, rng)
        assert len(hidden) == len(text) and hidden != text
        assert [c.isspace() for c in hidden] == [c.isspace() for c in text]
        stands_for = dict(zip(text, hidden, strict=True))
        assert "".join(stands_for[c] for c in text) == hidden


def test_a_wider_encoder_says_the_same() -> None:
    encoder = tiny_parts()[2]
    texts = ["remove the noise", "去噪并提亮", "!"]
    # Four times the buckets of narrower rows: here the narrower ones lose nothing.
    rows = encoder.table.weight
    with torch.no_grad():
        rows.copy_(torch.randn(256, 5) @ torch.randn(5, 16))
    for config in (
        HashedEncoderConfig(256, 16, 2, 2, 3, ("en", "de")),
        HashedEncoderConfig(1024, 16, 2, 1),
        HashedEncoderConfig(1024, 16, 2, 1, row_width=5),
    ):
        wider = widen(encoder, config).eval()
        assert wider.table.weight.shape == (config.buckets, config.row_width or 16)
        torch.testing.assert_close(wider.encode(texts), encoder.encode(texts), atol=1e-5, rtol=0)
    for refused in (HashedEncoderConfig(384, 16, 2, 1), HashedEncoderConfig(256, 32, 2, 1)):
        with pytest.raises(ValueError, match="expected the width and heads"):
            widen(encoder, refused)


def test_a_reader_keeps_its_places_and_joins_another_network(tmp_path: Path, weights: Path) -> None:
    init = checkpoint.load(weights)
    assert init.text_encoder is not None and init.head is not None
    corpus = [s for s in CORPUS if s.language in ("en", "de")]
    out = train_reader(init, tmp_path / "reader.safetensors", corpus, steps=60)
    trained = checkpoint.load(out)
    assert trained.text_encoder.config.languages == ("en", "de")
    assert trained.provenance["reader"]["sentences"] == len(corpus)
    before, after = (task_means(c.text_encoder, c.head, corpus) for c in (init, trained))
    assert (before * after).sum(1).min() > 0.7

    other = fill(InstructIR(TINY), 0.5)
    checkpoint.save(tmp_path / "other.safetensors", other, init.head, CLASSES, None, {})
    joined = tmp_path / "joined.safetensors"
    arguments = ["models", "convert", str(tmp_path / "other.safetensors"), str(joined)]
    assert main([*arguments, "--reader", str(out)]) == 0
    found = checkpoint.load(joined)
    for module, expected in (
        (found.network, other), (found.head, trained.head),
        (found.text_encoder, trained.text_encoder),
    ):  # fmt: skip
        for key, value in expected.state_dict().items():
            assert torch.equal(module.state_dict()[key], value), key
    assert main([*arguments, "--reader", str(tmp_path / "other.safetensors")]) == 1
    assert main([*arguments, "--reader", str(out), "--head", str(weights)]) == 1


def test_a_reader_needs_one_to_start_from(tmp_path: Path) -> None:
    bare = checkpoint.Checkpoint("bare", None)
    with pytest.raises(ValueError, match="bare: found no sentence encoder"):
        train_reader(bare, tmp_path / "x.safetensors", CORPUS)
    with pytest.raises(ValueError, match="expected a name ending in"):
        train_reader(bare, tmp_path / "x.pt", CORPUS)
