"""Weight files: what is read, what is refused and how."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_model import TINY, fill, tiny_parts

from instructir_core import Restorer, checkpoint, load_network
from instructir_core.model import InstructIR
from instructir_core.tasks import CLASSES, OFFICIAL_TASKS
from instructir_core.text import InstructionHead


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
        checkpoint.save(path, network, head, CLASSES, encoder, provenance)
        if path.read_bytes()[:1] == b"\x80":
            assert checkpoint.load(path).head is not None
            found = True
    assert found


def test_pair_of_pt_files(tmp_path: Path) -> None:
    network, head = save_pair(tmp_path)
    assert torch.equal(load_network(network).intro.weight, fill(InstructIR(TINY)).intro.weight)
    assert checkpoint.load_head(head)[1] == OFFICIAL_TASKS
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
    out = checkpoint.convert(network, tmp_path / "one.safetensors", head_path=head)
    assert torch.equal(load_network(out).intro.weight, load_network(network).intro.weight)
    assert checkpoint.load(out).provenance["converted_from"][0]["sha256"] == (
        hashlib.sha256(network.read_bytes()).hexdigest()
    )
    half = checkpoint.convert(network, tmp_path / "half.safetensors", head_path=head, half=True)
    assert half.stat().st_size < 0.6 * out.stat().st_size
    assert Restorer.from_pretrained(out).version == ""
    released = checkpoint.convert(out, tmp_path / "released.safetensors", version="3.1")
    assert Restorer.from_pretrained(released).version == "3.1"
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
