"""Encode Instruction."""

from __future__ import annotations

from comfy_api.latest import io

from ..instructir_core import Instruction
from ..instructir_core.tasks import TASKS
from . import host
from .line import in_full, one_line
from .types import CATEGORY, INSTRUCTION, RESTORER, choice, where_known

FROM_TEXT = "from text"
PRESETS = {task.label: task.prompt for task in TASKS.values()}
"""Name in the menu -> sentence; saved workflows hold the names, so they never change."""


class EncodeInstruction(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructIR_EncodeInstruction",
            display_name="Encode Instruction",
            category=CATEGORY,
            description=(
                "Turns a sentence into instructions for Restore Image. A sentence that asks for "
                "several things is carried out part by part; chain more through 'previous'."
            ),
            inputs=[
                RESTORER.Input(
                    "restorer", tooltip="From Load InstructIR Model; the same as Restore Image's."
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    default=TASKS["noise"].prompt,
                    tooltip="What to restore, in your own words. Read when preset is 'from text'.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[FROM_TEXT, *PRESETS],
                    default=FROM_TEXT,
                    tooltip="A ready sentence in place of the text.",
                ),
                INSTRUCTION.Input(
                    "previous",
                    optional=True,
                    tooltip="An instruction to carry out before this one.",
                ),
            ],
            outputs=[
                INSTRUCTION.Output(
                    "instruction",
                    display_name="instruction",
                    tooltip="For Restore Image, or 'previous' of the next instruction.",
                ),
                io.String.Output(
                    "task",
                    display_name="task",
                    tooltip="What was read, how surely, and advice; for Preview as Text.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **where_known(
                search_aliases=["instruct", "instruction", "restoration prompt", "修复指令"]
            ),
        )

    @classmethod
    def validate_inputs(cls, text: str | None, preset: str | None) -> bool | str:
        # None comes from another node, and is known when this one runs.
        if preset is not None and preset not in (FROM_TEXT, *PRESETS):
            return f"There is no preset {preset!r}. Choose one of the menu."
        if preset == FROM_TEXT and text is not None and not text.strip():
            return (
                "The instruction is empty; expected a sentence such as 'remove the noise'. Write "
                "what should be restored, or choose a preset."
            )
        return True

    @classmethod
    def execute(
        cls,
        restorer: host.ManagedRestorer,
        text: str,
        preset: str,
        previous: tuple[Instruction, ...] = (),
    ) -> io.NodeOutput:
        preset = choice("preset", preset, (FROM_TEXT, *PRESETS))
        sentence = text if preset == FROM_TEXT else PRESETS[preset]
        parts = restorer.restorer.read(sentence)
        host.show_text(cls, one_line(sentence, parts, None if preset == FROM_TEXT else preset))
        full = in_full(parts)
        return io.NodeOutput((*(previous or ()), *parts), full, ui={"text": (full,)})
