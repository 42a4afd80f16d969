"""What ships beside the code for the editor: workflows, help pages, translations."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from instructir_core import checkpoint, official

ROOT = Path(__file__).parent.parent
NODES: dict[str, dict[str, Any]] = json.loads((ROOT / "tests/host/object_info.json").read_text())
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
(VERSION,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
MODELS = {"UpscaleModelLoader": "upscale_models", "CheckpointLoaderSimple": "checkpoints"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_bring_what_they_need(path: Path) -> None:
    assert re.fullmatch(r"\d\d \w[\w ,-]+", path.stem)
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.width >= 480
    nodes = json.loads(path.read_text("utf-8"))["nodes"]
    kinds = {node["type"] for node in nodes}
    assert not kinds & {"LoadImage", "LoadVideo"}  # nothing to copy
    assert kinds >= {"InstructIR_BeforeAfter", "MarkdownNote"}
    for node in nodes:
        if node["type"] in NODES:
            assert node["properties"]["cnr_id"] == "instructir"
            assert node["properties"]["ver"] == VERSION
        if node["type"] in MODELS:
            assert node["mode"] == 2  # asleep until the user has the model
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0]
            assert model["directory"] == MODELS[node["type"]]
            # The editor offers downloads of nothing else.
            assert re.fullmatch(r"https://huggingface\.co/\S+/" + re.escape(model["name"]),
                                model["url"])  # fmt: skip
            notes = " ".join(n["widgets_values"][0] for n in nodes if n["type"] == "MarkdownNote")
            assert model["name"] in notes and "about" in notes and "https://" in notes


def points(workflow: dict[str, Any], link: list[Any]) -> list[tuple[float, float]]:
    """Where a link goes: from its output by its reroutes to its input."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    reroutes = {r["id"]: r for r in workflow["extra"].get("reroutes", [])}
    parents = {e["id"]: e["parentId"] for e in workflow["extra"].get("linkExtensions", [])}
    number, source, output, target, slot, _ = link
    left, top = nodes[source]["pos"]
    start = (left + nodes[source]["size"][0], top + 20 * (output + 0.7))
    left, top = nodes[target]["pos"]
    between, parent = [], parents.get(number)
    while parent is not None:
        assert number in reroutes[parent]["linkIds"]
        between.append(tuple(reroutes[parent]["pos"]))
        parent = reroutes[parent].get("parentId")
    return [start, *reversed(between), (left, top + 20 * (slot + 0.7))]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_no_link_runs_behind_a_node_and_no_nodes_overlap(path: Path) -> None:
    workflow = json.loads(path.read_text("utf-8"))
    # A node with its title above it.
    boxes = {
        n["id"]: (n["pos"][0], n["pos"][1] - 30, n["pos"][0] + n["size"][0],
                  n["pos"][1] + n["size"][1]) for n in workflow["nodes"]
    }  # fmt: skip
    for one, (left, top, right, bottom) in boxes.items():
        for other, box in boxes.items():
            apart = box[0] >= right or box[2] <= left or box[1] >= bottom or box[3] <= top
            assert one == other or apart, (one, other)
    for link in workflow["links"]:
        way = points(workflow, link)
        for (x1, y1), (x2, y2) in pairwise(way):
            for step in range(1, 100):
                t = step / 100
                ease = t * t * (3 - 2 * t)  # drawn level at both ends
                x, y = x1 + (x2 - x1) * t, y1 + (y2 - y1) * ease
                for number, (left, top, right, bottom) in boxes.items():
                    inside = left < x < right and top < y < bottom
                    assert not inside, f"link {link[0]} behind node {number}"


LANGUAGES = ("zh", "zh-TW", "ja", "ko")


@pytest.mark.parametrize("name", NODES)
def test_help_is_everywhere(name: str) -> None:
    node = NODES[name]
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    assert node["description"] and all(spec[1]["tooltip"] for spec in inputs.values())
    assert all(node["output_tooltips"]) and len(node["output_tooltips"]) == len(node["output"])
    for page in (f"{name}.md", *(f"{name}/{language}.md" for language in LANGUAGES)):
        text = (ROOT / "web/docs" / page).read_text("utf-8")
        named = set(re.findall(r"^\| \*\*(\w+)\*\*", text, re.M))
        assert named == {*inputs, *node["output_name"]}, page
        assert "```" in text  # a minimal graph
        pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
        assert pictures, page
        for picture in pictures:
            assert (ROOT / "web/docs" / picture).is_file(), picture


@pytest.mark.parametrize("language", ("en", *LANGUAGES))
def test_no_word_is_missing_or_stale(language: str) -> None:
    words = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))
    assert set(words) == set(NODES)
    for name, node in NODES.items():
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        expected = {"display_name", "description", "outputs", *(["inputs"] if inputs else [])}
        assert set(words[name]) == expected, name
        assert set(words[name].get("inputs", {})) == set(inputs), name
        assert set(words[name]["outputs"]) == {str(i) for i in range(len(node["output"]))}
        for entry in (*words[name].get("inputs", {}).values(), *words[name]["outputs"].values()):
            assert set(entry) == {"name", "tooltip"} and all(entry.values()), name
        if language == "en":  # the nodes' own words
            assert words[name]["display_name"] == node["display_name"]
            assert words[name]["description"] == node["description"]
            for key, spec in inputs.items():
                assert words[name]["inputs"][key]["tooltip"] == spec[1]["tooltip"]
            for i, tip in enumerate(node["output_tooltips"]):
                assert words[name]["outputs"][str(i)]["tooltip"] == tip


def test_the_readme_knows_the_errors_by_their_words() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition("## When something goes wrong")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.M)
    messages = [message for cell in cells for message in re.findall(r"`(.*?)`", cell)]
    assert len(messages) > 5
    sources = [
        path.read_text("utf-8") for part in ("instructir_core", "nodes")
        for path in (ROOT / part).glob("*.py")
    ]  # fmt: skip
    for message in messages:
        parts = [part.strip() for part in message.split("...")]
        assert any(all(part in source for part in parts) for source in sources), message


def test_the_menu_tells_the_version_of_the_bundled_weights() -> None:
    card = (ROOT / "instructir_core/weights/README.md").read_text("utf-8")
    (version,) = re.findall(r"^The bundled model, version (\S+) of its weights", card, re.M)
    for language in ("en", *LANGUAGES):
        words = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))
        tooltip = words["InstructIR_LoadModel"]["inputs"]["model_name"]["tooltip"]
        assert re.search(rf"\b(version|バージョン|버전|第) {version}\b", tooltip), language
        assert "100 MB" in tooltip
    told = checkpoint.load(official.MINI_FILE).version
    if not told:
        pytest.skip("the bundled file was converted without --version")
    assert told == version
