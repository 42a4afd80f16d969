"""The pack on a real host, through the host's own API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from host import ROOT, Graph, Host
from PIL import Image
from workflows import to_api

from instructir_core import Restorer, pictures

SAMPLE_VIDEO = ROOT / "example_workflows" / "inputs" / "noisy_pan.mp4"
SNAPSHOT = Path(__file__).parent / "object_info.json"
MINI = "mini (bundled)"
NEEDS_DIFFUSION = {"restore_before_image_to_image"}


def load(model: str = MINI) -> dict[str, Any]:
    return {"class_type": "InstructIR_LoadModel", "inputs": {"model_name": model}}


def picture(name: str = "noisy.png") -> dict[str, Any]:
    return {"class_type": "LoadImage", "inputs": {"image": name}}


def encode(text: str, previous: str | None = None, loader: str = "1") -> dict[str, Any]:
    inputs: dict[str, Any] = {"restorer": [loader, 0], "text": text, "preset": "from text"}
    if previous is not None:
        inputs["previous"] = [previous, 0]
    return {"class_type": "InstructIR_EncodeInstruction", "inputs": inputs}


def restore(source: str, instruction: str, loader: str = "1", **more: Any) -> dict[str, Any]:
    inputs = {
        "restorer": [loader, 0], "image": [source, 0], "instruction": [instruction, 0],
        "strength": 1.0, **more,
    }  # fmt: skip
    return {"class_type": "InstructIR_RestoreImage", "inputs": inputs}


def save(source: str) -> dict[str, Any]:
    inputs = {"images": [source, 0], "filename_prefix": "test"}
    return {"class_type": "SaveImage", "inputs": inputs}


def simple(text: str = "remove the noise", **more: Any) -> Graph:
    return {"1": load(), "2": picture(), "3": encode(text), "4": restore("2", "3", **more),
            "5": save("4")}  # fmt: skip


def by_core(name: str, *texts: str, **more: Any) -> Any:
    """The same by the core library alone, in 8-bit steps."""
    restorer = Restorer.from_pretrained("mini", device="cpu")
    pixels = torch.from_numpy(pictures.read(ROOT / "example_workflows" / "inputs" / name).pixels)
    restored = restorer.restore(pixels, [restorer.encode(t) for t in texts], **more)
    return restored.numpy() * 255


def close(path: Path, expected: Any) -> bool:
    """Equal but for the rounding of one step, which the host cuts off."""
    found = np.asarray(Image.open(path).convert("RGB")).astype(np.float64)
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= 1.01)


def test_the_pack_is_imported_without_a_word(host: Host) -> None:
    lines = [line for line in host.read_log().splitlines() if "instructir" in line.lower()]
    assert any("seconds" in line for line in lines)
    assert not [line for line in lines if re.search("fail|error|warn|cannot", line, re.I)]


@pytest.fixture(scope="module")
def inside(host: Host) -> dict[str, Any]:
    """What `inside.py` tells of the host's own process."""
    script = Path(__file__).parent / "inside.py"
    run = subprocess.run(
        [host.python, str(script), str(host.folder), str(host.base / "custom_nodes/instructir")],
        capture_output=True, text=True, timeout=300, cwd=host.base, env=host.environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_import_is_quick_and_light(host: Host, inside: dict[str, Any]) -> None:
    assert inside["loaded"]
    assert inside["seconds"] < 0.1
    # All that the host did not have already is the pack itself, and what comes with Python.
    brought = set(inside["brought"]) - sys.stdlib_module_names
    assert brought == {str(host.base / "custom_nodes/instructir")}


@pytest.mark.parametrize("mode", ["NORMAL_VRAM", "LOW_VRAM", "NO_VRAM"])
def test_weights_are_resident_in_every_memory_mode(inside: dict[str, Any], mode: str) -> None:
    assert inside[mode]["before"] == inside[mode]["evicted"] == ["cpu"]
    assert inside[mode]["during"] == ["meta"]  # all of them, although little is free
    if mode == "NO_VRAM":
        assert inside[mode]["after"] == ["cpu"]


def test_nodes_are_what_saved_workflows_expect(host: Host) -> None:
    found = {}
    for name, info in host.object_info.items():
        if name.startswith("InstructIR_"):
            kept = ("name", "display_name", "category", "description", "input", "input_order",
                    "output", "output_name", "output_tooltips", "output_is_list",
                    "output_node")  # fmt: skip
            found[name] = json.loads(json.dumps({key: info[key] for key in kept}))
    menu = found["InstructIR_LoadModel"]["input"]["required"]["model_name"]
    options = menu[1].pop("options", None) or menu[0]
    assert options[:2] == [MINI, "instructir-7d.safetensors"]
    assert {"tiny.safetensors", os.path.join("sub", "deep.safetensors")} <= set(options)
    assert "elsewhere.safetensors" in options  # from the folder of an extra_model_paths.yaml
    for info in found.values():
        for kind in info["input"].values():
            for name, spec in kind.items():  # hosts write a menu in two ways
                if isinstance(spec[0], list):
                    spec[1]["options"], spec[0] = spec[0], "COMBO"
                if name == "model_name":
                    spec[1].pop("options", None)
                if len(spec) > 1:
                    spec[1].pop("multiselect", None)
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(SNAPSHOT.read_text())


def test_what_people_type_finds_the_nodes(host: Host) -> None:
    restore, loader = (host.object_info[f"InstructIR_{n}"] for n in ("RestoreImage", "LoadModel"))
    if not restore.get("search_aliases"):
        pytest.skip("this host's search knows no other words")
    typed = "old photo|fix|repair|clean|noise|rain|fog|grain|colour|color|night|super resolution|upscale photo"  # noqa: E501
    assert {*typed.split("|"), "InstructIRProcess"} <= set(restore["search_aliases"])
    assert "LoadInstructIRModel" in loader["search_aliases"]
    assert restore.get("essentials_category", "Image Tools") == "Image Tools"


def test_restore_equals_the_core(host: Host) -> None:
    run = host.run(simple())
    assert run.succeeded, run.error
    assert close(run.files("5")[0], by_core("noisy.png", "remove the noise"))
    assert run.history["outputs"]["3"]["text"][0].startswith("noise ")


def test_chain_of_three_and_the_cache(host: Host) -> None:
    sentences = ["remove the noise please", "make it brighter", "improve the colours"]
    graph: Graph = {"1": load(), "2": picture()}
    source = "2"
    for index, sentence in enumerate(sentences):
        e, r = str(10 + index), str(20 + index)
        graph |= {e: encode(sentence), r: restore(source, e)}
        source = r
    graph["5"] = save(source)
    first = host.run(graph)
    assert first.succeeded, first.error
    assert close(first.files("5")[0], by_core("noisy.png", *sentences))
    again = host.run(graph)
    assert again.succeeded and again.cached >= set(graph) - {"5"}

    graph["12"] = encode("make the colours more vivid")
    changed = host.run(graph)
    assert changed.succeeded and changed.cached == set(graph) - {"12", "22", "5"}


def test_sequence_of_instructions(host: Host) -> None:
    sentences = ["make it brighter", "remove the noise"]
    graph = simple()
    graph |= {"6": encode(sentences[0]), "3": encode(sentences[1], previous="6")}
    graph["2"] = picture("dark.png")
    run = host.run(graph)
    assert run.succeeded, run.error
    assert close(run.files("5")[0], by_core("dark.png", *sentences))


def test_presets_win_over_the_text(host: Host) -> None:
    graph = simple("make it brighter")
    graph["3"]["inputs"]["preset"] = "remove noise"
    run = host.run(graph)
    assert close(run.files("5")[0], by_core("noisy.png", "remove the noise from this photo"))


def test_mask_and_strength(host: Host) -> None:
    soft = np.linspace(0, 255, 640, dtype=np.uint8)[None].repeat(388, 0)
    # As RGB: some hosts read grey files a little darker than they are.
    Image.fromarray(soft).convert("RGB").save(host.base / "input" / "soft.png")
    graph = simple(mask=["6", 0])
    graph["4"]["inputs"]["strength"] = 0.6
    graph["6"] = {"class_type": "LoadImageMask", "inputs": {"image": "soft.png", "channel": "red"}}
    run = host.run(graph)
    assert run.succeeded, run.error
    mask = torch.from_numpy(soft / np.float32(255))
    expected = by_core("noisy.png", "remove the noise", mask=mask, strength=0.6)
    assert close(run.files("5")[0], expected)
    # What Load Image gives for a picture without alpha is no mask.
    run = host.run(simple(mask=["2", 1]))
    assert close(run.files("5")[0], by_core("noisy.png", "remove the noise"))


def test_strength_zero_needs_no_model(host: Host) -> None:
    graph = simple() | {"1": load("wrong.safetensors")}
    graph["4"]["inputs"]["strength"] = 0.0
    run = host.run(graph)
    assert run.succeeded, run.error
    given = Image.open(host.base / "input" / "noisy.png").convert("RGB")
    assert np.array_equal(np.asarray(Image.open(run.files("5")[0])), np.asarray(given))


def test_weights_leave_and_come_back(host: Host) -> None:
    assert host.run(simple("remove the noise, then make room")).succeeded
    host.post("/free", {"unload_models": True, "free_memory": True})
    run = host.run(simple("remove the noise in the freed memory"))
    assert run.succeeded, run.error
    assert close(run.files("5")[0], by_core("noisy.png", "remove the noise in the freed memory"))


def test_batch_of_eight(host: Host) -> None:
    graph = simple("remove all noise")
    graph["6"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["2", 0], "amount": 8}}
    graph["4"] = restore("6", "3")
    run = host.run(graph)
    assert run.succeeded, run.error
    files = run.files("5")
    assert len(files) == 8
    expected = by_core("noisy.png", "remove all noise")
    assert all(close(path, expected) for path in files)
    assert run.progress[-1] == (100, 100)


