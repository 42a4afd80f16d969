"""Restore Image."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..instructir_core import Instruction
from ..instructir_core.checks import check_images
from ..instructir_core.guard import MODES, Guard
from ..instructir_core.masks import fill_hidden, fit_mask, is_empty
from ..instructir_core.memory import Plan
from ..instructir_core.steady import Averages
from . import host
from .types import (
    CATEGORY,
    INSTRUCTION,
    RESTORER,
    advanced,
    choice,
    colours_of,
    number,
    where_known,
)

LARGEST_TILE = 16384
LARGEST_OVERLAP = 4096


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
                INSTRUCTION.Input(
                    "instruction", lazy=True, tooltip="From Encode or Suggest Instruction."
                ),
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
                        max=LARGEST_TILE,
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
                        max=LARGEST_OVERLAP,
                        step=8,
                        optional=True,
                        tooltip="Pixels over which neighbouring tiles are blended.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "guard",
                        options=[*MODES],
                        default="off",
                        optional=True,
                        tooltip=(
                            "Says when the picture does not show what was asked for, or got worse. "
                            "skip gives it back then; off does not look."
                        ),
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "steady",
                        default=False,
                        optional=True,
                        tooltip="Frames of a video: haze, light and colour do not pulse.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    "restored", display_name="image", tooltip="The restored pictures, same size."
                )
            ],
            hidden=[io.Hidden.unique_id],
            **where_known(
                search_aliases=[
                    *("restore photo", "old photo", "fix", "repair", "clean", "enhance", "noise"),
                    *("denoise", "grain", "rain", "derain", "fog", "dehaze", "night", "low light"),
                    *("brighten", "deblur", "sharpen", "colour", "color", "super resolution"),
                    *("upscale photo", "photo restoration", "InstructIRProcess"),
                    *("去噪", "去模糊", "去雨", "去雾", "修复照片", "老照片"),
                    *("写真修復", "ノイズ除去", "사진 복원", "노이즈 제거", "照片修復"),
                ],
                essentials_category="Image Tools",
            ),
        )

    @classmethod
    def check_lazy_status(
        cls,
        restorer: host.ManagedRestorer | None = None,
        instruction: tuple[Instruction, ...] | None = None,
        strength: float | None = 1.0,
        **_: Any,
    ) -> list[str]:
        """At strength 0 neither the model nor the instruction is asked for."""
        wanted = {"restorer": restorer, "instruction": instruction}
        return [name for name, value in wanted.items() if value is None and strength != 0]

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
        guard: str = "off",
        steady: bool = False,
    ) -> io.NodeOutput:
        colours = colours_of(image)
        strength = number("strength", strength, 0, 1)
        tile = int(number("tile_size", tile_size, 0, LARGEST_TILE)) or None
        overlap = int(number("overlap", overlap, 0, LARGEST_OVERLAP))
        guard = choice("guard", guard, MODES)
        if strength == 0:
            return io.NodeOutput(image)
        assert restorer is not None  # asked for at any other strength
        _check_origin(restorer, instruction)
        asked = tuple(one for one in instruction if not one.asks_nothing)
        notes = [f"Left as it is: {o.text!r}. {o.advice}" for o in instruction if o.asks_nothing]
        if not instruction:
            notes.append("Nothing is to be restored: the picture is left as it is.")
        if not asked:
            return _said(cls, image, notes)
        check_images(colours)
        frames, height, width = image.shape[:3]
        masks, more = _masks(mask, frames, height, width)
        notes += more
        if masks is not None and is_empty(masks):
            return _said(cls, image, [*notes, "The mask is empty: the picture is left as it is."])
        watch = Guard(restorer.restorer.diagnosis, guard)
        watched = frames // 2
        averages = Averages() if steady else None
        result = host.result_like(image)
        progress = host.Progress(frames)
        with restorer.resident(height, width, tile) as plan:
            kept = watch.before(shown(image, watched), asked, _of_frame(masks, watched))
            if not kept:
                return _said(cls, image, [*notes, *watch.notes])
            for index in range(frames):
                host.stop_if_asked()
                progress.frame = index
                part, colour = _of_frame(masks, index), shown(image, index)

                def run(
                    chosen: Plan,
                    colour: torch.Tensor = colour,
                    part: torch.Tensor | None = part,
                ) -> torch.Tensor:
                    return restorer.restorer.restore(
                        colour, kept, strength=strength, mask=part, overlap=overlap,
                        progress=progress, plan=chosen, averages=averages,
                    )  # fmt: skip

                restored, plan = restorer.restore(run, plan)
                if index == watched and not watch.after(restored):
                    return _said(cls, image, [*notes, *watch.notes])
                _put(result[index], image[index], restored)
        notes += watch.notes
        if not plan.exact and tile is None:
            notes.append(
                f"Not exact: memory was short, so tiles of {plan.tile} pixels were used. Free "
                "memory, or make the picture smaller."
            )
        return _said(cls, result, notes)


def _said(node: type[io.ComfyNode], image: torch.Tensor, notes: list[str]) -> io.NodeOutput:
    """The result, and what the artist has to know about it on the node itself."""
    if not notes:
        return io.NodeOutput(image)
    text = "\n".join(notes)
    host.show_text(node, text)
    return io.NodeOutput(image, ui={"text": (text,)})


def shown(image: torch.Tensor, index: int) -> torch.Tensor:
    """(H, W, 3) of one frame of an IMAGE; what transparency hides has its neighbours' colours."""
    colour = colours_of(image)[index]
    return fill_hidden(colour, image[index, ..., 3]) if image.shape[-1] == 4 else colour


def _put(result: torch.Tensor, original: torch.Tensor, restored: torch.Tensor) -> None:
    """(H, W, 3) into the result of 1, 3 or 4 channels; what transparency hides stays as it was."""
    channels = original.shape[-1]
    if channels == 1:
        restored = restored.mean(-1, keepdim=True)
    if channels == 4:
        hidden = original[..., 3:] == 0
        restored = torch.where(hidden, original[..., :3].to(restored), restored)
        result[..., 3] = original[..., 3].to(result)
    result[..., :3] = restored.to(result)


def _check_origin(restorer: host.ManagedRestorer, instruction: tuple[Instruction, ...]) -> None:
    name = restorer.restorer.name
    for one in instruction:
        if one.model != name:
            raise ValueError(
                f"The instruction {one.text!r} was encoded by the model {one.model!r}, and this "
                f"is {name!r}, which would not understand it. Connect Encode Instruction and "
                "Restore Image to the same Load InstructIR Model."
            )


def _masks(
    mask: torch.Tensor | None, frames: int, height: int, width: int
) -> tuple[torch.Tensor | None, list[str]]:
    """(1 or B, H, W, 1), None where there is nothing to mask by; and what there is to say."""
    # What Load Image gives for a picture without alpha.
    if mask is None or (mask.shape[-2:] == (64, 64) != (height, width) and not mask.any()):
        return None, []
    amounts, note = fit_mask(mask, frames, height, width)
    return amounts, [] if note is None else [note]


def _of_frame(masks: torch.Tensor | None, index: int) -> torch.Tensor | None:
    """(1 or B, H, W, 1) -> the (H, W) mask of one frame, where there are masks."""
    return None if masks is None else masks[index % len(masks), ..., 0]
