"""A host without a network: it starts, the pack loads and works, and asks for no connection."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from host import Host, find_host

ROOT = Path(__file__).parents[2]


def test_a_host_whose_sockets_are_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_host()
    if found is None:
        pytest.skip("no ComfyUI host: set COMFYUI_PATH (and COMFYUI_PYTHON) to test on one")
    asked = tmp_path / "asked.jsonl"
    monkeypatch.setenv("DENY_SOCKETS", str(asked))
    host = Host(tmp_path / "comfy", *found)
    try:
        assert "InstructIREncode" in host.object_info and "InstructIRRestore" in host.object_info
        run = host.run(GRAPH)
        assert run.succeeded, run.error
        assert len(run.files("6")) == 1
    finally:
        host.close()
    tried = [json.loads(line) for line in asked.read_text().splitlines()]
    assert tried[0]["event"] == "started"  # the hook was there
    ours = [t for t in tried[1:] if any(f"{os.sep}instructir" in f for f in t["files"])]
    assert not ours
    print(f"{len(tried) - 1} connections asked for by the host itself, none by the pack")
