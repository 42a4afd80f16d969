"""What the Comfy Registry gets: everything in git but what .comfyignore names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FINDINGS = {
    "network": r"urllib\.request|urlopen|http\.client|aiohttp|\brequests\.(get|post)|socket\.socket"
    r"|create_connection|\.(connect|bind|listen|login|send(all|to)?|recv(from|_into)?)\s*\(",
    "environment": r"os\.environ|\bgetenv\b|putenv",
    "commands": r"subprocess|os\.system|os\.popen|os\.exec|os\.spawn|pty\.spawn",
    "code": r"(?<![\w.])(eval|exec|compile)\s*\(|__import__\s*\(|marshal\.|\b(import|from) pickle\b"
    r"|\bctypes\b|zlib\.decompress\(",
    "addresses": r"raw\.githubusercontent|pastebin|onload=|onerror=",
}
"""Kind -> what the registry's scan finds by the letters alone, in comments and texts too."""

ACCEPTED = {("instructir_core/strips.py", "ctypes")}
"""Advice to the kernel on memory of PyTorch's own, which only C gives."""


def shipped() -> list[Path]:
    """As comfy-cli packs them."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: what ships is not known")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    left_out = (ROOT / ".comfyignore").read_text("utf-8").split()
    assert all(re.fullmatch(r"/[\w.-]+/?", pattern) for pattern in left_out)
    names = [name for name in listed.split("\0") if name]
    return [
        ROOT / name for name in names
        if not any(f"/{name}".startswith(p) if p.endswith("/") else f"/{name}" == p
                   for p in left_out)
    ]  # fmt: skip


def test_nothing_ships_that_the_scan_takes_for_a_finding() -> None:
    paths = shipped()
    assert len(paths) > 100 and ROOT / "nodes" / "host.py" in paths
    assert not [path for path in paths if path.is_relative_to(ROOT / "tests")]
    found = []
    for path in paths:
        if not path.is_file():  # deleted, and not committed yet
            continue
        text = path.read_bytes().decode("utf-8", "replace") if path.suffix != ".jpg" else ""
        for kind, pattern in FINDINGS.items():
            hit = re.search(pattern, text)
            if hit is not None and path.suffix not in {".png", ".mp4", ".safetensors"}:
                name = path.relative_to(ROOT).as_posix()
                if (name, hit[0]) in ACCEPTED:
                    continue
                line = text[: hit.start()].count("\n") + 1
                found.append(f"{name}:{line}: {kind}: {hit[0]!r}")
    assert not found, "\n".join(found)
