"""A host without a network: it starts, the pack loads and works, and asks for no connection."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from host import Graph, Host, find_host

GRAPH: Graph = {
    "1": {"class_type": "InstructIR_LoadModel", "inputs": {"model_name": "mini (bundled)"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "noisy.png"}},
    "3": {
        "class_type": "InstructIR_EncodeInstruction",
        "inputs": {"restorer": ["1", 0], "text": "remove the noise", "preset": "from text"},
    },
    "4": {
        "class_type": "InstructIR_RestoreImage",
        "inputs": {
            "restorer": ["1", 0],
            "image": ["2", 0],
            "instruction": ["3", 0],
            "strength": 1.0,
        },
    },
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "silent"}},
}
"""Load, encode, restore, save."""


def test_a_host_whose_sockets_are_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_host()
    if found is None:
        pytest.skip("no ComfyUI host: set COMFYUI_PATH (and COMFYUI_PYTHON) to test on one")
    asked = tmp_path / "asked.jsonl"
    monkeypatch.setenv("DENY_SOCKETS", str(asked))
    host = Host(tmp_path / "comfy", *found)
    try:
        assert GRAPH["3"]["class_type"] in host.object_info
        run = host.run(GRAPH)
        assert run.succeeded, run.error
        assert len(run.files("5")) == 1
    finally:
        host.close()
    tried = [json.loads(line) for line in asked.read_text().splitlines()]
    assert tried[0]["event"] == "started"  # the hook was there
    ours = [
        t for t in tried[1:] if any("custom_nodes" + os.sep + "instructir" in f for f in t["files"])
    ]
    assert not ours
    print(f"{len(tried) - 1} connections asked for by the host itself, none by the pack")
