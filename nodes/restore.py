"""Restore Image."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..instructir_core import Instruction
from . import host
from .types import CATEGORY, INSTRUCTION, RESTORER, advanced, where_known


class RestoreImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructIR_RestoreImage",
            display_name="Restore Image",
            category=CATEGORY,
            description=(
                "Restores pictures as the instruction says. Size, batch and alpha stay as they "
                "are; nothing is invented that the photo does not show."
            ),
            inputs=[
                RESTORER.Input("restorer", lazy=True, tooltip="From Load InstructIR Model."),
                io.Image.Input("image", tooltip="One picture, a batch, or the frames of a video."),
                INSTRUCTION.Input("instruction", lazy=True, tooltip="From Encode Instruction."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="0 keeps the picture, 1 restores it fully.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="1 where to restore; soft edges are honoured."
                ),
                advanced(
                    io.Int.Input(
                        "tile_size",
                        default=0,
                        min=0,
                        max=16384,
                        step=16,
                        optional=True,
                        tooltip=(
                            "0 is exact at any size, tiled only where memory is too short. Else "
                            "64 or more."
                        ),
                    )
                ),
                advanced(
                    io.Int.Input(
                        "overlap",
                        default=64,
                        min=0,
                        max=4096,
                        step=8,
                        optional=True,
                        tooltip="Pixels over which neighbouring tiles are blended.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    "restored", display_name="image", tooltip="The restored pictures, same size."
                )
            ],
            **where_known(
                search_aliases=[
                    *("denoise", "deblur", "sharpen", "derain", "dehaze", "low light", "brighten"),
                    *("enhance", "photo restoration", "去噪", "去模糊", "去雨", "去雾", "修复照片"),
                ]
            ),
        )

    @classmethod
    def check_lazy_status(
        cls,
        restorer: host.ManagedRestorer | None = None,
        instruction: tuple[Instruction, ...] | None = None,
        strength: float = 1.0,
        **_: Any,
    ) -> list[str]:
        """At strength 0 neither the model nor the instruction is asked for."""
        wanted = {"restorer": restorer, "instruction": instruction}
        return [name for name, value in wanted.items() if value is None and strength > 0]

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        strength: float,
        restorer: host.ManagedRestorer | None = None,
        instruction: tuple[Instruction, ...] = (),
        mask: torch.Tensor | None = None,
        tile_size: int = 0,
        overlap: int = 64,
    ) -> io.NodeOutput:
        channels = image.shape[-1] if image.ndim == 4 else 0
        if channels not in (1, 3, 4):
            raise ValueError(
                f"Found an image of shape {tuple(image.shape)}; expected (batch, height, width, "
                "1, 3 or 4). Connect a node that gives an IMAGE."
            )
        if strength == 0:
            return io.NodeOutput(image)
        _check_origin(restorer, instruction)
        frames, height, width = image.shape[:3]
        mask = _check_mask(mask, frames, height, width)
        result = host.result_like(image)
        planned = restorer.plan(height, width, tile_size or None)
        tile = planned.tile
        progress = host.Progress(frames)
        with restorer.resident(planned.bytes) as core:
            for index in range(frames):
                host.stop_if_asked()
                progress.frame = index
                frame = image[index]
                colour = frame[..., :3] if channels != 1 else frame.expand(-1, -1, 3)
                part = None if mask is None else mask[index % len(mask)]

                def run(size: int | None, colour=colour, part=part) -> torch.Tensor:
                    cut = None if size is None else min(overlap, size // 2)
                    return core.restore(colour, instruction, strength, part, size, cut, progress)

                restored, tile = host.with_smaller_pieces(run, tile, height, width)
                if channels == 1:
                    restored = restored.mean(-1, keepdim=True)
                result[index, ..., :3] = restored.to(result.device, result.dtype)
                if channels == 4:
                    result[index, ..., 3] = frame[..., 3].to(result.device, result.dtype)
        return io.NodeOutput(result)


def _check_origin(restorer: host.ManagedRestorer, instruction: tuple[Instruction, ...]) -> None:
    name = restorer.restorer.name
    for one in instruction:
        if one.model != name:
            raise ValueError(
                f"The instruction {one.text!r} was encoded by the model {one.model!r}, and this "
                f"is {name!r}, which would not understand it. Connect Encode Instruction and "
                "Restore Image to the same Load InstructIR Model."
            )


def _check_mask(
    mask: torch.Tensor | None, frames: int, height: int, width: int
) -> torch.Tensor | None:
    """(H, W) or (B, H, W) -> (1 or B, H, W); None where there is nothing to mask by."""
    if mask is None:
        return None
    mask = mask[None] if mask.ndim == 2 else mask
    # What Load Image gives for a picture without alpha.
    if mask.shape[1:] == (64, 64) != (height, width) and not mask.any():
        return None
    if mask.shape[1:] != (height, width) or len(mask) not in (1, frames):
        raise ValueError(
            f"The mask is {len(mask)} x {mask.shape[2]} x {mask.shape[1]} (count, width, height); "
            f"expected 1 or {frames} of {width} x {height}, the size of the image. Resize the "
            "mask, or draw it on this image."
        )
    return mask
