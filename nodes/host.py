"""All that touches ComfyUI itself: model folders, memory, progress, interruption."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import comfy.model_management as memory
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..instructir_core import Restorer
from ..instructir_core.memory import Plan, ran_out_of_memory, with_smaller_pieces
from ..instructir_core.official import ENCODER_FOLDER, OFFICIAL_NAME
from .types import choice

log = logging.getLogger(__name__)

FOLDER = "instructir"
BUNDLED_NAME = "mini (bundled)"
PRECISIONS = {
    "auto": torch.float32,  # exact, and the network is small
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
WEIGHTS = {".safetensors", ".sft", ".pt"}


# --- folders -----------------------------------------------------------------------------------


def register_model_folder() -> None:
    """Make ``models/instructir`` known, beside what extra_model_paths.yaml already named so."""
    default = os.path.join(folder_paths.models_dir, FOLDER)
    folder_paths.add_model_folder_path(FOLDER, default, is_default=True)
    # Updated in place: replacing the entry would drop the folders of extra_model_paths.yaml.
    folder_paths.folder_names_and_paths[FOLDER][1].update(WEIGHTS)


def model_names() -> list[str]:
    """Names for the menu: bundled, official (there or not), then every other file found."""
    found = [name for name in folder_paths.get_filename_list(FOLDER) if _may_be_model(name)]
    return [BUNDLED_NAME, OFFICIAL_NAME, *(n for n in found if n != OFFICIAL_NAME)]


def _may_be_model(name: str) -> bool:
    """Whether a name below the model folders is that of a model's weights.

    Names come from saved workflows and from other nodes, so one that leads out of the folders is
    none.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    return (
        not path.is_absolute()
        and ":" not in name
        and ENCODER_FOLDER not in path.parts
        and not any(part.startswith(".") for part in path.parts)  # downloads under way, and ".."
        and path.suffix in WEIGHTS
        and not path.name.startswith("lm_")
    )


def model_path(name: object) -> Path | None:
    """Where a model file lies, with either kind of slash in its name; None when it is nowhere."""
    if not isinstance(name, str) or not _may_be_model(name):
        return None
    for spelling in (name, name.replace("\\", "/"), name.replace("/", "\\")):
        path = folder_paths.get_full_path(FOLDER, spelling)
        if path is not None:
            return Path(path)
    return None


def load_restorer(name: str, precision: str) -> ManagedRestorer:
    """Load a model by its name in the menu, downloading the official one when it is missing."""
    dtype = PRECISIONS[choice("precision", precision, PRECISIONS)]
    offload = memory.unet_offload_device()
    if name == BUNDLED_NAME:
        return ManagedRestorer(Restorer.from_pretrained("mini", device=offload, dtype=dtype))
    path = model_path(name)
    if name == OFFICIAL_NAME:
        folder = path.parent if path else Path(folder_paths.get_folder_paths(FOLDER)[0])
        with _download_progress() as progress:
            loaded = Restorer.from_pretrained(
                "7d", device=offload, dtype=dtype, folder=folder, progress=progress
            )
        return ManagedRestorer(loaded)
    if path is None:
        raise FileNotFoundError(missing_model(name))
    return ManagedRestorer(Restorer.from_pretrained(path, device=offload, dtype=dtype))


def missing_model(name: object) -> str:
    """What to tell about a model that is not there."""
    folders = " or ".join(folder_paths.get_folder_paths(FOLDER))
    return (
        f"The model {name!r} was not found in {folders}. Put the file there and press R to "
        f"refresh, or choose {BUNDLED_NAME!r} or {OFFICIAL_NAME!r} in Load InstructIR Model."
    )


@contextmanager
def _download_progress() -> Iterator[Callable[[int, int], None]]:
    bar = comfy.utils.ProgressBar(1)

    def report(done: int, total: int) -> None:
        memory.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    yield report


# --- memory ------------------------------------------------------------------------------------


class ManagedRestorer:
    """A restorer whose network the host moves to the GPU and away again."""

    def __init__(self, restorer: Restorer) -> None:
        self.restorer = restorer
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.patcher = patcher(
            restorer.network,
            load_device=memory.get_torch_device(),
            offload_device=memory.unet_offload_device(),
        )

    def get_ram_usage(self) -> int:
        """Bytes of the weights; the host's cache under memory pressure asks for it."""
        return sum(p.numel() * p.element_size() for p in self.restorer.network.parameters())

    @contextmanager
    def resident(self, height: int, width: int, tile_size: int | None) -> Iterator[Plan]:
        """The network wholly on the host's device, and the plan for pictures of this size.

        The host is asked for room for an exact run first, and only then how much is free: before,
        what other models hold counts as used although it would be given up.
        """
        device = self.patcher.load_device
        # The picture and its result lie beside the features.
        beside = 0 if device.type == "cpu" else 2 * 3 * 4 * height * width
        wanted = (
            self.restorer.plan(height, width, tile_size=tile_size, device=device).bytes + beside
        )
        memory.load_models_gpu(
            [self.patcher], memory_required=wanted + beside, force_full_load=True
        )
        # --novram and a full GPU leave parameters behind although the host says "loaded".
        network = self.restorer.network
        resolved = torch.empty(0, device=device).device  # "cuda" is some "cuda:0"
        left_behind = any(p.device != resolved for p in network.parameters())
        if left_behind:
            network.to(device)
        home = self.restorer.device
        self.restorer.device = device
        try:
            free = getattr(self.patcher, "get_free_memory", memory.get_free_memory)(device)
            yield self.restorer.plan(
                height, width, free=int(free) - beside, tile_size=tile_size, device=device
            )
        finally:
            self.restorer.device = home
            if left_behind:
                network.to(self.patcher.offload_device)

    def restore(self, run: Callable[[Plan], torch.Tensor], plan: Plan) -> tuple[torch.Tensor, Plan]:
        """``run(plan)``, in smaller pieces where memory runs out; also the plan that worked."""
        return with_smaller_pieces(
            run, plan, is_out_of_memory=is_out_of_memory, release=memory.soft_empty_cache
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller pieces may help; newer hosts know more kinds of such errors."""
    known_to_host = getattr(
        memory, "is_oom", None
    )  # asked first: it also clears the device's error
    return bool(known_to_host and known_to_host(error)) or ran_out_of_memory(error)


def result_like(images: torch.Tensor) -> torch.Tensor:
    """An empty tensor of the same shape, where and as the host keeps its pictures."""
    intermediate_dtype = getattr(memory, "intermediate_dtype", lambda: torch.float32)
    return torch.empty(
        images.shape, dtype=intermediate_dtype(), device=memory.intermediate_device()
    )


# --- progress ----------------------------------------------------------------------------------


class Progress:
    """The node's progress bar over all frames; stops the node when the user does."""

    def __init__(self, frames: int) -> None:
        self.frames, self.frame, self.percent = frames, 0, -1
        self.bar = comfy.utils.ProgressBar(100)

    def __call__(self, done: int, total: int) -> None:
        memory.throw_exception_if_processing_interrupted()
        whole = self.frames * total
        percent = 100 * (self.frame * total + done) // whole
        if percent != self.percent:  # some hosts send every step to the browser
            self.percent = percent
            self.bar.update_absolute(percent, 100)


def stop_if_asked() -> None:
    """Raise the host's own exception when the user has pressed stop."""
    memory.throw_exception_if_processing_interrupted()


def show_text(node: type[io.ComfyNode], text: str) -> None:
    """Write a line on the node itself, where a browser is connected."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden is not None and node.hidden.unique_id is not None:
        server.send_progress_text(text, node.hidden.unique_id)
