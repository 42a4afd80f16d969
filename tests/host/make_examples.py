"""Write `example_workflows/*.json`, and each one's thumbnail from a real run on a host.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/host/make_examples.py

The upscaler on the thumbnail is the tests' stand-in, and the diffusion example shows its
restoration alone. `make examples` makes the README's pictures too.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import av
from host import ROOT, Host, find_host
from PIL import Image
from workflows import SKIPPED, is_widget, to_api

FOLDER = ROOT / "example_workflows"
VERSION = "0.1.0"
MINI = "mini (bundled)"
HUB = "https://huggingface.co/Comfy-Org"
MODELS = {
    "UpscaleModelLoader": ("upscale_models", f"{HUB}/Real-ESRGAN_repackaged/resolve/main"),
    "CheckpointLoaderSimple": (
        "checkpoints", f"{HUB}/stable-diffusion-v1-5-archive/resolve/main",
    ),
}  # fmt: skip
"""Loader -> folder and address of its file, for the editor's missing-model dialog."""
HEIGHTS = {
    "InstructIR_LoadModel": 110, "InstructIR_EncodeInstruction": 260,
    "InstructIR_RestoreImage": 230, "UpscaleModelLoader": 80, "ImageScaleBy": 110,
    "MarkdownNote": 200,
}  # fmt: skip
Node = tuple[str, tuple[int, int], list[Any], dict[str, tuple[str, int]]]
"""Type, place on the grid (column, row), widget values, and links {input: (node, output)}."""


def note(text: str, place: tuple[int, int] = (0, 2)) -> Node:
    return ("MarkdownNote", place, [text], {})


def encode(sentence: str, place: tuple[int, int], previous: str | None = None) -> Node:
    links = {"restorer": ("load", 0)}
    if previous:
        links["previous"] = (previous, 0)
    return ("InstructIR_EncodeInstruction", place, [sentence, "from text"], links)


def restore(source: str, instruction: str, place: tuple[int, int]) -> Node:
    links = {"restorer": ("load", 0), "image": (source, 0), "instruction": (instruction, 0)}
    return ("InstructIR_RestoreImage", place, [1.0, 0, 64], links)


def load_model() -> Node:
    return ("InstructIR_LoadModel", (0, 0), [MINI, "auto"], {})


def load_image(name: str) -> Node:
    return ("LoadImage", (0, 1), [name, "image"], {})


def save(source: str, place: tuple[int, int], name: str = "restored") -> Node:
    return ("SaveImage", place, [name], {"images": (source, 0)})


