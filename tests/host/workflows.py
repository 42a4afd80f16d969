"""From a workflow as the editor saves it to the graph that the server's API runs."""

from __future__ import annotations

from typing import Any

DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
SLIDER = "IMAGECOMPARE"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC, SLIDER}
SKIPPED = {"Note", "MarkdownNote"}
OURS = "InstructIR_"
MUTED = 2


def options_of(spec: list[Any]) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 else {}


def is_widget(spec: list[Any]) -> bool:
    """Whether an input is a value on the node rather than a socket."""
    known = isinstance(spec[0], list) or spec[0] in WIDGETS
    return known and not options_of(spec).get("forceInput")


def default_of(spec: list[Any]) -> Any:
    """What the editor puts into a new widget; None where that is not known."""
    options = options_of(spec)
    if spec[0] == SLIDER:
        return {}  # it holds nothing before a run
    menu = spec[0] if isinstance(spec[0], list) else options.get("options") or [None]
    first = menu[0]["key"] if spec[0] == DYNAMIC else menu[0]
    return options.get("default", first)


def read_widgets(
    kind: str, info: dict[str, Any], values: list[Any], prefix: str = "", old: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Value and spec of each input by its full name, taking what it uses from `values`.

    What the choice of a dynamic menu brings comes right after it, named `menu.input`. Widgets that
    a node got after the workflow was saved have their defaults, as in the editor; but our own
    examples must know all of our widgets, unless they are `old`.
    """
    inputs: dict[str, Any] = {}
    specs: dict[str, Any] = {}
    for short, spec in {**info.get("required", {}), **info.get("optional", {})}.items():
        name = prefix + short
        specs[name] = spec
        if not is_widget(spec):
            continue
        options = options_of(spec)
        saved = bool(values)
        assert saved or old or not kind.startswith(OURS), f"{kind}: no value for {name}"
        inputs[name] = values.pop(0) if saved else default_of(spec)
        assert inputs[name] is not None, f"{kind}: no value for {name}"
        # The editor saves a second value for these: its button, or what follows a run.
        extra = ("control_after_generate", "image_upload", "video_upload")
        if saved and any(options.get(key) for key in extra):
            values.pop(0)
        if spec[0] == DYNAMIC:
            brought = {option["key"]: option["inputs"] for option in options["options"]}
            assert inputs[name] in brought, f"{kind}: no {inputs[name]} in the menu {name}"
            below = read_widgets(kind, brought[inputs[name]], values, f"{name}.", old)
            inputs |= below[0]
            specs |= below[1]
    return inputs, specs


def to_api(
    workflow: dict[str, Any], object_info: dict[str, Any], muted: bool = False, old: bool = False
) -> dict[str, dict[str, Any]]:
    """What runs; nodes that are muted only where asked for; ``old`` as `read_widgets`.

    Raises AssertionError where a node is unknown, a link dangles or widgets do not add up.
    """
    links = {link[0]: link for link in workflow["links"]}
    nodes = {node["id"]: node for node in workflow["nodes"]}
    graph: dict[str, dict[str, Any]] = {}
    for node in workflow["nodes"]:
        if node["type"] in SKIPPED or (node.get("mode") == MUTED and not muted):
            continue
        assert node["type"] in object_info, f"unknown node {node['type']}"
        info = object_info[node["type"]]["input"]
        values = list(node.get("widgets_values", []))
        inputs, specs = read_widgets(node["type"], info, values, old=old)
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
