"""The models known by name, and the Hub, answered by a local server."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import TINY, fill

from instructir_core import Restorer, official
from instructir_core.model import InstructIR
from instructir_core.tasks import OFFICIAL_TASKS
from instructir_core.text import InstructionHead


class _Hub(BaseHTTPRequestHandler):
    """Answers `resolve` requests as the Hub does, from files by repository and name."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        content = self.files.get(f"{repository}/{rest.partition('/')[2].split('?')[0]}")
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> dict[str, bytes]:
    """The files a Hub would hold: a tiny network, its head, a tiny encoder folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    network, head = tmp_path / "im.pt", tmp_path / "lm.pt"
    torch.save(fill(InstructIR(TINY)).state_dict(), network)
    torch.save(fill(InstructionHead(384, 256, 7)).state_dict(), head)
    encoder = tmp_path / "encoder"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "remove", "the", "rain"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=384,
        num_hidden_layers=3,
        num_attention_heads=12,
        intermediate_size=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(encoder)
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(encoder)
    files = {f"TaylorAI/bge-micro-v2/{p.name}": p.read_bytes() for p in encoder.iterdir()}
    files["marcosv/InstructIR/im_instructir-7d.pt"] = network.read_bytes()
    files["marcosv/InstructIR/lm_instructir-7d.pt"] = head.read_bytes()
    return files


def run_7d(
    home: Path, endpoint: str, known: list[list[object]]
) -> subprocess.CompletedProcess[str]:
    """Load "7d" and read a sentence in a fresh process, where the endpoint setting takes effect."""
    code = f"""
        from instructir_core import Restorer, official
        official.OFFICIAL_FILES = tuple(official.HubFile(*k) for k in {known!r})
        restorer = Restorer.from_pretrained("7d")
        print(restorer.name, restorer.encode("remove the rain").model)
    """
    environment = os.environ | {
        "INSTRUCTIR_HOME": str(home / "models"),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "2",
        "NO_PROXY": "*",
    }
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment, capture_output=True, text=True, timeout=240,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def known_files(files: dict[str, bytes]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name in ("im_instructir-7d.pt", "lm_instructir-7d.pt"):
        content = files[f"marcosv/InstructIR/{name}"]
        rows.append([name, len(content), git_blob(content), hashlib.sha256(content).hexdigest()])
    return rows


def test_official_model_from_a_hub(tmp_path: Path, hub: dict[str, bytes]) -> None:
    handler = type("Handler", (_Hub,), {"files": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    known = known_files(hub)
    try:
        wrong = [[known[0][0], known[0][1], "0" * 40, ""], known[1]]
        refused = run_7d(tmp_path / "refused", endpoint, wrong)
        assert refused.returncode and "git blob id" in refused.stderr
        assert not list((tmp_path / "refused" / "models").glob("*.safetensors"))

        differing = [known[0], [*known[1][:3], "1234"]]
        first = run_7d(tmp_path / "home", endpoint, differing)
        assert first.stdout.split() == ["7d", "7d"], first.stderr
        assert "a third party's list says 1234" in first.stderr
    finally:
        server.shutdown()
        server.server_close()
    models = tmp_path / "home" / "models"
    recorded = json.loads((models / "bge-micro-v2" / "sha256.json").read_text())
    content = hub["TaylorAI/bge-micro-v2/model.safetensors"]
    assert recorded["model.safetensors"] == hashlib.sha256(content).hexdigest()
    assert "network.intro.weight" in load_file(models / "instructir-7d.safetensors")
    assert not [p for p in models.rglob("*.tmp")]

    # The server is gone: what was fetched once is used offline.
    again = run_7d(tmp_path / "home", endpoint, known)
    assert again.stdout.split() == ["7d", "7d"], again.stderr

    offline = run_7d(tmp_path / "empty", endpoint, known)
    assert offline.returncode
    for part in ("im_instructir-7d.pt", f"{endpoint}/marcosv/InstructIR/resolve", "by hand",
                 str(tmp_path / "empty" / "models")):  # fmt: skip
        assert part in offline.stderr


def test_download_counts_bytes_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    server_goes_on = threading.Event()
    seen: list[tuple[int, int]] = []

    def hangs(repository: str, name: str, local_dir: Path) -> str:
        local_dir.mkdir(parents=True)
        (local_dir / "x.incomplete").write_bytes(bytes(1000))
        server_goes_on.wait(30)
        raise OSError("given up")

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1000:
            raise KeyError("stop")  # no OSError, as a host's own exception

    monkeypatch.setattr(official, "check_reachable", lambda address: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hangs)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(KeyError):
        official.fetch_official(tmp_path, progress)
    server_goes_on.set()
    total = 63_627_895 + 403_275 + official.ENCODER_BYTES
    assert seen[0] == (0, total) and seen[-1] == (1000, total)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address whose packets vanish: a server that accepts nobody, its queue full."""
    with socket.socket() as server, ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        time.sleep(0.1)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_without_a_network_the_answer_comes_soon(silent: str) -> None:
    start = time.monotonic()
    with pytest.raises(OSError, match=r"no connection to 127\.0\.0\.1, port"):
        official.check_reachable(silent, seconds=0.5)
    assert 0.4 < time.monotonic() - start < 3
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(OSError, match="Connect call failed"):
        official.check_reachable(address)  # said at once, not after the whole time
    assert time.monotonic() - start < 3


