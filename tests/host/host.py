"""A real ComfyUI host in a subprocess, and its HTTP and websocket API."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_model import CLASSES, fill, tiny_parts
from websocket import WebSocketTimeoutException, create_connection

from instructir_core import checkpoint
from instructir_core.diagnose import Judge

ROOT = Path(__file__).parents[2]
Graph = dict[str, dict[str, Any]]


def find_host() -> tuple[Path, str] | None:
    """ComfyUI's folder and the Python to run it with, from the environment or comfy-cli's place."""
    named = os.environ.get("COMFYUI_PATH")
    folder = Path(named or Path.home() / "comfy" / "ComfyUI")
    python = os.environ.get("COMFYUI_PYTHON") or sys.executable
    if (folder / "main.py").is_file():
        return folder, python
    if named:  # skipping would hide the mistake
        raise FileNotFoundError(f"COMFYUI_PATH is {named}, which holds no main.py of ComfyUI")
    return None


class Host:
    """One running server with its own base folder, the pack linked into its custom_nodes."""

    def __init__(
        self, base: Path, folder: Path, python: str, hub: str = "", bare: bool = False
    ) -> None:
        """``bare``: as a new user has it, without pictures or models."""
        self.folder, self.python = folder, python
        self.base, self.log_path = base, base / "host.log"
        for part in ("custom_nodes", "input", "output", "models/instructir/sub",
                     "models/upscale_models"):  # fmt: skip
            (base / part).mkdir(parents=True, exist_ok=True)
        os.symlink(ROOT, base / "custom_nodes" / "instructir")
        (base / "extra").mkdir()
        if not bare:
            for sample in (ROOT / "example_workflows" / "inputs").iterdir():
                shutil.copy(sample, base / "input")
            write_models(base / "models")
            shutil.copy(
                base / "models/instructir/tiny.safetensors", base / "extra/elsewhere.safetensors"
            )
        extra_paths = base / "extra_model_paths.yaml"
        extra_paths.write_text(f"more:\n  instructir: {base / 'extra'}\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.client = uuid.uuid4().hex
        command = [
            python, str(Path(__file__).parent / "launch.py"), str(folder), "--cpu",
            "--port", str(self.port), "--base-directory", str(base),
            "--database-url", "sqlite:///:memory:", "--disable-auto-launch",
            "--extra-model-paths-config", str(extra_paths),
        ]  # fmt: skip
        # With this checkout on the path its nodes/ would hide the host's nodes.py.
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if hub:
            self.environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(base / "hf"), "NO_PROXY": "*",
                                 "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
        self.log = open(self.log_path, "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, cwd=base, env=self.environment
        )
        self._wait_until_up()
        self.socket = create_connection(
            f"ws://127.0.0.1:{self.port}/ws?clientId={self.client}", timeout=120
        )
        self.object_info = self.get("/object_info")

    def _wait_until_up(self) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"the host stopped:\n{self.read_log()[-4000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"the host did not start:\n{self.read_log()[-4000:]}")

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    def read_log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def post(self, path: str, content: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            return json.load(error)
        return json.loads(body) if body else None

    def queue(self, graph: Graph) -> str:
        """Queue a graph; raises AssertionError with the host's words when it is not accepted."""
        answer = self.post("/prompt", {"prompt": graph, "client_id": self.client})
        assert "prompt_id" in answer, json.dumps(answer)
        return str(answer["prompt_id"])

    def follow(self, prompt_id: str, on_progress: Any = None) -> list[dict[str, Any]]:
        """The messages of a run, up to its end."""
        messages = []
        while True:
            try:
                raw = self.socket.recv()
            except WebSocketTimeoutException as error:
                raise RuntimeError(f"no end of the run:\n{self.read_log()[-4000:]}") from error
            if isinstance(raw, bytes):
                continue  # previews and texts
            message = json.loads(raw)
            data = message["data"]
            if data.get("prompt_id") not in (None, prompt_id):
                continue
            messages.append(message)
            if message["type"] == "progress" and on_progress is not None:
                on_progress(data)
            over = message["type"] == "executing" and data["node"] is None
            if over or message["type"] in ("execution_error", "execution_interrupted"):
                return messages

    def run(self, graph: Graph, on_progress: Any = None) -> Run:
        prompt_id = self.queue(graph)
        messages = self.follow(prompt_id, on_progress)
        for _ in range(100):  # the history is written just after the last message
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return Run(self, messages, history[prompt_id])
            time.sleep(0.05)
        raise RuntimeError("the run never entered the history")


class Run:
    """What became of one graph."""

    def __init__(self, host: Host, messages: list[dict[str, Any]], history: Any) -> None:
        self.host, self.messages, self.history = host, messages, history

    @property
    def succeeded(self) -> bool:
        return bool(self.history["status"]["status_str"] == "success")

    @property
    def cached(self) -> set[str]:
        """Ids of the nodes whose results came from the cache."""
        found: set[str] = set()
        for message in self.messages:
            if message["type"] == "execution_cached":
                found |= set(message["data"]["nodes"])
        return found

    @property
    def error(self) -> str:
        for message in self.messages:
            if message["type"] == "execution_error":
                return str(message["data"]["exception_message"])
        return ""

    @property
    def progress(self) -> list[tuple[int, int]]:
        return [
            (m["data"]["value"], m["data"]["max"]) for m in self.messages if m["type"] == "progress"
        ]

    def files(self, node: str) -> list[Path]:
        """Pictures that a Save Image node wrote."""
        return [
            self.host.base / "output" / f["subfolder"] / f["filename"]
            for f in self.history["outputs"][node]["images"]
        ]


class StallingHub(ThreadingHTTPServer):
    """A model hub that sends the first part of any file, and then nothing for a minute."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _StallingAnswer)
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _StallingAnswer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "63627895")
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        # The library writes in pieces of 10 MB: one is written, the next never comes whole.
        self.wfile.write(bytes(15_000_000))
        self.wfile.flush()
        time.sleep(60)

    def log_message(self, *_: object) -> None:
        pass


def write_models(models: Path) -> None:
    """A tiny InstructIR, another without diagnosis, a wrong file, a tiny random x4 upscaler."""
    network, head, encoder = tiny_parts()
    diagnosis = fill(Judge(), 0.1)
    for name, more in (("tiny.safetensors", diagnosis), ("sub/deep.safetensors", None)):
        path = models / "instructir" / name
        said = {"name": path.stem}
        checkpoint.save(path, network, head, CLASSES, encoder, said, diagnosis=more)
    save_file({"layer.weight": torch.zeros(2)}, models / "instructir" / "wrong.safetensors")
    save_file(tiny_upscaler(), models / "upscale_models" / "RealESRGAN_x4plus.safetensors")


def tiny_upscaler() -> dict[str, torch.Tensor]:
    """Random weights of an SRVGGNetCompact x4, small enough to run at once."""
    generator = torch.Generator().manual_seed(0)

    def conv(out: int, into: int) -> torch.Tensor:
        return torch.randn(out, into, 3, 3, generator=generator) * 0.02

    tensors = {"body.0.weight": conv(8, 3), "body.0.bias": torch.zeros(8)}
    tensors["body.1.weight"] = torch.full((8,), 0.1)
    tensors |= {"body.2.weight": conv(8, 8), "body.2.bias": torch.zeros(8)}
    tensors["body.3.weight"] = torch.full((8,), 0.1)
    tensors |= {"body.4.weight": conv(48, 8), "body.4.bias": torch.zeros(48)}
    return tensors
