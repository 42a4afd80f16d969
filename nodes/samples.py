"""Sample Picture and Sample Video: something to restore before one has brought anything."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import InputImpl, io

from .types import CATEGORY, choice, where_known

FOLDER = Path(__file__).parents[1] / "example_workflows" / "inputs"
PICTURES = {
    "face (camera noise)": "face.jpg",
    "old print (faded)": "print.jpg",
    "page of text (noise)": "page.jpg",
    "night (too dark)": "night.jpg",
    "canyon (rain)": "rainy.png",
    "canyon (haze)": "hazy.png",
    "canyon (noise)": "noisy.png",
    "canyon (dark)": "dark.png",
}
"""Name in the menu -> file; saved workflows hold the names, so they never change."""
VIDEO = "noisy_pan.mp4"


class SamplePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructIR_SamplePicture",
            display_name="Sample Picture",
            category=CATEGORY,
            description=(
                "A damaged picture to try Restore Image on. Put Load Image in its place to restore "
                "your own."
            ),
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=[*PICTURES],
                    default=next(iter(PICTURES)),
                    tooltip="Which one; in brackets, what is wrong with it.",
                )
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The damaged picture.")
            ],
            **where_known(search_aliases=["example image", "test image", "demo photo", "示例图片"]),
        )

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        name = PICTURES[choice("picture", picture, PICTURES)]
        from ..instructir_core import pictures  # not when the host starts

        pixels = pictures.read(FOLDER / name).pixels
        return io.NodeOutput(torch.from_numpy(pixels)[None])


class SampleVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructIR_SampleVideo",
            display_name="Sample Video",
            category=CATEGORY,
            description=(
                "Two seconds of noisy footage with sound, to try Restore Image on. Put Load Video "
                "in its place to restore your own."
            ),
            inputs=[],
            outputs=[
                io.Video.Output(
                    "video",
                    display_name="video",
                    tooltip="For Get Video Components, which gives its frames and its sound.",
                )
            ],
            **where_known(search_aliases=["example video", "test video", "demo video", "示例视频"]),
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(InputImpl.VideoFromFile(str(FOLDER / VIDEO)))