def test_alpha_is_kept(host: Host) -> None:
    graph = simple()
    size = {"width": 640, "height": 388}
    graph["6"] = {"class_type": "SolidMask", "inputs": {"value": 0.25, **size}}
    graph["7"] = {
        "class_type": "JoinImageWithAlpha", "inputs": {"image": ["2", 0], "alpha": ["6", 0]}
    }  # fmt: skip
    graph["4"] = restore("7", "3")
    run = host.run(graph)
    assert run.succeeded, run.error
    saved = Image.open(run.files("5")[0])
    assert saved.mode == "RGBA"
    assert set(np.unique(np.asarray(saved)[..., 3])) <= {191, 192}  # 1 - 0.25
    assert close(run.files("5")[0], by_core("noisy.png", "remove the noise"))


def test_chain_into_core_nodes(host: Host) -> None:
    graph = simple()
    blend = {"image1": ["2", 0], "image2": ["4", 0], "blend_factor": 0.5, "blend_mode": "normal"}
    graph["6"] = {"class_type": "ImageBlend", "inputs": blend}
    graph["7"] = {"class_type": "ImageScale", "inputs": {
        "image": ["6", 0], "upscale_method": "bicubic", "width": 333, "height": 201,
        "crop": "disabled"}}  # fmt: skip
    graph["8"] = restore("7", "3")
    graph["5"] = save("8")
    run = host.run(graph)
    assert run.succeeded, run.error
    assert Image.open(run.files("5")[0]).size == (333, 201)


