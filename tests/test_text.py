"""Sentences: encoders against straightforward re-derivations, the head against upstream's."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from make_parity import sentence_vectors
from safetensors.torch import load_file
from tiny_model import CLASSES, DATA, fill, tiny_parts

from instructir_core import Restorer
from instructir_core.instruction import Instruction
from instructir_core.text import (
    HashedEncoder,
    HashedEncoderConfig,
    InstructionHead,
    InstructionReader,
    TransformersEncoder,
    mean_pool,
)
from instructir_core.words import fold, tokenize, word_features


@torch.no_grad()
def test_head_equals_upstream() -> None:
    stored = load_file(DATA / "parity.safetensors")
    embedding, logits = fill(InstructionHead(384, 256, 7))(sentence_vectors())
    assert (embedding - stored["embedding"]).abs().max() <= 1e-6
    assert (logits - stored["logits"]).abs().max() <= 1e-5


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"remove the rain fix it".split()]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.half().save_pretrained(folder / "m")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "m")
    return folder / "m"


def test_transformers_encoder_pools_whatever_its_folder_is_called(
    bert: Path, tmp_path: Path
) -> None:
    encoder = TransformersEncoder(bert)
    sentences = ["remove the rain", "fix it"]
    together = encoder.encode(sentences)
    # Re-derived one sentence at a time, where no padding needs a mask.
    for sentence, vector in zip(sentences, together, strict=True):
        with torch.no_grad():
            tokens = encoder.tokenizer(sentence, return_tensors="pt")
            mean = encoder.model(**tokens).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-6, rtol=0)
    shutil.copytree(bert, tmp_path / "renamed")
    assert torch.equal(TransformersEncoder(tmp_path / "renamed").encode(sentences), together)


def test_long_text_is_cut_with_a_warning(
    bert: Path, restorer: Restorer, caplog: pytest.LogCaptureFixture
) -> None:
    text = "remove the rain " * 625  # 10,000 characters
    with caplog.at_level(logging.WARNING):
        assert restorer.encode(text).embedding.isfinite().all()
        assert "first 512 are read" in caplog.text
        caplog.clear()
        vector = TransformersEncoder(bert).encode([text])
        assert vector.isfinite().all() and "first 512 are read" in caplog.text
    caplog.clear()
    restorer.encode("remove the rain")
    assert not caplog.records


def test_damaged_encoder_folder(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"found no config\.json"):
        TransformersEncoder(tmp_path)
    shutil.copytree(bert, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"123")
    with pytest.raises(ValueError, match="could not read this text encoder"):
        TransformersEncoder(tmp_path / "cut")


def test_mean_pool_ignores_padding() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert torch.equal(mean_pool(hidden, mask), torch.tensor([[2.0, 3.0]]))


def test_sentence_alone_or_in_a_batch_is_the_same() -> None:
    encoder = tiny_parts()[2]
    sentences = ["remove the rain", "why is my picture so terribly dark and so grainy", "!"]
    together = encoder.encode(sentences)
    alone = torch.cat([encoder.encode([s]) for s in sentences])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't blur IT!", ["dont", "blur", "it"]),
        ("去除雨滴", ["去", "除", "雨", "滴"]),
        ("remove 雨 now", ["remove", "雨", "now"]),
        ("Größe", ["grösse"]),
        ("???", ["???"]),
    ],
)
def test_tokenize(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


@pytest.mark.parametrize(
    ("typed", "also"),
    [
        ("\u0442\u0451\u043c\u043d\u043e", "\u0442\u0435\u043c\u043d\u043e"),
        ("débruiter", "debruiter"),
        ("unschärfe", "unscharfe"),
        ("não", "nao"),
    ],
)
def test_a_folded_word_is_the_same_without_accents(typed: str, also: str) -> None:
    assert word_features(typed, "", 6144, True) == word_features(also, "", 6144, True)
    # Files from before it was known look words up as they always did.
    assert word_features(typed, "", 6144) != word_features(also, "", 6144)


def test_folded_forms_of_a_korean_verb_share_pieces() -> None:
    forms = "흐릿한", "흐려요", "흐린"
    assert len({fold(form)[:3] for form in forms}) == 1 and len(fold("흐릿한")) == 8
    for folded in (False, True):
        pieces = [set(word_features(form, "", 1 << 30, folded)[1]) for form in forms]
        assert bool(set.intersection(*pieces)) == folded
    assert fold("雨") == "雨" and fold("noise") == "noise"


def test_chinese_is_told_apart_by_order() -> None:
    encoder = tiny_parts()[2]
    a, b = encoder.encode(["去除雨滴", "滴雨除去"])
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_empty_text(restorer: Restorer, text: str) -> None:
    with pytest.raises(ValueError, match="instruction is empty; expected a sentence"):
        restorer.encode(text)
    with pytest.raises(ValueError, match="is a NoneType"):
        restorer.encode(None)  # type: ignore[arg-type]


def test_instruction(restorer: Restorer) -> None:
    instruction = restorer.encode("  remove the rain ")
    assert instruction.text == "remove the rain" and instruction.model == "tiny"
    assert instruction.embedding.shape == (1, 256)
    assert instruction.embedding.norm() == pytest.approx(1, abs=1e-6)
    assert sum(instruction.probabilities.values()) == pytest.approx(1, abs=1e-6)
    best = max(instruction.probabilities.values())
    assert instruction.probabilities[instruction.task] == best
    instruction.embedding.clone().requires_grad_()  # an ordinary tensor, not an inference one


def test_two_tasks_are_both_reported() -> None:
    shares = {"noise": 0.5, "blur": 0.04, "lol": 0.4, "none": 0.06}
    instruction = Instruction("x", torch.zeros(1, 256), "noise", shares, "m")
    assert instruction.tasks == ("noise", "lol")
    assert instruction.advice is not None and "chain" in instruction.advice
    one = Instruction("x", torch.zeros(1, 256), "noise", {"noise": 0.9, "lol": 0.1}, "m")
    assert one.tasks == ("noise",) and one.advice is None


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (
            {"noise": 0.61, "blur": 0.19, "none": 0.20},
            "with 61%, and as nothing it restores with 20%",
        ),
        (
            {"noise": 0.45, "none": 0.41, "blur": 0.14},
            "with 45%, and as nothing it restores with 41%",
        ),
        ({"noise": 0.59, "blur": 0.19, "none": 0.10}, "noise with 59% only. Say it"),
        ({"noise": 0.62, "blur": 0.19, "none": 0.19}, None),
        ({"none": 0.5, "noise": 0.5}, "names nothing"),
    ],
)
def test_advice_where_it_is_unsure(shares: dict[str, float], said: str | None) -> None:
    best = max(shares, key=shares.__getitem__)
    advice = Instruction("x", torch.zeros(1, 256), best, shares, "m").advice
    assert advice is None if said is None else advice is not None and said in advice


class _Numbers:
    """An encoder whose vector of a sentence is the numbers in it."""

    width = 8

    def encode(self, sentences: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(n) for n in s.split()] for s in sentences])


class _Logits(torch.nn.Module):
    """A head whose logits are the vector."""

    fc1 = torch.nn.Linear(8, 256)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(vectors), 256), vectors


TASK_AT = {"noise": 1.0, "sr": 6.0}


@pytest.mark.parametrize(
    ("none", "noise", "task"), [(0.48, 0.4, "noise"), (0.49, 0.1, "sr"), (0.51, 0.4, "none")]
)
def test_nothing_is_read_from_half_on(
    none: float, noise: float, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = 1.0 - none - noise
    shares = (noise, *(rest * share for share in (0.1, 0.1, 0.1, 0.1, 0.5, 0.1)), none)
    reader = InstructionReader(_Numbers(), _Logits(), CLASSES, "m")  # type: ignore[arg-type]
    monkeypatch.setattr(reader, "_of_prompt", lambda task: torch.full((256,), TASK_AT[task]))
    read = reader.read(" ".join(str(math.log(share)) for share in shares))
    # Half meant for nothing, the sentence's own embedding would do next to nothing.
    assert read.embedding.unique().tolist() == [0.0 if task == "none" else TASK_AT[task]]
    assert (read.task, read.asks_nothing) == (task, task == "none")
    assert read.tasks[0] == task


def test_the_first_files_know_no_languages(restorer: Restorer) -> None:
    encoder = tiny_parts()[2]
    assert encoder.config.languages == () and not encoder.foreign(["hei", "moi"]).any()
    old = {
        k: v
        for k, v in encoder.config.to_dict().items()
        if k not in ("reach", "languages", "folded")
    }
    assert HashedEncoderConfig.from_dict(old) == encoder.config
    assert restorer.encode("poista kohina").languages == ()


def test_an_unknown_language_asks_for_nothing() -> None:
    network, head, _ = tiny_parts()
    encoder = fill(HashedEncoder(HashedEncoderConfig(256, 16, 2, 1, 2, ("en", "zh-Hant"))))
    for other, languages in ((-9.0, ()), (9.0, ("en", "zh-Hant"))):
        with torch.no_grad():
            encoder.language.bias[-1] = other
        restorer = Restorer(network, InstructionReader(encoder, head, CLASSES, "m"), "m")
        (read,) = restorer.read("poista kohina")
        assert read.languages == languages and read.asks_nothing == bool(languages)
        assert sum(read.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert restorer.encode("去噪").languages == ()  # a script that is of its languages alone
    assert read.advice is not None and "It reads English, Chinese (traditional)." in read.advice
    picture = torch.rand(8, 9, 3)
    assert restorer.restore(picture, read) is picture
