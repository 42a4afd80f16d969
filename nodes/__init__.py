"""The three nodes: Load InstructIR Model, Encode Instruction, Restore Image."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .encode import EncodeInstruction
from .load import LoadModel
from .restore import RestoreImage


class InstructIRExtension(ComfyExtension):
    async def on_load(self) -> None:
        """Not called by every host version: what must run is in `get_node_list`."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        host.register_model_folder()
        return [LoadModel, EncodeInstruction, RestoreImage]