def large(sentence: str, tile: int = 64) -> Graph:
    graph = simple(sentence, tile_size=tile, overlap=0)
    graph["6"] = {"class_type": "ImageScale", "inputs": {
        "image": ["2", 0], "upscale_method": "bicubic", "width": 1024, "height": 1024,
        "crop": "disabled"}}  # fmt: skip
    graph["4"]["inputs"]["image"] = ["6", 0]
    return graph


def test_progress_moves_per_tile(host: Host) -> None:
    run = host.run(large("remove the noise for the progress bar"))
    assert run.succeeded, run.error
    values = [value for value, top in run.progress if top == 100]
    assert len(values) > 5 and values == sorted(values) and values[-1] == 100


def test_interrupt_stops_and_the_queue_goes_on(host: Host) -> None:
    asked = []

    def stop(data: dict[str, Any]) -> None:
        if data["max"] == 100 and data["value"] > 2 and not asked:
            asked.append(data["value"])
            host.post("/interrupt", {})

    run = host.run(large("remove the noise until stopped"), stop)
    assert run.messages[-1]["type"] == "execution_interrupted"
    assert asked and run.progress[-1][0] < 100
    assert host.run(simple()).succeeded


def test_a_download_shows_progress_and_stops(host: Host) -> None:
    asked = []

    def stop(data: dict[str, Any]) -> None:
        if data["value"] > 1_000_000 and not asked:
            asked.append(data["max"])
            host.post("/interrupt", {})

    run = host.run(simple() | {"1": load("instructir-7d.safetensors")}, stop)
    assert run.messages[-1]["type"] == "execution_interrupted", run.error
    assert asked and asked[0] > 90_000_000  # bytes of all the files
    assert not (host.base / "models/instructir/instructir-7d.safetensors").exists()
    assert host.run(simple()).succeeded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1": load("wrong.safetensors")}, "expected an InstructIR network"),
        (
            {"6": load("tiny.safetensors"), "3": encode("derain", loader="6")},
            "was encoded by the model 'tiny'",
        ),
        (
            {
                "6": {"class_type": "SolidMask",
                      "inputs": {"value": 1.0, "width": 30, "height": 20}},
                "4": restore("2", "3", mask=["6", 0]),
            },
            "mask of 30 x 20 pixels",
        ),
    ],
)  # fmt: skip
def test_errors_are_sentences_and_the_queue_goes_on(
    host: Host, change: Graph, message: str
) -> None:
    run = host.run(simple() | change)
    assert not run.succeeded and message in run.error
    assert host.run(simple()).succeeded


