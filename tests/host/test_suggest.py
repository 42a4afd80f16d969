"""Suggest Instruction, Try All Instructions and the guard on a real host."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from host import ROOT, Graph, Host
from PIL import Image
from test_host import encode, load, picture, restore, save, simple

from instructir_core import Restorer, Suggestion, pictures
from instructir_core.tasks import TASKS

TINY = "tiny.safetensors"
"""It has a diagnosis of random weights, which answers the same each time."""


def suggest(source: str = "2", loader: str = "1", most: int = 2, **more: Any) -> dict[str, Any]:
    inputs = {"restorer": [loader, 0], "image": [source, 0], "most": most, **more}
    return {"class_type": "InstructIR_SuggestInstruction", "inputs": inputs}


def try_all(size: int, loader: str = "1") -> dict[str, Any]:
    inputs = {"restorer": [loader, 0], "image": ["2", 0], "size": size}
    return {"class_type": "InstructIR_TryAllInstructions", "inputs": inputs}


def words(source: str, output: int) -> dict[str, Any]:
    return {"class_type": "PreviewAny", "inputs": {"source": [source, output]}}


def by_core(host: Host, threshold: float) -> tuple[Restorer, torch.Tensor, Suggestion]:
    restorer = Restorer.from_pretrained(host.base / "models/instructir" / TINY, device="cpu")
    pixels = torch.from_numpy(pictures.read(ROOT / "example_workflows/inputs/noisy.png").pixels)
    return restorer, pixels, restorer.suggest(pixels, 3, threshold)


def test_load_suggest_restore(host: Host) -> None:
    graph: Graph = {
        "1": load(TINY), "2": picture(), "3": suggest(most=3, threshold=0.01),
        "4": restore("2", "3"), "5": save("4"), "6": words("3", 1), "7": words("3", 2),
    }  # fmt: skip
    run = host.run(graph)
    assert run.succeeded, run.error
    restorer, pixels, found = by_core(host, 0.01)
    assert len(found.sentences) == 3
    assert run.history["outputs"]["6"]["text"] == ["\n".join(found.sentences)]
    assert run.history["outputs"]["7"]["text"][0].startswith(found.report)
    expected = restorer.restore(pixels, found.instructions).numpy() * 255
    made = np.asarray(Image.open(run.files("5")[0]).convert("RGB")).astype(np.float64)
    assert np.abs(made - expected).max() <= 1.01
    again = host.run(graph)
    assert again.succeeded and again.cached >= {"1", "2", "3", "4"}


def test_nothing_suggested_leaves_the_picture(host: Host) -> None:
    graph: Graph = {"1": load(TINY), "2": picture(), "3": suggest(threshold=1.0),
                    "4": restore("2", "3"), "5": save("4")}  # fmt: skip
    run = host.run(graph)
    assert run.succeeded, run.error
    given = Image.open(host.base / "input" / "noisy.png").convert("RGB")
    assert np.array_equal(np.asarray(Image.open(run.files("5")[0])), np.asarray(given))
    assert "left as it is" in run.history["outputs"]["4"]["text"][0]
    # And beside another sentence it asks for nothing.
    graph["6"] = encode("remove the noise", previous="3")
    graph["4"] = restore("2", "6")
    assert host.run(graph).succeeded


def test_all_instructions_on_one_sheet(host: Host) -> None:
    graph: Graph = {"1": load(TINY), "2": picture(), "3": try_all(96), "5": save("3")}
    graph["6"] = {"class_type": "SaveImage",
                  "inputs": {"images": ["3", 1], "filename_prefix": "sheet"}}  # fmt: skip
    run = host.run(graph)
    assert run.succeeded, run.error
    files = run.files("5")
    assert len(files) == len(TASKS)
    assert {Image.open(file).size for file in files} == {(96, 58)}
    sheet = Image.open(run.files("6")[0])
    assert sheet.width > 4 * 96 and sheet.height > 2 * 58
    assert run.history["outputs"]["3"]["images"]  # shown on the node
    assert run.progress[-1] == (100, 100)


@pytest.mark.parametrize("guard", ["off", "warn", "skip"])
def test_guard_and_steady(host: Host, guard: str) -> None:
    graph = simple(guard=guard, steady=True) | {"1": load(TINY)}
    run = host.run(graph)
    assert run.succeeded, run.error
    told = json.dumps(run.history["outputs"].get("4", {}))
    assert guard != "off" or "picture" not in told


def test_a_model_without_diagnosis_says_what_is_missing(host: Host) -> None:
    graph: Graph = {"1": load("sub/deep.safetensors"), "2": picture(), "3": suggest(),
                    "4": restore("2", "3"), "5": save("4")}  # fmt: skip
    run = host.run(graph)
    assert not run.succeeded and "has no diagnosis" in run.error
