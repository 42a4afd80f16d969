"""The example workflows: what is in each, and where it stands. `make_examples.py` writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MINI = "mini (bundled)"
HUB = "https://huggingface.co/Comfy-Org"
MODELS = {
    "UpscaleModelLoader": ("upscale_models", f"{HUB}/Real-ESRGAN_repackaged/resolve/main"),
    "CheckpointLoaderSimple": (
        "checkpoints", f"{HUB}/stable-diffusion-v1-5-archive/resolve/main",
    ),
}  # fmt: skip
"""Loader -> folder and address of its file, for the editor's missing-model dialog."""
SIZES = {
    "InstructIR_LoadModel": (320, 90), "InstructIR_EncodeInstruction": (320, 220),
    "InstructIR_RestoreImage": (320, 220), "InstructIR_SamplePicture": (320, 60),
    "InstructIR_SampleVideo": (320, 40), "InstructIR_BeforeAfter": (560, 400),
    "InstructIR_SuggestInstruction": (320, 130), "InstructIR_TryAllInstructions": (640, 400),
    "PreviewAny": (320, 140), "SaveImage": (320, 300), "SaveVideo": (320, 340),
    "ImageCompare": (560, 400), "MarkdownNote": (320, 240), "GetVideoComponents": (320, 110),
    "CreateVideo": (320, 110), "UpscaleModelLoader": (320, 60), "ImageScaleBy": (320, 90),
    "ImageUpscaleWithModel": (320, 60), "CheckpointLoaderSimple": (320, 100),
    "CLIPTextEncode": (320, 110), "VAEEncode": (320, 60), "VAEDecode": (320, 60),
    "KSampler": (320, 270),
}  # fmt: skip
"""Width and height of each, large enough for what it shows and no larger."""
COLOURS = {
    "InstructIR_LoadModel": ("#323", "#535"),
    "InstructIR_EncodeInstruction": ("#232", "#353"),
    "InstructIR_SuggestInstruction": ("#232", "#353"),
    "InstructIR_RestoreImage": ("#223", "#335"),
    "InstructIR_TryAllInstructions": ("#223", "#335"),
}
"""Title and body, of the editor's own palette: purple, green and blue."""


