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
MOST_FRAMES = 10_000

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
                advanced(
                    io.Int.Input(
                        "frames",
                        default=3,
                        min=0,
                        max=MOST_FRAMES,
                        optional=True,
                        tooltip=(
                            "Of a video or a batch, at most this many are drawn, from the first to "
                            "the last. 0 draws all."
                        ),
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
        cls,
        before: torch.Tensor,
        after: torch.Tensor,
        read: str = "",
        width: int = 768,
        frames: int = 3,
    ) -> io.NodeOutput:
        width = int(number("width", width, 64, LARGEST_WIDTH))
        most = int(number("frames", frames, 0, MOST_FRAMES))
        words = str(read or "")
        from ..instructir_core import sheets  # not when the host starts

        if not sheets.legible(words):
            host.show_text(cls, f"No font here has the letters of {words!r}: it is not drawn.")
            words = ""
        count = _count(before, after)
        chosen = _spread(count, most or count)
        drawn = []
        for index in chosen:
            which = [] if len(chosen) == count else [f"Frame {index + 1} of {count}"]
            title = "\n".join([*([words] if words else []), *which])
            one, other = _picture(before, index), _picture(after, index)
            drawn.append(sheets.side_by_side(one, other, title, width))
        sheet = torch.from_numpy(np.stack(drawn).astype(np.float32) / np.float32(255))
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))


def _count(before: torch.Tensor, after: torch.Tensor) -> int:
    """How many pictures there are to compare; one goes with each of a batch."""
    count = max(len(before), len(after))
    for name, batch in (("before", before), ("after", after)):
        if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4) or len(batch) not in (1, count):
            raise ValueError(
                f"Found {name} of shape {tuple(batch.shape)}; expected (1 or {count}, height, "
                "width, 1, 3 or 4). Connect the pictures before and after one Restore Image."
            )
    return count


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the indices below ``count``: evenly apart, the first and the last too."""
    if most >= count:
        return [*range(count)]
    return [round(step * (count - 1) / max(1, most - 1)) for step in range(most)]


def _picture(batch: torch.Tensor, index: int) -> Pixels:
    """(H, W, 3) of a picture in a batch, or of the only one."""
    picture = batch[index % len(batch)]
    picture = picture[..., :3] if picture.shape[-1] != 1 else picture.expand(-1, -1, 3)
    return picture.float().cpu().numpy()
