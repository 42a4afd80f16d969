"""From saved workflows to graphs, without a host."""

from __future__ import annotations

from typing import Any

import pytest
from workflows import to_api

CODEC = ["COMFY_DYNAMICCOMBO_V3", {"options": [
    {"key": "auto", "inputs": {"required": {}}},
    {"key": "h264", "inputs": {"required": {"crf": ["FLOAT", {"default": 23.0}]}}},
]}]  # fmt: skip
FORMAT = ["COMFY_DYNAMICCOMBO_V3", {"options": [
    {"key": "auto", "inputs": {"required": {"codec": CODEC}}},
    {"key": "gif", "inputs": {"optional": {"palette": ["IMAGE", {}]}}},
]}]  # fmt: skip
INFO: dict[str, Any] = {
    "Make": {"input": {}, "output": ["IMAGE"]},
    "Save": {"input": {
        "required": {"images": ["IMAGE", {}], "format": FORMAT},
        "optional": {"depth": ["INT", {"default": 8}], "method": [["fast", "good"]]},
    }, "output": []},
    "InstructIR_Save": {"input": {"required": {"depth": ["INT", {"default": 8}]}}, "output": []},
    "Name": {"input": {"required": {"name": ["STRING", {}]}}, "output": []},
}  # fmt: skip


def inputs_of(kind: str, values: list[Any], linked: str = "") -> dict[str, Any]:
    """What `to_api` gives a node that has `values`, with the sockets named in `linked`."""
    sockets = [{"name": name, "link": n} for n, name in enumerate(linked.split(), start=1)]
    workflow = {
        "nodes": [
            {"id": 1, "type": "Make"},
            {"id": 2, "type": kind, "widgets_values": values, "inputs": sockets},
        ],
        "links": [[slot["link"], 1, 0, 2, i, "IMAGE"] for i, slot in enumerate(sockets)],
    }
    return to_api(workflow, INFO)["2"]["inputs"]


def test_the_choice_of_a_dynamic_menu_brings_its_inputs() -> None:
    given = inputs_of("Save", ["auto", "h264", 30.0, 10, "good"], "images")
    assert given == {"images": ["1", 0], "format": "auto", "format.codec": "h264",
                     "format.codec.crf": 30.0, "depth": 10, "method": "good"}  # fmt: skip
    given = inputs_of("Save", ["gif", 10, "good"], "images format.palette")
    assert given["format.palette"] == ["1", 0] and "format.codec" not in given


def test_widgets_newer_than_the_workflow_have_their_defaults() -> None:
    given = inputs_of("Save", [], "images")
    assert given == {"images": ["1", 0], "format": "auto", "format.codec": "auto",
                     "depth": 8, "method": "fast"}  # fmt: skip


def test_our_own_old_workflows_have_the_defaults_too() -> None:
    workflow = {"nodes": [{"id": 2, "type": "InstructIR_Save", "widgets_values": []}], "links": []}
    assert to_api(workflow, INFO, old=True)["2"]["inputs"] == {"depth": 8}


@pytest.mark.parametrize(
    ("kind", "values", "linked", "message"),
    [
        ("InstructIR_Save", [], "", "InstructIR_Save: no value for depth"),
        ("Name", [], "", "Name: no value for name"),
        ("Save", ["mp4"], "images", "Save: no mp4 in the menu format"),
        ("Save", ["gif", 8, "fast", 1], "images", "1 values too many"),
        ("Save", ["auto"], "", "nothing connected to .*images"),
        ("Save", ["auto"], "images format.palette", "Save: "),  # brought by another choice
        ("Lost", [], "", "unknown node Lost"),
    ],
)
def test_what_does_not_add_up_is_refused(
    kind: str, values: list[Any], linked: str, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        inputs_of(kind, values, linked)
