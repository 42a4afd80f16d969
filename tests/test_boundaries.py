"""Arrows point one way: nodes use the core, the core knows no host. And rooms stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "nodes", "execution", "server"}
CORE = sorted((ROOT / "instructir_core").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports of a file, at any depth in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_core_never_imports_the_host(path: Path) -> None:
    assert not imported(path) & HOST
    # In a host the pack lies under another name, so the core may not name itself either.
    assert "instructir_core" not in imported(path)


@pytest.mark.parametrize("path", [p for p in CORE if p.parent.name != "training"],
                         ids=lambda p: p.name)  # fmt: skip
def test_restoring_needs_no_training_packages(path: Path) -> None:
    assert not imported(path) & {"scipy", "skimage", "torchvision"}


def test_import_is_light() -> None:
    code = (
        "import sys, instructir_core; "
        "print([m for m in ('transformers', 'huggingface_hub', 'scipy', 'torchvision', "
        "'onnx', 'av', 'ray', 'instructir_core.training') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*.py")), ids=lambda p: p.name)
def test_only_one_file_touches_the_host(path: Path) -> None:
    allowed = {"comfy_api"} | (HOST if path.name == "host.py" else set())
    assert not (imported(path) & HOST) - allowed


LONG = {"make_parser"}
"""A list of options, which no cut would make easier to read."""


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.name)
def test_rooms_are_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in LONG:
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name
            # Only the command line knows how options are written there.
            if path.name not in ("cli.py", "workshop.py", "arguments.py"):
                assert "Namespace" not in ast.unparse(node.args), node.name
