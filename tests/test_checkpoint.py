"""Weight files: what is read, what is refused and how, and the Hub against a local server."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import TINY, fill, tiny_parts

from instructir_core import Restorer, checkpoint, load_network
from instructir_core.model import InstructIR
from instructir_core.text import TASKS, InstructionHead


def save_pair(folder: Path) -> tuple[Path, Path]:
    """A network and a head as upstream releases them: two pickled state dicts."""
    network, head = folder / "im.pt", folder / "lm.pt"
    torch.save(fill(InstructIR(TINY)).state_dict(), network)
    torch.save(fill(InstructionHead(32, 256, 7)).state_dict(), head)
    return network, head


def test_round_trip_is_exact(weights: Path) -> None:
    network, head, encoder = tiny_parts()
    loaded = checkpoint.load(weights)
    for mine, theirs in ((network, loaded.network), (head, loaded.head)):
        assert theirs is not None
        for key, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key])
    assert loaded.text_encoder is not None
    assert torch.equal(loaded.text_encoder.encode(["hi"]), encoder.encode(["hi"]))
    assert loaded.name == "tiny"


def test_header_length_that_looks_like_a_pickle(tmp_path: Path) -> None:
    network, head, encoder = tiny_parts()
    path = tmp_path / "tiny.safetensors"
    found = False
    for padding in range(300):
        provenance = {"name": "tiny", "note": "x" * padding}
        checkpoint.save(path, network, head, (*TASKS, "none"), encoder, provenance)
        if path.read_bytes()[:1] == b"\x80":
            assert checkpoint.load(path).head is not None
            found = True
    assert found


def test_pair_of_pt_files(tmp_path: Path) -> None:
    network, head = save_pair(tmp_path)
    assert torch.equal(load_network(network).intro.weight, fill(InstructIR(TINY)).intro.weight)
    assert checkpoint.load_head(head)[1] == TASKS
    restorer = Restorer.from_pretrained(network)
    assert restorer.restore(torch.rand(5, 5, 3), torch.ones(1, 256) / 16).shape == (5, 5, 3)
    with pytest.raises(ValueError, match="no instruction head and text encoder"):
        restorer.encode("remove the rain")


def test_wrapped_state_dicts(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in fill(InstructIR(TINY)).state_dict().items()}
    torch.save({"params": state, "epoch": 3}, tmp_path / "wrapped.pt")
    assert load_network(tmp_path / "wrapped.pt").config == TINY


def test_convert_gives_one_file_with_the_same_numbers(tmp_path: Path) -> None:
    network, head = save_pair(tmp_path)
    out = checkpoint.convert(network, tmp_path / "one.safetensors", head)
    assert torch.equal(load_network(out).intro.weight, load_network(network).intro.weight)
    assert checkpoint.load(out).provenance["converted_from"][0]["sha256"] == (
        hashlib.sha256(network.read_bytes()).hexdigest()
    )
    half = checkpoint.convert(network, tmp_path / "half.safetensors", head, half=True)
    assert half.stat().st_size < 0.6 * out.stat().st_size
    with pytest.raises(ValueError, match="none of the inputs"):
        checkpoint.convert(out, out)
    with pytest.raises(ValueError, match="instruction head without an image network"):
        checkpoint.convert(head, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harmed",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"intro.weight": _Code()}, "evil.pt")
    Path("bare.pt").write_bytes(pickle.dumps(_Code()))
    for name in ("evil.pt", "bare.pt"):
        with pytest.raises(ValueError, match=r"(?s)(evil|bare)\.pt.*(not run|damaged)"):
            checkpoint.load(name)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated(tmp_path: Path, weights: Path, share: float, suffix: str) -> None:
    whole = save_pair(tmp_path)[0] if suffix == "pt" else weights
    cut = tmp_path / f"cut.{suffix}"
    content = whole.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"cut.{suffix}.*expected"):
        checkpoint.load(cut)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors.*no such file"):
        checkpoint.load(tmp_path / "none.safetensors")
    with pytest.raises(OSError, match="could not be opened"):
        checkpoint.load(tmp_path)


def rewrite_header(source: Path, target: Path, change: str) -> None:
    content = source.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if change == "shape":
        header["network.intro.weight"]["shape"] = [2**40, 3, 3, 3]
    elif change == "config":
        said = json.loads(header["__metadata__"]["network"])
        header["__metadata__"]["network"] = json.dumps(said | {"width": 9})
    elif change == "tasks":
        header["__metadata__"]["tasks"] = '["noise"]'
    elif change == "json":
        header["__metadata__"]["tasks"] = "["
    elif change == "version":
        header["__metadata__"]["format_version"] = "99"
    elif change == "odd heads":
        said = json.loads(header["__metadata__"]["text_encoder"])
        header["__metadata__"]["text_encoder"] = json.dumps(said | {"heads": 7})
    elif change == "endless table":
        said = json.loads(header["__metadata__"]["text_encoder"])
        header["__metadata__"]["text_encoder"] = json.dumps(said | {"buckets": 2**50})
    raw = json.dumps(header).encode()
    target.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])


@pytest.mark.parametrize(
    "change", ["shape", "config", "tasks", "json", "version", "odd heads", "endless table"]
)
def test_headers_that_lie(tmp_path: Path, weights: Path, change: str) -> None:
    lying = tmp_path / "lying.safetensors"
    rewrite_header(weights, lying, change)
    with pytest.raises(ValueError, match=r"lying\.safetensors: found .*expected"):
        checkpoint.load(lying)


def test_wrong_architectures(tmp_path: Path) -> None:
    state = fill(InstructIR(TINY)).state_dict()
    plain = {k: v for k, v in state.items() if "_cond" not in k}
    save_file(plain, tmp_path / "nafnet.safetensors")
    with pytest.raises(ValueError, match=r"nafnet.*plain NAFNet.*expected"):
        load_network(tmp_path / "nafnet.safetensors")
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.*found layer.weight; expected an InstructIR"):
        load_network(tmp_path / "other.safetensors")
    less = {k: v for k, v in state.items() if k != "ending.bias"}
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"less.*lacks ending.bias"):
        load_network(tmp_path / "less.safetensors")
    state["intro.bias"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match=r"nan.*found NaN"):
        load_network(tmp_path / "nan.safetensors")


def test_head_of_another_width(tmp_path: Path, weights: Path) -> None:
    head = tmp_path / "lm.pt"
    torch.save(InstructionHead(384, 256, 7).state_dict(), head)
    with pytest.raises(ValueError, match="text encoder gives 16 values"):
        Restorer.from_pretrained(weights, head=head)


def test_nothing_half_written(tmp_path: Path, weights: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(OSError, match="could not be written"):
        checkpoint.write_atomically(blocked / "x.safetensors", b"123")
    with pytest.raises(OSError, match="could not be written"):  # a folder stands at the target
        checkpoint.write_atomically(tmp_path, b"123")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "tiny.safetensors"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder we may not write")
def test_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError, match="could not be written"):
        checkpoint.write_atomically(tmp_path / "locked" / "x", b"1")


# --- the Hub, answered by a local server -------------------------------------------------------


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
        from instructir_core import Restorer, checkpoint
        checkpoint.OFFICIAL_FILES = tuple(checkpoint.HubFile(*k) for k in {known!r})
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

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hangs)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(KeyError):
        checkpoint.fetch_official(tmp_path, progress)
    server_goes_on.set()
    total = 63_627_895 + 403_275 + checkpoint.ENCODER_BYTES
    assert seen[0] == (0, total) and seen[-1] == (1000, total)


def test_another_encoder_is_refused(tmp_path: Path, hub: dict[str, bytes]) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(hub[f"TaylorAI/bge-micro-v2/{name}"])
    checkpoint.check_bge_micro(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 12}))
    with pytest.raises(ValueError, match=r"expected .*'bert', 3, 384"):
        checkpoint.check_bge_micro(tmp_path)
