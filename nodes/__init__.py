"""The nodes: a model, an instruction, a restoration; samples, before and after, suggestions."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .compare import BeforeAfter
from .encode import EncodeInstruction
from .load import LoadModel
from .restore import RestoreImage
from .samples import SamplePicture, SampleVideo
from .suggest import SuggestInstruction, TryAllInstructions


class InstructIRExtension(ComfyExtension):
    async def on_load(self) -> None:
        """Not called by every host version: what must run is in `get_node_list`."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        host.register_model_folder()
        return [
            LoadModel, EncodeInstruction, RestoreImage, SamplePicture, SampleVideo, BeforeAfter,
            SuggestInstruction, TryAllInstructions,
        ]  # fmt: skip