EXAMPLES: dict[str, dict[str, Node]] = {
    "restore_one_picture": {
        "load": load_model(),
        "image": load_image("noisy.png"),
        "say": encode("please remove the noise", (1, 0)),
        "restore": restore("image", "say", (2, 0)),
        "save": save("restore", (3, 0)),
        "note": note(
            "**Restore a picture by a sentence.** Say what is wrong with it, in your own words. "
            "The task that was read shows on Encode Instruction. The sample pictures lie in the "
            "pack's `example_workflows/inputs`: put them into ComfyUI's `input` folder."
        ),
    },
    "three_restores_in_a_chain": {
        "load": load_model(),
        "image": load_image("rainy.png"),
        "say1": encode("take the rain out of my picture", (1, 0)),
        "say2": encode("it is a bit grainy, smooth the noise", (2, 0)),
        "say3": encode("make the colours more vivid", (3, 0)),
        "restore1": restore("image", "say1", (1, 1)),
        "restore2": restore("restore1", "say2", (2, 1)),
        "restore3": restore("restore2", "say3", (3, 1)),
        "preview1": ("PreviewImage", (1, 2), [], {"images": ("restore1", 0)}),
        "preview2": ("PreviewImage", (2, 2), [], {"images": ("restore2", 0)}),
        "save": save("restore3", (3, 2)),
        "note": note(
            "**Three restorations, each with its own strength and mask.** Changing the last "
            "sentence runs only the last link again."
        ),
    },
    "instruction_sequence": {
        "load": load_model(),
        "image": load_image("dark.png"),
        "say1": encode("this is far too dark, brighten it", (1, 0)),
        "say2": encode("now remove the noise", (1, 1), previous="say1"),
        "restore": restore("image", "say2", (2, 0)),
        "save": save("restore", (3, 0)),
        "note": note(
            "**Two instructions, one after the other, in one Restore Image.** Chain as many as "
            "you like through `previous`."
        ),
    },
    "restore_then_upscale": {
        "load": load_model(),
        "image": load_image("noisy.png"),
        "say": encode("clean up the grain", (1, 0)),
        "restore": restore("image", "say", (2, 0)),
        "upscaler": ("UpscaleModelLoader", (2, 1), ["RealESRGAN_x4plus.safetensors"], {}),
        "upscale": ("ImageUpscaleWithModel", (3, 0), [],
                    {"upscale_model": ("upscaler", 0), "image": ("restore", 0)}),
        "half": ("ImageScaleBy", (3, 1), ["lanczos", 0.5], {"image": ("upscale", 0)}),
        "save": save("half", (4, 0), "upscaled"),
        "note": note(
            "**Clean first, then enlarge.** An upscaler takes noise for detail and draws it "
            "large. Put an upscale model into `models/upscale_models`."
        ),
    },
    "restore_before_image_to_image": {
        "load": load_model(),
        "image": load_image("hazy.png"),
        "say": encode("clear the haze", (1, 0)),
        "restore": restore("image", "say", (2, 0)),
        "preview": ("PreviewImage", (3, 2), [], {"images": ("restore", 0)}),
        "checkpoint": ("CheckpointLoaderSimple", (1, 2),
                       ["v1-5-pruned-emaonly-fp16.safetensors"], {}),
        "positive": ("CLIPTextEncode", (2, 1), ["a photograph of the Grand Canyon, sharp, clear"],
                     {"clip": ("checkpoint", 1)}),
        "negative": ("CLIPTextEncode", (2, 2), ["haze, blur, painting"],
                     {"clip": ("checkpoint", 1)}),
        "latent": ("VAEEncode", (3, 0), [], {"pixels": ("restore", 0), "vae": ("checkpoint", 2)}),
        "sample": ("KSampler", (3, 1), [7, "fixed", 20, 6.0, "dpmpp_2m", "karras", 0.35],
                   {"model": ("checkpoint", 0), "positive": ("positive", 0),
                    "negative": ("negative", 0), "latent_image": ("latent", 0)}),
        "decode": ("VAEDecode", (4, 0), [], {"samples": ("sample", 0), "vae": ("checkpoint", 2)}),
        "save": save("decode", (4, 1), "image_to_image"),
        "note": note(
            "**Restore before image to image.** The diffusion model starts from a clear picture, "
            "so a low denoise suffices and the scene stays itself."
        ),
    },
    "video_frames": {
        "load": load_model(),
        "video": ("LoadVideo", (0, 1), ["noisy_pan.mp4", "image"], {}),
        "frames": ("GetVideoComponents", (1, 1), [], {"video": ("video", 0)}),
        "say": encode("remove the noise from the footage", (1, 0)),
        "restore": restore("frames", "say", (2, 0)),
        "join": ("CreateVideo", (3, 0), [24.0],
                 {"images": ("restore", 0), "fps": ("frames", 2)}),
        "save": ("SaveVideo", (3, 1), ["video/restored", "auto", "auto"], {"video": ("join", 0)}),
        "note": note(
            "**Every frame of a video.** Frames are restored one by one, so length costs time "
            "but no memory on the GPU."
        ),
    },
}  # fmt: skip


