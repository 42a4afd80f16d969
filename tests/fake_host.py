"""Stand-ins for the modules of a ComfyUI host, enough to run the nodes without one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent


class Interrupted(Exception):
    """As the host's InterruptProcessingException."""


class FakeHost:
    """What the nodes ask of the host, and what tests look at afterwards."""

    def __init__(self, models: Path) -> None:
        self.models, self.free = models, 1 << 40
        self.free_when_asked: int | None = None
        """What is free once the host was asked for room, where that differs."""
        self.asked, self.stop_at = 0, 1 << 40
        """How often the nodes looked whether the user pressed stop, and when he does."""
        self.loads: list[dict[str, Any]] = []
        self.bars: list[list[tuple[int, int]]] = []
        self.folders: dict[str, tuple[list[str], set[str]]] = {}

    def module(self, name: str, **members: Any) -> ModuleType:
        module = ModuleType(name)
        module.__dict__.update(members)
        return module

    def stop(self) -> None:
        self.asked += 1
        if self.asked >= self.stop_at:
            raise Interrupted

    def add_folder(self, name: str, path: str, is_default: bool = False) -> None:
        paths, _ = self.folders.setdefault(name, ([], set()))
        if path not in paths:
            paths.insert(0 if is_default else len(paths), path)

    def files(self, name: str) -> list[str]:
        return sorted(
            str(p.relative_to(folder))
            for folder in self.folders[name][0]
            for p in Path(folder).rglob("*")
            if p.suffix in self.folders[name][1]
        )

    def full_path(self, name: str, file: str) -> str | None:
        for folder in self.folders[name][0]:
            if (Path(folder) / file).is_file():
                return str(Path(folder) / file)
        return None

    def load_gpu(self, models: list[Any], **options: Any) -> None:
        self.loads.append({"models": models, **options})
        if self.free_when_asked is not None:
            self.free = self.free_when_asked

    def modules(self) -> dict[str, ModuleType]:
        host = self
        cpu = torch.device("cpu")

        class Patcher:
            def __init__(self, model: Any, load_device: Any, offload_device: Any) -> None:
                self.model, self.load_device = model, load_device
                self.offload_device = offload_device

        class Bar:
            def __init__(self, total: int) -> None:
                self.seen: list[tuple[int, int]] = []
                host.bars.append(self.seen)

            def update_absolute(self, value: int, total: int) -> None:
                self.seen.append((value, total))

        class Anything:
            """A schema, its inputs and outputs, and their kinds: kept as they were given."""

            slider = "slider"
            unique_id = "UNIQUE_ID"
            prompt = "PROMPT"
            extra_pnginfo = "EXTRA_PNGINFO"

            def __init__(self, *arguments: Any, **options: Any) -> None:
                self.arguments, self.options, self.extra_dict = arguments, options, {}
                self.kind = arguments[0] if arguments else ""

            def Input(self, *a: Any, **k: Any) -> Anything:
                made = Anything(*a, **k)
                made.kind = self.kind
                return made

            Output = Input

        class NodeOutput:
            def __init__(self, *values: Any, ui: Any = None) -> None:
                self.values, self.ui = values, ui

        class ComfyNode:
            hidden = SimpleNamespace(unique_id="7")

        memory = self.module(
            "comfy.model_management",
            get_torch_device=lambda: cpu,
            unet_offload_device=lambda: cpu,
            intermediate_device=lambda: cpu,
            get_free_memory=lambda device: host.free,
            load_models_gpu=self.load_gpu,
            soft_empty_cache=lambda: None,
            throw_exception_if_processing_interrupted=self.stop,
        )
        patcher = self.module("comfy.model_patcher", ModelPatcher=Patcher)
        utils = self.module("comfy.utils", ProgressBar=Bar)
        comfy = self.module(
            "comfy", model_management=memory, model_patcher=patcher, utils=utils, __path__=[]
        )
        kinds = ("Combo", "String", "Float", "Int", "Boolean", "Image", "Mask", "Hidden",
                 "NumberDisplay", "Video")  # fmt: skip
        io = SimpleNamespace(
            Schema=Anything, ComfyNode=ComfyNode, NodeOutput=NodeOutput, Custom=Anything,
            **{kind: Anything(kind.upper()) for kind in kinds},
        )  # fmt: skip
        latest = self.module(
            "comfy_api.latest",
            io=io,
            ui=SimpleNamespace(PreviewImage=lambda image, cls: {"images": image}),
            InputImpl=SimpleNamespace(VideoFromFile=lambda path: SimpleNamespace(path=path)),
            ComfyExtension=object,
        )
        return {
            "comfy": comfy,
            "comfy.model_management": memory,
            "comfy.model_patcher": patcher,
            "comfy.utils": utils,
            "comfy_api": self.module("comfy_api", latest=latest, __path__=[]),
            "comfy_api.latest": latest,
            "server": self.module("server", PromptServer=SimpleNamespace(instance=None)),
            "folder_paths": self.module(
                "folder_paths",
                models_dir=str(self.models),
                folder_names_and_paths=self.folders,
                add_model_folder_path=self.add_folder,
                get_filename_list=self.files,
                get_folder_paths=lambda name: self.folders[name][0],
                get_full_path=self.full_path,
            ),
        }


def import_pack(monkeypatch: pytest.MonkeyPatch, host: FakeHost) -> ModuleType:
    """The pack under another name, as a host imports it, with the fake host in place."""
    for name, module in host.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in [n for n in sys.modules if n.partition(".")[0] == "installed_pack"]:
        monkeypatch.delitem(sys.modules, name)
    spec = importlib.util.spec_from_file_location(
        "installed_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "installed_pack", pack)
    spec.loader.exec_module(pack)
    return pack