@dataclass(frozen=True)
class Node:
    kind: str
    column: int
    widgets: tuple[Any, ...] = ()
    links: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Input -> (node, output)."""
    asleep: bool = False
    """Muted until the user has the model that it needs."""


def note(text: str, column: int = 0) -> Node:
    return Node("MarkdownNote", column, (text,))


def sample(picture: str) -> Node:
    return Node("InstructIR_SamplePicture", 0, (picture,))


def load_model() -> Node:
    return Node("InstructIR_LoadModel", 0, (MINI, "auto"))


def encode(
    sentence: str, column: int = 1, previous: str | None = None, preset: str = "from text"
) -> Node:
    links = {"restorer": ("load", 0)}
    if previous:
        links["previous"] = (previous, 0)
    return Node("InstructIR_EncodeInstruction", column, (sentence, preset), links)


def restore(
    source: str = "image", instruction: str = "say", column: int = 2, strength: float = 1.0
) -> Node:
    links = {"restorer": ("load", 0), "image": (source, 0), "instruction": (instruction, 0)}
    return Node("InstructIR_RestoreImage", column, restoring(strength), links)


def restoring(strength: float = 1.0) -> tuple[Any, ...]:
    """What stands on Restore Image."""
    return strength, 0, 64, "off", False


def suggest(column: int = 1) -> Node:
    links = {"restorer": ("load", 0), "image": ("image", 0)}
    return Node("InstructIR_SuggestInstruction", column, (2, 0.0), links)


def compare(
    before: str = "image",
    after: str = "restore",
    column: int = 3,
    read: str = "say",
    output: int = 1,
) -> Node:
    links = {"before": (before, 0), "after": (after, 0), "read": (read, output)}
    return Node("InstructIR_BeforeAfter", column, (768, 3), links)


def words(source: str = "say", column: int = 2, output: int = 1) -> Node:
    return Node("PreviewAny", column, (), {"source": (source, output)})


def save(source: str = "restore", column: int = 3, name: str = "restored", **more: Any) -> Node:
    return Node("SaveImage", column, (name,), {"images": (source, 0)}, **more)


YOURS = "\n\n**Your own picture:** put Load Image in the place of Sample Picture."


EXAMPLES: dict[str, dict[str, Node]] = {
    "01 Restore a photo": {
        "load": load_model(),
        "image": sample("face (camera noise)"),
        "note": note(
            "### Restore a photo by a sentence\nPress **Run**. Then say something else: *too "
            "dark*, *take the rain out*, *the colours have faded*." + YOURS
        ),
        "say": encode("please remove the noise"),
        "restore": restore(),
        "read": words(),
        "compare": compare(),
        "save": save(),
    },
    "02 Compare with a slider": {
        "load": load_model(),
        "image": sample("old print (faded)"),
        "note": note(
            "### An old print, and a slider\nHere a preset stands in for the sentence. Move the "
            "mouse over *Compare Images*: it needs ComfyUI 0.9 or newer with *Nodes 2.0* switched "
            "on in the menu. Everything else works without it." + YOURS
        ),
        "say": encode("the colours of this old print have faded", preset="enhance colours"),
        "restore": restore(),
        "read": words(),
        "compare": compare(),
        "slider": Node(
            "ImageCompare", 3, (), {"image_a": ("image", 0), "image_b": ("restore", 0)}
        ),
    },
    "03 Several things at once": {
        "load": load_model(),
        "image": sample("night (too dark)"),
        "note": note(
            "### First this, then that\nInstructions chain through *previous*, and one Restore "
            "Image carries them out in order. Turn *strength* down where it is too much." + YOURS
        ),
        "say1": encode("this is far too dark, brighten it"),
        "say2": encode("now remove the noise", 2, previous="say1"),
        "restore": restore(instruction="say2", column=3),
        "read1": words("say1", 2),
        "read2": words("say2", 3),
        "compare": compare(column=4, read="say2"),
        "save": save(column=4),
    },
    "04 Three restorations in a chain": {
        "load": load_model(),
        "image": sample("canyon (rain)"),
        "note": note(
            "### Each with its own strength and mask\nChanging the last sentence runs only the "
            "last link again." + YOURS
        ),
        "say1": encode("take the rain out of my picture"),
        "restore1": restore("image", "say1", 2),
        "say2": encode("it is a bit grainy, smooth the noise", 2),
        "restore2": restore("restore1", "say2", 3),
        "say3": encode("make the colours more vivid", 3),
        "restore3": restore("restore2", "say3", 4, strength=0.7),
        "read": words("say3", 4),
        "compare1": compare("image", "restore1", 5, read="say1"),
        "compare": compare("image", "restore3", 5, read="say3"),
    },
    "05 A video with its sound": {
        "load": load_model(),
        "video": Node("InstructIR_SampleVideo", 0),
        "note": note(
            "### Every frame, and the sound\nFrames are restored one by one: length costs time, "
            "but no memory on the GPU.\n\n**Your own video:** put Load Video in the place of "
            "Sample Video."
        ),
        "say": encode("remove the noise from the footage"),
        "frames": Node("GetVideoComponents", 1, (), {"video": ("video", 0)}),
        "restore": restore("frames"),
        "read": words(),
        "join": Node(
            "CreateVideo", 3, (24.0,),
            {"images": ("restore", 0), "audio": ("frames", 1), "fps": ("frames", 2)},
        ),
        "compare": compare("frames"),
        "save": Node("SaveVideo", 4, ("video/restored", "auto", "auto"), {"video": ("join", 0)}),
    },
    "06 Restore, then upscale": {
        "load": load_model(),
        "image": sample("page of text (noise)"),
        "note": note(
            "### Clean first, then enlarge\nAn upscaler takes noise for detail and draws it large."
            "\n\nThe grey nodes need a model: **RealESRGAN_x4plus.safetensors**, about 65 MB, from "
            "[Comfy-Org/Real-ESRGAN_repackaged](https://huggingface.co/Comfy-Org/Real-ESRGAN_"
            "repackaged), into *models/upscale_models*. Once it is there, select them and press "
            "**Ctrl+M**. Until then you see the restored page." + YOURS
        ),
        "say": encode("clean up the grain"),
        "restore": restore(),
        "read": words(),
        "compare": compare(),
        "upscaler": Node("UpscaleModelLoader", 2, ("RealESRGAN_x4plus.safetensors",), asleep=True),
        "upscale": Node(
            "ImageUpscaleWithModel", 3, (),
            {"upscale_model": ("upscaler", 0), "image": ("restore", 0)}, asleep=True,
        ),
        "half": Node(
            "ImageScaleBy", 4, ("lanczos", 0.5), {"image": ("upscale", 0)}, asleep=True
        ),
        "save": save("half", 5, "upscaled", asleep=True),
    },
    "07 Restore before image to image": {
        "load": load_model(),
        "image": sample("canyon (haze)"),
        "note": note(
            "### A clear picture to start from\nThe diffusion model then needs little *denoise*, "
            "and the scene stays itself.\n\nThe grey nodes need a model: **v1-5-pruned-emaonly-"
            "fp16.safetensors**, about 2.1 GB, from [Comfy-Org/stable-diffusion-v1-5-archive]"
            "(https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive), into *models/"
            "checkpoints*. Once it is there, select them and press **Ctrl+M**. Until then you see "
            "the restored picture." + YOURS
        ),
        "say": encode("clear the haze"),
        "restore": restore(),
        "read": words(),
        "compare": compare(),
        "checkpoint": Node(
            "CheckpointLoaderSimple", 2, ("v1-5-pruned-emaonly-fp16.safetensors",), asleep=True
        ),
        "positive": Node(
            "CLIPTextEncode", 3, ("a photograph of the Grand Canyon, sharp, clear",),
            {"clip": ("checkpoint", 1)}, asleep=True,
        ),
        "negative": Node(
            "CLIPTextEncode", 3, ("haze, blur, painting",), {"clip": ("checkpoint", 1)},
            asleep=True,
        ),
        "latent": Node(
            "VAEEncode", 3, (), {"pixels": ("restore", 0), "vae": ("checkpoint", 2)}, asleep=True
        ),
        "sample": Node(
            "KSampler", 4, (7, "fixed", 20, 6.0, "dpmpp_2m", "karras", 0.35),
            {"model": ("checkpoint", 0), "positive": ("positive", 0),
             "negative": ("negative", 0), "latent_image": ("latent", 0)}, asleep=True,
        ),
        "decode": Node(
            "VAEDecode", 5, (), {"samples": ("sample", 0), "vae": ("checkpoint", 2)}, asleep=True
        ),
        "save": save("decode", 6, "image_to_image", asleep=True),
    },
    "08 Without a word": {
        "load": load_model(),
        "image": sample("night (too dark)"),
        "note": note(
            "### It looks, and says what it needs\n*Suggest Instruction* finds what is wrong and "
            "gives it to Restore Image in the order that suits. Where it finds nothing, the "
            "picture stays as it is. Try every sample." + YOURS
        ),
        "say": suggest(),
        "restore": restore(),
        "read": words(output=2),
        "compare": compare(output=2),
        "save": save(),
    },
    "09 Try every instruction": {
        "load": load_model(),
        "image": sample("canyon (haze)"),
        "note": note(
            "### All of them side by side\nA small view under every instruction, with how bad "
            "each thing seems and how much was changed; the best guess has a frame. Then choose: "
            "the *preset* of Encode Instruction restores the whole picture." + YOURS
        ),
        "say": encode("clear the haze", preset="remove haze"),
        "try": Node(
            "InstructIR_TryAllInstructions", 1, (512,),
            {"restorer": ("load", 0), "image": ("image", 0)},
        ),
        "restore": restore(),
        "read": words(),
        "compare": compare(),
        "save": save(),
    },
}  # fmt: skip
"""File name -> nodes, from the top of their columns down; the order is that of a lesson."""
