"""What the nodes look like, without a host: as in the snapshot that saved workflows rely on."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeHost, import_pack

SNAPSHOT = Path(__file__).parent / "host" / "object_info.json"
SPEC = ("tooltip", "lazy", "advanced", "default", "min", "max", "step", "multiline", "options",
        "display", "forceInput")  # fmt: skip


def described(node: Any) -> dict[str, Any]:
    """A node as hosts list it under ``/object_info``."""
    schema = node.define_schema().options
    inputs: dict[str, dict[str, Any]] = {"required": {}}  # hosts write it even where empty
    for one in schema["inputs"]:
        given = {**one.options, **one.extra_dict}
        if "display_mode" in given:
            given["display"] = given.pop("display_mode")
        if "force_input" in given:
            given["forceInput"] = given.pop("force_input")
        kind = "optional" if given.pop("optional", False) else "required"
        assert not set(given) - set(SPEC), f"{one.arguments[0]}: describe this option too"
        if one.arguments[0] == "model_name":  # depends on the files there
            del given["options"]
        spec = {key: given[key] for key in SPEC if key in given}
        inputs.setdefault(kind, {})[one.arguments[0]] = [one.kind, spec]
    if schema.get("hidden"):
        inputs["hidden"] = {kind.lower(): [kind] for kind in schema["hidden"]}
    outputs = schema["outputs"]
    return {
        "name": schema["node_id"],
        "display_name": schema["display_name"],
        "category": schema["category"],
        "description": schema["description"],
        "input": inputs,
        "input_order": {kind: list(names) for kind, names in inputs.items()},
        "output": [one.kind for one in outputs],
        "output_name": [one.options["display_name"] for one in outputs],
        "output_tooltips": [one.options["tooltip"] for one in outputs],
        "output_is_list": [False for _ in outputs],
        "output_node": schema.get("is_output_node", False),
    }


def test_nodes_are_what_saved_workflows_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = import_pack(monkeypatch, FakeHost(tmp_path))
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    found = {info["name"]: info for info in map(described, nodes)}
    # If this fails and is meant: UPDATE_SNAPSHOT=1 writes it anew. Nothing may be taken away or
    # renamed that a saved workflow holds.
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(SNAPSHOT.read_text())
