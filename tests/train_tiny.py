"""A training run of a tiny network; a script of its own, so that tests can kill it or double it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from tiny_model import CLASSES, TINY, tiny_parts

from instructir_core import checkpoint
from instructir_core.training.presets import PRESETS, Stage
from instructir_core.training.samples import collect_sources
from instructir_core.training.trainer import train

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(
        PRESETS[options.preset], network=TINY, steps=30,
        stages=(Stage(0.0, 32, 8), Stage(0.5, 48, 4)),
        sentence_steps=2, sentences=20, every=2, precision="no",
    )  # fmt: skip
    # The sentence encoder has a test of its own, and would take most of the time here.
    options.out.mkdir(exist_ok=True)
    _, head, encoder = tiny_parts()
    sentences = options.out / "sentences.safetensors"
    checkpoint.save(sentences, None, head, CLASSES, encoder, {"stage": "sentences"})
    training, held = collect_sources(list(config.shares), options.photos, options.data)
    train(training, held, options.out, config, device="cpu", workers=0)
