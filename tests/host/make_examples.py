"""Write `subgraphs/` and `example_workflows/*.json`, and their pictures from real runs on a host.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/host/make_examples.py

Needs a host that has every node of the examples (0.9 or newer). `make examples` makes the README's
pictures too.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from blueprint import NAME, blueprint
from examples import EXAMPLES
from host import ROOT, Host, find_host
from layout import layout, opening
from PIL import Image
from workflows import to_api

FOLDER = ROOT / "example_workflows"
(VERSION,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)


def before_and_after(host: Host, graph: dict[str, Any]) -> list[Image.Image]:
    """What goes into the last Before/After of a graph, from a run on the host."""
    nodes = [n for n in graph.values() if n["class_type"] == "InstructIR_BeforeAfter"]
    for name in ("before", "after"):
        graph[name] = {
            "class_type": "SaveImage",
            "inputs": {"images": nodes[-1]["inputs"][name], "filename_prefix": name},
        }
    run = host.run(graph)
    assert run.succeeded, run.error
    return [Image.open(run.files(name)[-1]).convert("RGB") for name in ("before", "after")]


def thumbnail(before: Image.Image, after: Image.Image) -> Image.Image:
    """Left half of the one beside the right half of the other."""
    size = (640, round(640 * before.height / before.width))
    a, b = (np.asarray(i.resize(size, Image.Resampling.LANCZOS)) for i in (before, after))
    both = np.concatenate([a[:, :318], np.full((size[1], 4, 3), 255, np.uint8), b[:, 322:]], 1)
    return Image.fromarray(both)


def main() -> None:
    found = find_host()
    assert found is not None, "set COMFYUI_PATH and COMFYUI_PYTHON"
    with tempfile.TemporaryDirectory() as base:
        host = Host(Path(base), *found)
        try:
            path = ROOT / "subgraphs" / f"{NAME}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(blueprint(host.object_info, VERSION), indent=1) + "\n")
            for name, nodes in EXAMPLES.items():
                workflow = layout(nodes, host.object_info, VERSION)
                workflow["extra"]["ds"] = opening(nodes, workflow)
                path = FOLDER / f"{name}.json"
                path.write_text(json.dumps(workflow, indent=1) + "\n", "utf-8")
                pictures = before_and_after(host, to_api(workflow, host.object_info))
                thumbnail(*pictures).save(path.with_suffix(".jpg"), quality=88)
                print(path)
        finally:
            host.close()


if __name__ == "__main__":
    main()