def test_empty_text_is_said_before_anything_runs(host: Host) -> None:
    answer = host.post("/prompt", {"prompt": simple("   "), "client_id": host.client})
    assert "instruction is empty; expected a sentence" in json.dumps(answer)
    graph = simple("  ")
    graph["3"]["inputs"]["preset"] = "remove noise"
    assert host.run(graph).succeeded


def test_samples_and_before_after(host: Host) -> None:
    graph = simple("remove the noise, sample")
    graph["2"] = {"class_type": "InstructIR_SamplePicture", "inputs": {"picture": "canyon (noise)"}}
    graph["6"] = {"class_type": "InstructIR_BeforeAfter", "inputs": {
        "before": ["2", 0], "after": ["4", 0], "read": ["3", 1]}}  # fmt: skip
    graph["7"] = save("6")
    run = host.run(graph)
    assert run.succeeded, run.error
    assert close(run.files("5")[0], by_core("noisy.png", "remove the noise, sample"))
    assert Image.open(run.files("7")[0]).width >= 2 * 640
    assert run.history["outputs"]["6"]["images"]  # shown on the node


def test_the_video_keeps_its_sound(host: Host) -> None:
    av = pytest.importorskip("av")
    path = ROOT / "example_workflows" / "05 A video with its sound.json"
    graph = to_api(json.loads(path.read_text("utf-8")), host.object_info)
    run = host.run(graph)
    assert run.succeeded, run.error
    (saver,) = [key for key, node in graph.items() if node["class_type"] == "SaveVideo"]
    with av.open(str(run.files(saver)[0])) as made, av.open(str(SAMPLE_VIDEO)) as given:
        lengths = [[float(s.duration * s.time_base) for s in v.streams] for v in (made, given)]
    assert len(lengths[0]) == 2 and np.allclose(lengths[0], lengths[1], atol=0.1)


def test_missing_model(host: Host) -> None:
    graph = simple() | {"1": load("gone.safetensors")}
    answer = host.post("/prompt", {"prompt": graph, "client_id": host.client})
    assert "'gone.safetensors' was not found in" in json.dumps(answer)
    graph["1"] = load("sub\\deep.safetensors")  # as a workflow made on Windows says it
    assert host.run(graph).succeeded


def test_other_models_work(host: Host) -> None:
    graph = simple()
    graph["1"] = load("tiny.safetensors")
    graph["1"]["inputs"]["precision"] = "bf16"
    run = host.run(graph)
    assert run.succeeded, run.error


WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
OLD_WORKFLOWS = sorted((ROOT / "tests/data/workflows-0.1.0").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_example_workflows(host: Host, path: Path) -> None:
    workflow = json.loads(path.read_text("utf-8"))
    kinds = {node["type"] for node in workflow["nodes"]}
    if "ImageCompare" in kinds and "ImageCompare" not in host.object_info:
        pytest.skip("this host has no ImageCompare, as the template says")
    run = host.run(to_api(workflow, host.object_info))  # on the first click
    assert run.succeeded, run.error
    woken = to_api(workflow, host.object_info, muted=True)
    if "CheckpointLoaderSimple" not in kinds:
        run = host.run(woken)
        assert run.succeeded, run.error


@pytest.mark.parametrize("path", OLD_WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_saved_by_0_1_0(host: Host, path: Path) -> None:
    graph = to_api(json.loads(path.read_text("utf-8")), host.object_info, old=True)
    if path.stem not in NEEDS_DIFFUSION:
        run = host.run(graph)
        assert run.succeeded, run.error


def test_there_are_examples() -> None:
    assert len(WORKFLOWS) >= 6


def test_the_editor_gets_templates_help_and_translations(host: Host) -> None:
    names = [path.stem for path in WORKFLOWS]
    assert sorted(host.get("/workflow_templates")["instructir"]) == sorted(names)
    for name in names:
        host.get(f"/api/workflow_templates/instructir/{quote(name)}.json")
    for node in json.loads(SNAPSHOT.read_text()):
        assert "## Output" in host.text(f"/extensions/instructir/docs/{node}.md")
        assert "## 输出" in host.text(f"/extensions/instructir/docs/{node}/zh.md")
        for language in ("en", "zh", "zh-TW", "ja", "ko"):
            assert node in host.get("/i18n")[language]["nodeDefs"]