def test_a_name_server_that_keeps_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()

    def silent(*_: Any, **__: Any) -> Any:
        given_up.wait(30)
        raise OSError("given up")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    start = time.monotonic()
    with pytest.raises(OSError, match=r"no connection to hub\.example, port 443: no answer"):
        official.check_reachable("https://hub.example", seconds=0.3)
    assert time.monotonic() - start < 3
    given_up.set()


def test_the_model_is_answered_for_within_ten_seconds(
    tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", silent)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setenv("NO_PROXY", "*")
    seen: list[int] = []
    start = time.monotonic()
    with pytest.raises(OSError, match="no connection to") as caught:
        official.fetch_official(tmp_path, lambda done, total: seen.append(done))
    assert time.monotonic() - start < 10
    # All that the user needs to help himself; and the node could have been stopped all the time.
    assert "im_instructir-7d.pt" in str(caught.value) and str(tmp_path) in str(caught.value)
    assert len(seen) > 10 and not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_slow_network_is_not_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def slow(*arguments: Any, **options: Any) -> Any:
            time.sleep(0.5)
            good = resolve("127.0.0.1", server.getsockname()[1], type=socket.SOCK_STREAM)
            with socket.socket() as unused:  # and its first address answers no
                unused.bind(("127.0.0.1", 0))
                bad = resolve("127.0.0.1", unused.getsockname()[1], type=socket.SOCK_STREAM)
            return [*bad, *good]

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        official.check_reachable("http://hub.example")


def test_another_encoder_is_refused(tmp_path: Path, hub: dict[str, bytes]) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(hub[f"TaylorAI/bge-micro-v2/{name}"])
    official.check_bge_micro(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 12}))
    with pytest.raises(ValueError, match=r"expected .*'bert', 3, 384"):
        official.check_bge_micro(tmp_path)


def test_upstreams_pair_is_found_by_its_names(tmp_path: Path, hub: dict[str, bytes]) -> None:
    folder = tmp_path / "models"
    (folder / "bge-micro-v2").mkdir(parents=True)
    for name, content in hub.items():
        owner, _, file = name.rpartition("/")
        (folder / ("bge-micro-v2" if "bge" in owner else "") / file).write_bytes(content)
    network = folder / "im_instructir-7d.pt"
    found = official.load_named(network)
    assert found.tasks == OFFICIAL_TASKS and found.head is not None
    head = torch.load(folder / "lm_instructir-7d.pt", weights_only=True)
    assert torch.equal(found.head.fc1.weight, head["fc1.weight"])
    assert Restorer.from_pretrained(network).encode("remove the rain").model == network.stem
    # A head that is named wins; a network of another name stands alone.
    other = tmp_path / "other.pt"
    torch.save(fill(InstructionHead(384, 256, 7), 2.0).state_dict(), other)
    named = official.load_named(network, head=other)
    assert named.head is not None and not torch.equal(named.head.fc1.weight, found.head.fc1.weight)
    network.rename(folder / "mine.pt")
    assert official.load_named(folder / "mine.pt").head is None


def test_a_lying_download_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: dict[str, bytes]
) -> None:
    import huggingface_hub

    answers = dict(hub)
    asked: list[str] = []

    def download(repository: str, name: str, local_dir: Path) -> str:
        path = local_dir / name
        if not path.is_file():  # as the library does
            asked.append(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(answers[f"{repository}/{name}"])
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    rows = known_files(hub)
    known = tuple(official.HubFile(*row) for row in rows)  # type: ignore[arg-type]
    monkeypatch.setattr(official, "OFFICIAL_FILES", known)
    monkeypatch.setattr(official, "check_reachable", lambda address: None)

    name = "im_instructir-7d.pt"
    whole = hub[f"marcosv/InstructIR/{name}"]
    for wrong in (bytes(len(whole)), whole[:-1], b""):
        answers[f"marcosv/InstructIR/{name}"] = wrong
        with pytest.raises(ValueError, match="git blob id"):
            official.fetch_official(tmp_path / "models")
    assert asked == [name] * 3
    answers = dict(hub)
    config = json.loads(hub["TaylorAI/bge-micro-v2/config.json"]) | {"num_hidden_layers": 12}
    answers["TaylorAI/bge-micro-v2/config.json"] = json.dumps(config).encode()
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            official.fetch_official(tmp_path / "models")
        assert f"{tmp_path / 'models' / 'bge-micro-v2'}, as" in str(caught.value)
        assert ".tmp" not in str(caught.value)
    assert asked.count("config.json") == 2
    answers = dict(hub)
    official.fetch_official(tmp_path / "models")
    assert official.official_is_here(tmp_path / "models")
    # One that was put there by hand stays there, wrong as it may be.
    mine = tmp_path / "by hand" / name
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(ValueError, match="Delete the file"):
        official.fetch_official(mine.parent)
    assert mine.read_bytes() == b"mine"
