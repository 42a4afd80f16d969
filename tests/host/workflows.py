"""From a workflow as the editor saves it to the graph that the server's API runs."""

from __future__ import annotations

from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SKIPPED = {"Note", "MarkdownNote"}


def is_widget(spec: list[Any]) -> bool:
    """Whether an input is a value on the node rather than a socket."""
    return (isinstance(spec[0], list) or spec[0] in WIDGETS) and not (
        len(spec) > 1 and spec[1].get("forceInput")
    )


def to_api(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Raises AssertionError where a node is unknown, a link dangles or widgets do not add up."""
    links = {link[0]: link for link in workflow["links"]}
    nodes = {node["id"]: node for node in workflow["nodes"]}
    graph: dict[str, dict[str, Any]] = {}
    for node in workflow["nodes"]:
        if node["type"] in SKIPPED:
            continue
        assert node["type"] in object_info, f"unknown node {node['type']}"
        info = object_info[node["type"]]["input"]
        specs = {**info.get("required", {}), **info.get("optional", {})}
        values = list(node.get("widgets_values", []))
        inputs: dict[str, Any] = {}
        for name, spec in specs.items():
            if is_widget(spec):
                assert values, f"{node['type']}: no value for {name}"
                inputs[name] = values.pop(0)
                options = spec[1] if len(spec) > 1 else {}
                # The editor saves a second value for these: its button, or what follows a run.
                extra = ("control_after_generate", "image_upload", "video_upload")
                if any(options.get(key) for key in extra):
                    values.pop(0)
        assert not values, f"{node['type']}: {len(values)} values too many"
        for slot in node.get("inputs", []):
            if slot.get("link") is None:
                continue
            _, source, output, target, _, kind = links[slot["link"]]
            assert target == node["id"] and slot["name"] in specs, f"{node['type']}: {slot}"
            given = object_info[nodes[source]["type"]]["output"][output]
            wanted = specs[slot["name"]][0]
            assert given == kind, f"link of {kind} from an output of {given}"
            assert wanted in (given, "*") or isinstance(wanted, list), f"{wanted} from {given}"
            inputs[slot["name"]] = [str(source), output]
        missing = set(info.get("required", {})) - set(inputs)
        assert not missing, f"{node['type']}: nothing connected to {missing}"
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph
