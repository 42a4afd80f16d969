"""Before/After."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from comfy_api.latest import io, ui

from . import host
from .types import CATEGORY, advanced, number, where_known

LARGEST_WIDTH = 8192

Pixels = npt.NDArray[Any]


class BeforeAfter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructIR_BeforeAfter",
            display_name="Before/After",
            category=CATEGORY,
            description=(
                "Both pictures side by side, with what was read above them. Shows them here, and "
                "gives them as one picture to save."
            ),
            inputs=[
                io.Image.Input("before", tooltip="The picture that Restore Image got."),
                io.Image.Input("after", tooltip="The picture that Restore Image gave."),
                io.String.Input(
                    "read",
                    optional=True,
                    force_input=True,
                    multiline=False,
                    tooltip="Words above the pictures, such as Encode Instruction's task.",
                ),
                advanced(
                    io.Int.Input(
                        "width",
                        default=768,
                        min=64,
                        max=LARGEST_WIDTH,
                        step=8,
                        optional=True,
                        tooltip="Wider pictures are shrunk to this for the sheet; smaller are not.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet", display_name="image", tooltip="Both pictures and the words, as one."
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            **where_known(
                search_aliases=[
                    "compare images",
                    "before after",
                    "side by side",
                    "对比",
                    "前后对比",
                ]
            ),
        )

    @classmethod
    def execute(
        cls, before: torch.Tensor, after: torch.Tensor, read: str = "", width: int = 768
    ) -> io.NodeOutput:
        width = int(number("width", width, 64, LARGEST_WIDTH))
        words = str(read or "")
        from ..instructir_core import sheets  # not when the host starts

        if not sheets.legible(words):
            host.show_text(cls, f"No font here has the letters of {words!r}: it is not drawn.")
            words = ""
        pairs = _pairs(before, after)
        drawn = [sheets.side_by_side(one, other, words, width) for one, other in pairs]
        sheet = torch.from_numpy(np.stack(drawn).astype(np.float32) / np.float32(255))
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))


def _pairs(before: torch.Tensor, after: torch.Tensor) -> list[tuple[Pixels, Pixels]]:
    """(H, W, 3) arrays, before and after; one picture goes with each of a batch."""
    frames = max(len(before), len(after))
    for name, batch in (("before", before), ("after", after)):
        if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4) or len(batch) not in (1, frames):
            raise ValueError(
                f"Found {name} of shape {tuple(batch.shape)}; expected (1 or {frames}, height, "
                "width, 1, 3 or 4). Connect the pictures before and after one Restore Image."
            )
    coloured = [
        (b if b.shape[-1] != 1 else b.expand(-1, -1, -1, 3))[..., :3].float().cpu()
        for b in (before, after)
    ]
    first, second = (b.expand(frames, -1, -1, -1).numpy() for b in coloured)
    return [*zip(first, second, strict=True)]