def layout(nodes: dict[str, Node], object_info: dict[str, Any]) -> dict[str, Any]:
    """The graph as the editor saves it."""
    ids = {name: number for number, name in enumerate(nodes, start=1)}
    links: list[list[Any]] = []
    drawn = []
    for name, (kind, (column, row), widgets, connected) in nodes.items():
        info = object_info.get(kind, {"input": {}, "output": [], "output_name": []})
        specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        inputs = []
        for key, spec in specs.items():
            link = None
            if key in connected:
                source, slot = connected[key]
                given = object_info[nodes[source][0]]["output"][slot]
                links.append([len(links) + 1, ids[source], slot, ids[name], len(inputs), given])
                link = len(links)
            if link is None and is_widget(spec):
                continue
            entry = {"name": key, "type": spec[0] if isinstance(spec[0], str) else "COMBO"}
            if is_widget(spec):
                entry["widget"] = {"name": key}
            inputs.append(entry | {"link": link})
        properties: dict[str, Any] = {"Node name for S&R": kind}
        if kind.startswith("InstructIR_"):
            properties |= {"cnr_id": "instructir", "ver": VERSION}
        if kind in MODELS:
            directory, address = MODELS[kind]
            file = widgets[0]
            properties["models"] = [
                {"name": file, "url": f"{address}/{file}", "directory": directory}
            ]
        drawn.append(
            {
                "id": ids[name], "type": kind, "mode": 0, "pos": [380 * column, 360 * row],
                "size": [340, HEIGHTS.get(kind, 300)], "flags": {}, "order": ids[name] - 1,
                "inputs": inputs,
                "outputs": [
                    {"name": label, "type": given, "links": [], "slot_index": slot}
                    for slot, (label, given) in enumerate(
                        zip(info["output_name"], info["output"], strict=True)
                    )
                ],
                "properties": {} if kind in SKIPPED else properties,
                "widgets_values": widgets,
            }
        )  # fmt: skip
    by_id = {node["id"]: node for node in drawn}
    for number, source, slot, *_ in links:
        by_id[source]["outputs"][slot]["links"].append(number)
    return {
        "last_node_id": len(drawn), "last_link_id": len(links), "nodes": drawn, "links": links,
        "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def make_video() -> None:
    """A slow pan over the noisy sample, 16 frames of 320 x 192."""
    clean = Image.open(FOLDER / "inputs" / "noisy.png").convert("RGB")
    with av.open(str(FOLDER / "inputs" / "noisy_pan.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=24, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for index in range(16):
            crop = clean.crop((8 * index, 120, 8 * index + 320, 312))
            file.mux(stream.encode(av.VideoFrame.from_image(crop)))
        file.mux(stream.encode())


def without_diffusion(graph: dict[str, Any]) -> dict[str, Any]:
    """What of a graph leads to the preview of the restored picture."""
    preview = next(k for k, n in graph.items() if n["class_type"] == "PreviewImage")
    wanted, waiting = set(), [preview]
    while waiting:
        node = waiting.pop()
        wanted.add(node)
        waiting += [v[0] for v in graph[node]["inputs"].values() if isinstance(v, list)]
    return {k: n for k, n in graph.items() if k in wanted}


def last_frame(path: Path) -> Image.Image:
    with av.open(str(path)) as video:
        return list(video.decode(video=0))[-1].to_image()


def thumbnail(host: Host, graph: dict[str, Any]) -> Image.Image:
    """Left half of the input beside the right half of the result, from a run on the host."""
    run = host.run(graph)
    assert run.succeeded, run.error
    files = [f for output in run.history["outputs"].values() for f in output.get("images", [])]
    kept = [f for f in files if f["type"] == "output"] or files
    result = host.base / kept[-1]["type"] / kept[-1]["subfolder"] / kept[-1]["filename"]
    given = next(
        host.base / "input" / (n["inputs"].get("image") or n["inputs"].get("file"))
        for n in graph.values() if n["class_type"] in ("LoadImage", "LoadVideo")
    )  # fmt: skip
    if given.suffix == ".mp4":
        before, after = last_frame(given), last_frame(result)
    else:
        before, after = Image.open(given).convert("RGB"), Image.open(result).convert("RGB")
    size = (640, round(640 * before.height / before.width))
    a, b = (np.asarray(i.resize(size, Image.Resampling.LANCZOS)) for i in (before, after))
    both = np.concatenate([a[:, :318], np.full((size[1], 4, 3), 255, np.uint8), b[:, 322:]], 1)
    return Image.fromarray(both)


def main() -> None:
    found = find_host()
    assert found is not None, "set COMFYUI_PATH and COMFYUI_PYTHON"
    make_video()
    with tempfile.TemporaryDirectory() as base:
        host = Host(Path(base), *found)
        try:
            for name, nodes in EXAMPLES.items():
                workflow = layout(nodes, host.object_info)
                path = FOLDER / f"{name}.json"
                path.write_text(json.dumps(workflow, indent=1) + "\n", "utf-8")
                graph = to_api(workflow, host.object_info)
                if any(n["class_type"] == "CheckpointLoaderSimple" for n in graph.values()):
                    graph = without_diffusion(graph)
                thumbnail(host, graph).save(path.with_suffix(".jpg"), quality=88)
                print(path)
        finally:
            host.close()


if __name__ == "__main__":
    main()
