"""Fixtures: the tiny model in memory and as a file, a small picture, the nodes on a fake host."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_host import FakeHost, import_pack
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


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path / "models")


@pytest.fixture
def nodes(fake: FakeHost, weights: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    folder = fake.models / "instructir"
    folder.mkdir(parents=True)
    shutil.copy(weights, folder / "tiny.safetensors")
    pack = import_pack(monkeypatch, fake)
    listed = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    names = ("load", "encode", "restore", "picture", "video", "compare", "suggest", "try_all")
    host = sys.modules["installed_pack.nodes.host"]
    return SimpleNamespace(**dict(zip(names, listed, strict=False)), host=host)
