"""What ships beside the code for the editor: workflows, help pages, translations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
NODES: dict[str, dict[str, Any]] = json.loads((ROOT / "tests/host/object_info.json").read_text())
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
MODELS = {"UpscaleModelLoader": "upscale_models", "CheckpointLoaderSimple": "checkpoints"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_bring_what_they_need(path: Path) -> None:
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.width >= 480
    for node in json.loads(path.read_text("utf-8"))["nodes"]:
        if node["type"] in ("LoadImage", "LoadVideo"):
            assert (ROOT / "example_workflows/inputs" / node["widgets_values"][0]).is_file()
        if node["type"] in NODES:
            assert node["properties"]["cnr_id"] == "instructir"
        if node["type"] in MODELS:
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0]
            assert model["directory"] == MODELS[node["type"]]
            # The editor offers downloads of nothing else.
            assert re.fullmatch(r"https://huggingface\.co/\S+/" + re.escape(model["name"]),
                                model["url"])  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_help_is_everywhere(name: str) -> None:
    node = NODES[name]
    inputs = {**node["input"]["required"], **node["input"].get("optional", {})}
    assert node["description"] and all(spec[1]["tooltip"] for spec in inputs.values())
    assert all(node["output_tooltips"]) and len(node["output_tooltips"]) == len(node["output"])
    translated = json.loads((ROOT / "locales/zh/nodeDefs.json").read_text("utf-8"))[name]
    assert set(translated["inputs"]) == set(inputs)
    assert set(translated["outputs"]) == {str(i) for i in range(len(node["output"]))}
    for page in (f"{name}.md", f"{name}/zh.md"):
        text = (ROOT / "web/docs" / page).read_text("utf-8")
        assert set(re.findall(r"^\| \*\*(\w+)\*\*", text, re.M)) == {*inputs, *node["output_name"]}
