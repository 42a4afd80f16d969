"""Fixtures: the tiny model in memory and as a file, and a small picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import CLASSES, tiny_parts

from instructir_core import Restorer, checkpoint
from instructir_core.text import InstructionReader


@pytest.fixture
def restorer() -> Restorer:
    network, head, encoder = tiny_parts()
    return Restorer(network, InstructionReader(encoder, head, CLASSES, "tiny"), "tiny")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    network, head, encoder = tiny_parts()
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, network, head, CLASSES, encoder, {"name": "tiny", "version": "7"})
    return path


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((37, 50, 3), np.float32))
