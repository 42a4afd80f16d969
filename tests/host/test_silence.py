"""A host without a network: it starts, the pack loads and works, and asks for no connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def test_connections_are_denied(tmp_path: Path) -> None:
    code = f"""
import pathlib, socket, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from launch import deny_sockets
deny_sockets(pathlib.Path({str(tmp_path / "asked")!r}))
for ask in (lambda: socket.create_connection(("192.0.2.1", 80), 1),
            lambda: socket.getaddrinfo("example.org", 80),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 9))):
    try:
        ask()
    except OSError as exc:
        assert "denied here" in str(exc), exc
    else:
        raise AssertionError("not denied")
listening = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listening.getsockname(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "asked").read_text().splitlines()) == 4


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
