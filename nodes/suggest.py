"""Suggest Instruction and Try All Instructions: what a picture needs, told and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..instructir_core import Instruction
from ..instructir_core.checks import check_images
from ..instructir_core.diagnose import VIEW
from ..instructir_core.memory import Plan
from . import host
from .line import LONGEST
from .restore import shown
from .types import CATEGORY, INSTRUCTION, RESTORER, advanced, colours_of, number, where_known

if TYPE_CHECKING:
    from ..instructir_core import Suggestion  # its patterns take a while to compile

LARGEST_MOST = 3
LARGEST_SIZE = 4096


class SuggestInstruction(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructIR_SuggestInstruction",
            display_name="Suggest Instruction",
            category=CATEGORY,
            description=(
                "Looks at a picture and says what it needs, as instructions for Restore Image, in "
                "the order to carry out. Where nothing is found, Restore Image leaves it as it is."
            ),
            inputs=[
                RESTORER.Input(
                    "restorer", tooltip="From Load InstructIR Model; the same as Restore Image's."
                ),
                io.Image.Input(
                    "image", tooltip="A picture, or a batch or video, which gets one suggestion."
                ),
                io.Int.Input(
                    "most",
                    default=2,
                    min=1,
                    max=LARGEST_MOST,
                    tooltip="How many things to suggest at the most: the worst of what is found.",
                ),
                advanced(
                    io.Float.Input(
                        "threshold",
                        default=0.0,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        optional=True,
                        tooltip=(
                            "How bad it has to be, up to 1. 0 takes what the model was calibrated "
                            "to, for each thing its own."
                        ),
                    )
                ),
            ],
            outputs=[
                INSTRUCTION.Output(
                    "instruction",
                    display_name="instruction",
                    tooltip="For Restore Image, or 'previous' of an Encode Instruction.",
                ),
                io.String.Output(
                    "sentences",
                    display_name="sentences",
                    tooltip="What was suggested, one sentence in a line; empty for nothing.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was found and how bad it is; for Preview as Text.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **where_known(
                search_aliases=[
                    *("auto restore", "auto", "automatic", "diagnose", "what is wrong", "analyze"),
                    *("detect noise", "quality check", "fix my photo"),
                    *("自动修复", "自動修復", "診断", "자동 복원"),
                ]
            ),
        )

    @classmethod
    def execute(
        cls, restorer: host.ManagedRestorer, image: torch.Tensor, most: int, threshold: float = 0.0
    ) -> io.NodeOutput:
        most = int(number("most", most, 1, LARGEST_MOST))
        least = number("threshold", threshold, 0, 1) or None
        colours = colours_of(image)
        if image.shape[-1] == 4:
            colours = torch.stack([shown(image, index) for index in range(len(image))])
        with restorer.resident(VIEW, VIEW, None):
            found = restorer.restorer.suggest(colours, most, least)
        host.show_text(cls, line(found))
        full = "\n".join([found.report, *(f"- {sentence}" for sentence in found.sentences)])
        if not found.instructions:
            full += "\nRestore Image leaves the picture as it is."
        sentences = "\n".join(found.sentences)
        return io.NodeOutput(found.instructions, sentences, full, ui={"text": (full,)})


def line(found: Suggestion) -> str:
    """What was found, in at most `LONGEST` characters: the worst, as much as fits."""
    text = found.report.partition(";")[0]
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


class TryAllInstructions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructIR_TryAllInstructions",
            display_name="Try All Instructions",
            category=CATEGORY,
            description=(
                "A small view of the picture under every instruction of the menu, side by side, "
                "with how bad each thing seems, how much was changed, and the best guess marked."
            ),
            inputs=[
                RESTORER.Input("restorer", tooltip="From Load InstructIR Model."),
                io.Image.Input("image", tooltip="A picture; of a batch, the middle one is taken."),
                io.Int.Input(
                    "size",
                    default=512,
                    min=0,
                    max=LARGEST_SIZE,
                    step=8,
                    tooltip=(
                        "Larger pictures are shrunk until their longer side is this, so that it "
                        "takes seconds. Fine noise and blur go with that: 0 keeps the size."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="images",
                    tooltip="The picture under each instruction, as a batch in the menu's order.",
                ),
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="All of them with their captions, as one picture.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            **where_known(
                search_aliases=[
                    *("compare instructions", "contact sheet", "try all", "preview all", "grid"),
                    *("试遍所有指令", "試遍所有指令", "すべて試す", "모두 시도"),
                ]
            ),
        )

    @classmethod
    def execute(
        cls, restorer: host.ManagedRestorer, image: torch.Tensor, size: int = 512
    ) -> io.NodeOutput:
        size = int(number("size", size, 0, LARGEST_SIZE))
        check_images(colours_of(image))
        from ..instructir_core import trials  # not when the host starts

        index = len(image) // 2
        picture = shown(image, index).float()
        every = trials.instructions(restorer.restorer)
        view = trials.shrunk(picture, size)
        progress = host.Progress(len(every))
        tried: dict[str, torch.Tensor] = {}
        height, width, _ = view.shape
        with restorer.resident(height, width, None) as plan:
            for turn, (task, one) in enumerate(every.items()):
                host.stop_if_asked()
                progress.frame = turn

                def run(chosen: Plan, one: Instruction = one) -> torch.Tensor:
                    return restorer.restorer.restore(view, one, progress=progress, plan=chosen)

                tried[task], plan = restorer.restore(run, plan)
            found = None
            if restorer.restorer.diagnosis is not None:
                found = restorer.restorer.suggest(picture, 1)
        drawn = trials.sheet(view, tried, found)
        sheet = torch.from_numpy(drawn.astype(np.float32) / np.float32(255))[None]
        if len(image) > 1:
            host.show_text(cls, f"Picture {index + 1} of {len(image)}.")
        images = host.result_like(torch.stack([*tried.values()]))
        images.copy_(torch.stack([*tried.values()]))
        return io.NodeOutput(images, sheet, ui=ui.PreviewImage(sheet, cls=cls))
