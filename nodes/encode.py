"""Encode Instruction."""

from __future__ import annotations

from comfy_api.latest import io

from ..instructir_core import Instruction
from ..instructir_core.tasks import TASK_WORDS, TASKS
from . import host
from .types import CATEGORY, INSTRUCTION, RESTORER, choice, where_known

FROM_TEXT = "from text"
PRESETS = {task.label: task.prompt for task in TASKS.values()}
"""Name in the menu -> sentence; saved workflows hold the names, so they never change."""
LEFT_ALONE = "Restore Image leaves the picture as it is."


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
                    tooltip="The tasks read in the sentence, in order, and how surely.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **where_known(search_aliases=["instruct", "restoration prompt", "修复指令"]),
        )

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
        task = ", then ".join(_reading(part) for part in parts)
        lines = [task]
        if len(parts) > 1:
            lines = [f"{number}. {_reading(p)}: {p.text}" for number, p in enumerate(parts, 1)]
        for part in parts:
            lines += [LEFT_ALONE] if part.asks_nothing else []
            lines += [part.advice] if part.advice else []
        shown = "\n".join(lines)
        host.show_text(cls, shown)
        return io.NodeOutput((*(previous or ()), *parts), task, ui={"text": (shown,)})


def _reading(instruction: Instruction) -> str:
    """The tasks that were read, and how surely."""
    return ", ".join(
        f"{TASK_WORDS[t]} {instruction.probabilities[t]:.0%}" for t in instruction.tasks
    )
