"""The blueprint "Restore Photo": the three nodes as one, as the editor saves such a thing."""

from __future__ import annotations

import uuid
from typing import Any

from examples import Node, encode, load_model, restoring
from layout import layout

NAME = "Restore Photo"
DESCRIPTION = (
    "Restores a photo by a sentence: say what is wrong with it, in your own words. Noise, blur, "
    "rain, haze, too dark, low resolution, faded colours. Nothing is invented."
)
INPUT, OUTPUT = -10, -20
"""The editor's ids of the two ends."""


def lasting_id(name: str) -> str:
    """The same at each run, so that saved workflows know the blueprint again."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"instructir/{NAME}/{name}"))


def blueprint(object_info: dict[str, Any], version: str) -> dict[str, Any]:
    """Sentence, strength and picture in; picture and what was read out."""
    nodes = {
        "load": load_model(),
        "say": encode("please remove the noise"),
        "restore": Node(
            "InstructIR_RestoreImage", 2, restoring(),
            {"restorer": ("load", 0), "instruction": ("say", 0)},
        ),
    }  # fmt: skip
    inner = layout(nodes, object_info, version)
    _, say, restore = inner["nodes"]
    slot = next(i for i, one in enumerate(restore["inputs"]) if one["name"] == "image")
    links = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link,
                 strict=True)) for link in inner["links"]
    ]  # fmt: skip

    def connect(origin: int, out: int, target: int, into: int, kind: str) -> int:
        number = len(links) + 1
        links.append(
            {"id": number, "origin_id": origin, "origin_slot": out, "target_id": target,
             "target_slot": into, "type": kind}
        )  # fmt: skip
        return number

    image_in = connect(INPUT, 0, restore["id"], slot, "IMAGE")
    restore["inputs"][slot]["link"] = image_in
    image_out = connect(restore["id"], 0, OUTPUT, 0, "IMAGE")
    restore["outputs"][0]["links"] = [image_out]
    read_out = connect(say["id"], 1, OUTPUT, 1, "STRING")
    say["outputs"][1]["links"] = [read_out]
    right = restore["pos"][0] + 460
    ends = [
        {"id": lasting_id("image in"), "name": "image", "type": "IMAGE", "linkIds": [image_in],
         "pos": [-100, 120]},
        {"id": lasting_id("image out"), "name": "image", "type": "IMAGE", "linkIds": [image_out],
         "pos": [right + 20, 20]},
        {"id": lasting_id("read"), "name": "read", "type": "STRING", "linkIds": [read_out],
         "pos": [right + 20, 40]},
    ]  # fmt: skip
    definition = {
        "id": lasting_id("definition"), "version": 1, "revision": 0, "config": {}, "name": NAME,
        "state": {"lastGroupId": 0, "lastNodeId": 3, "lastLinkId": len(links),
                  "lastRerouteId": len(inner["extra"].get("reroutes", []))},
        "inputNode": {"id": INPUT, "bounding": [-200, 100, 120, 60]},
        "outputNode": {"id": OUTPUT, "bounding": [right, 0, 120, 80]},
        "inputs": ends[:1], "outputs": ends[1:], "widgets": [], "nodes": inner["nodes"],
        "groups": [], "links": links, "extra": inner["extra"], "category": "image/restoration",
        "description": DESCRIPTION,
    }  # fmt: skip
    one = {
        "id": 1, "type": definition["id"], "pos": [0, 0], "size": [340, 220], "flags": {},
        "order": 0, "mode": 0, "title": NAME,
        "inputs": [{"name": "image", "type": "IMAGE", "link": None}],
        "outputs": [{"name": "image", "type": "IMAGE", "links": []},
                    {"name": "read", "type": "STRING", "links": []}],
        "properties": {"proxyWidgets": [[str(say["id"]), "text"], [str(restore["id"]), "strength"]],
                       "cnr_id": "instructir", "ver": version},
        "widgets_values": [],
    }  # fmt: skip
    return {
        "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [one], "links": [],
        "version": 0.4, "definitions": {"subgraphs": [definition]}, "extra": {},
    }  # fmt: skip
