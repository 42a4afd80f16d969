"""Samples, and a training run of a few steps, stopped and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from tiny_model import TINY

from instructir_core import Restorer
from instructir_core.text import HashedEncoderConfig
from instructir_core.training import dataset, trainer
from instructir_core.training.dataset import Batches, draw_pair, load_photos, split_photos
from instructir_core.training.instructions import CLASSES, load_corpus
from instructir_core.training.sentences import train_sentences


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, name in enumerate(("astronaut", "coffee", "chelsea", "rocket", "cat", "retina")):
        if hasattr(data, name):
            pixels = getattr(data, name)()[: 200 + index, :220]
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_photos_are_split_and_skipped(photos: Path, tmp_path: Path) -> None:
    everything = load_photos(photos)
    training, held = split_photos(everything)
    assert len(held) == 1 and held[0] is everything[5] and len(training) == len(everything) - 1
    assert len(load_photos(photos, ["0.png"])) == len(everything) - 1
    with pytest.raises(ValueError, match=r"no none\.png to skip"):
        load_photos(photos, ["none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found no pictures"):
        load_photos(tmp_path / "empty")


@pytest.mark.parametrize("task", CLASSES)
def test_pairs(photos: Path, task: str) -> None:
    known = load_photos(photos)
    changed = 0
    for seed in range(10):
        degraded, clean = draw_pair(known, 48, task, np.random.default_rng(seed))
        assert degraded.shape == clean.shape == (48, 48, 3)
        changed += not np.array_equal(degraded, clean)
    assert changed == 0 if task == "none" else changed >= 7


def test_batches_depend_on_seed_and_number_alone(photos: Path) -> None:
    bank = {c: torch.full((2, 4), float(i)) for i, c in enumerate(CLASSES)}
    known = load_photos(photos)
    first = Batches(known, bank, 32, 24, 0, 10)
    again = Batches(known, bank, 32, 24, 0, 10)
    for a, b in zip(first[7], again[7], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[7][0], first[8][0])
    _, _, vectors, classes = first[7]
    assert torch.equal(vectors[:, 0].long(), classes)  # each sentence asks for its sample's task
    assert set(classes.tolist()) >= {0, 1, 2, 3, 4, 5}


def test_held_out_draws_repeat(photos: Path) -> None:
    known = load_photos(photos)
    one = list(dataset.held_out_pairs(known, "blur"))
    two = list(dataset.held_out_pairs(known, "blur"))
    assert len(one) == 2 * len(known)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(one, two, strict=True))


def test_sentences_are_learnt() -> None:
    corpus = [s for s in load_corpus(per_pattern=4, languages=["en"]) if not s.handwritten]
    corpus = [s for s in corpus if s.task in ("noise", "rain", "none")][::2]
    encoder, head = train_sentences(
        corpus, 0, 150, 48, config=HashedEncoderConfig(512, 16, 2, 1), embedding_width=32
    )
    with torch.no_grad():
        _, logits = head(encoder.encode([s.text for s in corpus]))
    right = sum(CLASSES[int(i)] == s.task for i, s in zip(logits.argmax(1), corpus, strict=True))
    assert right > 0.8 * len(corpus)


def test_run_is_resumed_where_it_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trainer.TrainingConfig(
        steps=6, stages=((0.0, 32, 4), (0.5, 48, 2)), sentence_steps=3, network=TINY, every=2
    )
    whole = trainer.train(photos, tmp_path / "whole", config, workers=0)

    class Stop(Exception):
        pass

    save = trainer.Run.save

    def save_then_stop(run: trainer.Run, path: Path) -> None:
        save(run, path)
        if run.progress.step == 4:
            raise Stop

    monkeypatch.setattr(trainer.Run, "save", save_then_stop)
    with pytest.raises(Stop):
        trainer.train(photos, tmp_path / "parts", config, workers=0)
    monkeypatch.undo()
    parts = trainer.train(photos, tmp_path / "parts", config, workers=0)

    a, b = (Restorer.from_pretrained(p).network.state_dict() for p in (whole, parts))
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], atol=1e-5, rtol=0)
    assert (tmp_path / "parts" / "samples.jpg").stat().st_size > 1000
    assert "noise" in (tmp_path / "parts" / "log.txt").read_text()
    with pytest.raises(ValueError, match="another output folder"):
        trainer.train(photos, tmp_path / "parts", replace(config, seed=1), workers=0)
