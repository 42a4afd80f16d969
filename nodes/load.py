"""Load InstructIR Model."""

from __future__ import annotations

from comfy_api.latest import io

from ..instructir_core.official import OFFICIAL_NAME
from . import host
from .types import CATEGORY, RESTORER, advanced, where_known


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstructIR_LoadModel",
            display_name="Load InstructIR Model",
            category=CATEGORY,
            description=(
                "Loads a model that restores pictures by a sentence. The bundled one works at "
                "once; the official 7D model (100 MB) is downloaded from the Hugging Face Hub when "
                "first used, once, into models/instructir."
            ),
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=host.model_names(),
                    default=host.BUNDLED_NAME,
                    tooltip=(
                        "Bundled (version 3, works at once), official (100 MB from the Hub, once), "
                        "or any file of your models/instructir folders."
                    ),
                ),
                advanced(
                    io.Combo.Input(
                        "precision",
                        options=list(host.PRECISIONS),
                        default="auto",
                        optional=True,
                        tooltip="auto and fp32 are exact. fp16 and bf16 halve the memory on a GPU.",
                    )
                ),
            ],
            outputs=[
                RESTORER.Output(
                    "restorer",
                    display_name="restorer",
                    tooltip="Feeds any number of Encode Instruction and Restore Image nodes.",
                )
            ],
            **where_known(
                search_aliases=["instruct", "restoration model", "LoadInstructIRModel", "修复模型"]
            ),
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        # Naming the argument replaces the host's own "value not in list" by a sentence. None: it
        # comes from another node, and is known when this one runs.
        known = model_name in (None, host.BUNDLED_NAME, OFFICIAL_NAME)
        return True if known or host.model_path(model_name) else host.missing_model(model_name)

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None, precision: str | None = "auto") -> str:
        path = host.model_path(model_name)
        if path is None:
            return f"{model_name} {precision}"
        found = path.stat()
        return f"{path} {found.st_size} {found.st_mtime_ns} {precision}"

    @classmethod
    def execute(cls, model_name: str, precision: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(host.load_restorer(model_name, precision))
