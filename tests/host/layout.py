"""From a table of nodes to a workflow as the editor saves it, with no link behind a node."""

from __future__ import annotations

import re
from typing import Any

from examples import COLOURS, MODELS, SIZES, Node
from workflows import SKIPPED, is_widget

GUTTER, GAP, TITLE = 110, 60, 30
"""Pixels between columns, between nodes of one column, and above each node for its title."""
MUTED = 2
SLOT = 20
READABLE = 0.6
"""The canvas draws no letters where it is zoomed out further."""
WINDOW = 1600
"""Pixels of the editor that a graph may cover when it is opened, where that leaves it readable."""


def slot_y(node: dict[str, Any], index: int) -> float:
    """Where the editor draws the dot of an input or an output."""
    return float(node["pos"][1] + SLOT * (index + 0.7))


def size_of(node: Node) -> tuple[int, int]:
    """A note is as high as its text is long."""
    width, height = SIZES[node.kind]
    if node.kind in SKIPPED:
        seen = re.sub(r"\]\(.*?\)", "", node.widgets[0])  # without the addresses of links
        height = 24 + 16 * sum(1 + len(line) // 52 for line in seen.splitlines())
    return width, height


def places(nodes: dict[str, Node]) -> tuple[dict[str, tuple[int, int]], list[int]]:
    """Top left corner of each node, and the x of each gutter's middle, left of its column.

    What is asleep stands below the rest, so that one sees what runs and where it would go on.
    """
    widths = [0] * (1 + max(node.column for node in nodes.values()))
    for node in nodes.values():
        widths[node.column] = max(widths[node.column], size_of(node)[0])
    lefts = [sum(widths[:c]) + GUTTER * c for c in range(len(widths))]
    heights = [0] * len(widths)
    corners = {}
    for asleep in (False, True):
        band = {name: node for name, node in nodes.items() if node.asleep == asleep}
        if asleep and band:
            first = min(node.column for node in band.values())
            heights[first:] = [max(heights[first:])] * len(heights[first:])
        for name, node in band.items():
            corners[name] = (lefts[node.column], heights[node.column])
            heights[node.column] += size_of(node)[1] + TITLE + GAP
    return corners, [left - GUTTER // 2 for left in lefts]


def layout(nodes: dict[str, Node], object_info: dict[str, Any], version: str) -> dict[str, Any]:
    """Links to the next column are drawn directly, those that go further run above all nodes."""
    ids = {name: number for number, name in enumerate(nodes, start=1)}
    corners, _ = places(nodes)
    links: list[list[Any]] = []
    drawn = []
    for name, node in nodes.items():
        info = object_info.get(node.kind, {"input": {}, "output": [], "output_name": []})
        specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        inputs = []
        for key, spec in specs.items():
            link = None
            if key in node.links:
                source, slot = node.links[key]
                given = object_info[nodes[source].kind]["output"][slot]
                links.append([len(links) + 1, ids[source], slot, ids[name], len(inputs), given])
                link = len(links)
            if link is None and is_widget(spec):
                continue
            inputs.append(
                {"name": key, "type": spec[0] if isinstance(spec[0], str) else "COMBO"}
                | ({"widget": {"name": key}} if is_widget(spec) else {})
                | {"link": link}
            )
        outputs = [
            {"name": label, "type": given, "links": [], "slot_index": slot}
            for slot, (label, given) in enumerate(
                zip(info["output_name"], info["output"], strict=True)
            )
        ]
        entry = {
            "id": ids[name], "type": node.kind, "mode": MUTED if node.asleep else 0,
            "pos": list(corners[name]), "size": list(size_of(node)), "flags": {},
            "order": ids[name] - 1, "inputs": inputs, "outputs": outputs,
            "properties": properties(node, version), "widgets_values": list(node.widgets),
        }  # fmt: skip
        if node.kind in SKIPPED:
            entry["title"] = "Read me"
        if node.kind in COLOURS:
            entry["color"], entry["bgcolor"] = COLOURS[node.kind]
        drawn.append(entry)
    by_id = {entry["id"]: entry for entry in drawn}
    for number, source_id, slot, *_ in links:
        by_id[source_id]["outputs"][slot]["links"].append(number)
    return {
        "last_node_id": len(drawn), "last_link_id": len(links), "nodes": drawn, "links": links,
        "groups": [], "config": {}, "extra": routes(nodes, links), "version": 0.4,
    }  # fmt: skip


def properties(node: Node, version: str) -> dict[str, Any]:
    if node.kind in SKIPPED:
        return {}
    found: dict[str, Any] = {"Node name for S&R": node.kind}
    if node.kind.startswith("InstructIR_"):
        found |= {"cnr_id": "instructir", "ver": version}
    if node.kind in MODELS:
        directory, address = MODELS[node.kind]
        file = node.widgets[0]
        found["models"] = [{"name": file, "url": f"{address}/{file}", "directory": directory}]
    return found


def opening(nodes: dict[str, Node], workflow: dict[str, Any]) -> dict[str, Any]:
    """Zoom and place that the editor opens the graph with: as a whole where it stays readable."""
    corners, _ = places(nodes)
    right = max(corners[name][0] + size_of(node)[0] for name, node in nodes.items())
    top = min([-TITLE, *(reroute["pos"][1] for reroute in workflow["extra"].get("reroutes", []))])
    scale = round(min(0.8, max(READABLE, WINDOW / right)), 2)
    return {"scale": scale, "offset": [round(90 / scale), round(110 / scale) - top]}


def routes(nodes: dict[str, Node], links: list[list[Any]]) -> dict[str, Any]:
    """The editor's reroutes: an output's long links share one lane, and leave it one by one."""
    columns = [node.column for node in nodes.values()]
    _, gutters = places(nodes)
    reroutes: list[dict[str, Any]] = []
    extensions = []
    outputs: dict[tuple[int, int], list[list[Any]]] = {}
    for link in links:
        if columns[link[3] - 1] > columns[link[1] - 1] + 1:
            outputs.setdefault((link[1], link[2]), []).append(link)
    for lane, ((source, _), long) in enumerate(outputs.items()):
        y = -2 * TITLE - 24 * lane
        ends = sorted({columns[link[3] - 1] for link in long})
        parent = None
        for column in [columns[source - 1] + 1, *ends]:
            passing = [link[0] for link in long if columns[link[3] - 1] >= column]
            x = gutters[column] + 12 * (lane % 4) - 18
            reroute = {"id": len(reroutes) + 1, "pos": [x, y], "linkIds": passing}
            if parent is not None:
                reroute["parentId"] = parent
            reroutes.append(reroute)
            parent = reroute["id"]
            extensions += [
                {"id": link[0], "parentId": parent}
                for link in long
                if columns[link[3] - 1] == column
            ]
    return {"reroutes": reroutes, "linkExtensions": extensions} if reroutes else {}
