"""The nodes on a fake host: shapes, memory, progress, errors. `tests/host` has the real ones."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_host import FakeHost, Interrupted, import_pack

from instructir_core import Restorer


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path / "models")


@pytest.fixture
def nodes(fake: FakeHost, weights: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    folder = fake.models / "instructir"
    folder.mkdir(parents=True)
    shutil.copy(weights, folder / "tiny.safetensors")
    pack = import_pack(monkeypatch, fake)
    load, encode, restore = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    host = sys.modules["installed_pack.nodes.host"]
    return SimpleNamespace(load=load, encode=encode, restore=restore, host=host)


def values(output: Any) -> Any:
    return output.values[0]


def restored(nodes: SimpleNamespace, image: torch.Tensor, **options: Any) -> torch.Tensor:
    restorer = values(nodes.load.execute("tiny.safetensors"))
    instruction = values(nodes.encode.execute(restorer, "remove the rain", "from text"))
    return values(nodes.restore.execute(image, 1.0, restorer, instruction, **options))


@pytest.fixture
def core(weights: Path) -> Any:
    restorer = Restorer.from_pretrained(weights, device="cpu")
    instruction = restorer.encode("remove the rain")
    return lambda image, **options: restorer.restore(image, instruction, **options)


@pytest.mark.parametrize("shape", [(1, 33, 47, 3), (3, 20, 31, 3)])
def test_batches_and_odd_sizes(nodes: SimpleNamespace, core: Any, shape: tuple[int, ...]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    kept = image.clone()
    assert torch.equal(restored(nodes, image), core(image))
    assert torch.equal(image, kept)


def test_alpha_and_one_channel_and_half(nodes: SimpleNamespace, core: Any) -> None:
    image = torch.rand(2, 20, 31, 4)
    result = restored(nodes, image)
    assert torch.equal(result[..., 3], image[..., 3])
    assert torch.equal(result[..., :3], core(image[..., :3]))
    grey = torch.rand(1, 20, 31, 1)
    expected = core(grey.expand(-1, -1, -1, 3)).mean(-1, keepdim=True)
    assert torch.allclose(restored(nodes, grey), expected, atol=1e-6)
    half = torch.rand(1, 20, 31, 3).half()
    assert torch.equal(restored(nodes, half), core(half.float()))


def test_masks(nodes: SimpleNamespace, core: Any) -> None:
    image = torch.rand(2, 20, 31, 3)
    mask = torch.rand(2, 20, 31)
    assert torch.equal(restored(nodes, image, mask=mask), core(image, mask=mask))
    assert torch.equal(restored(nodes, image, mask=mask[0]), core(image, mask=mask[0]))
    assert torch.equal(restored(nodes, image, mask=torch.zeros(1, 64, 64)), core(image))
    with pytest.raises(ValueError, match=r"mask is 1 x 5 x 9 .*expected 1 or 2 of 31 x 20"):
        restored(nodes, image, mask=torch.ones(9, 5))


def test_small_memory_gives_tiles(nodes: SimpleNamespace, fake: FakeHost, core: Any) -> None:
    image = torch.rand(1, 300, 520, 3)
    whole = restored(nodes, image)
    assert torch.equal(whole, core(image)) and fake.bars[-1][-1] == (100, 100)
    fake.free = 1000
    assert torch.equal(restored(nodes, image), core(image, tile_size=64, overlap=32))
    assert fake.bars[-1] == [(percent, 100) for percent in range(101)]
    assert fake.loads[-1]["force_full_load"]
    assert fake.loads[-1]["memory_required"] < fake.loads[0]["memory_required"]


def test_out_of_memory_is_retried_in_smaller_pieces(
    nodes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def run(tile: int | None) -> torch.Tensor:
        sizes.append(tile)
        if tile is None or tile > 300:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.ones(1)

    result, tile = nodes.host.with_smaller_pieces(run, None, 1000, 2000)
    assert sizes == [None, 1000, 500, 256] and tile == 256 and result.item() == 1

    def never(tile: int | None) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate"):
        nodes.host.with_smaller_pieces(never, None, 1000, 2000)

    def other(tile: int | None) -> torch.Tensor:
        sizes.append(-1)
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        nodes.host.with_smaller_pieces(other, None, 1000, 2000)
    assert sizes.count(-1) == 1


class _Elsewhere:
    """A network whose parameters the host left where they were."""

    def __init__(self) -> None:
        self.device, self.moves = torch.device("cpu"), []

    def parameters(self) -> list[Any]:
        return [SimpleNamespace(device=self.device, numel=lambda: 3, element_size=lambda: 4)]

    def to(self, device: torch.device) -> None:
        self.device = device
        self.moves.append(str(device))


def test_weights_left_behind_are_moved_and_taken_back(nodes: SimpleNamespace) -> None:
    network = _Elsewhere()
    core = SimpleNamespace(network=network, device=torch.device("cpu"))
    managed = nodes.host.ManagedRestorer(core)
    managed.patcher.load_device = torch.device("meta")  # a device that is not the CPU
    with pytest.raises(KeyError), managed.resident(1) as inside:
        assert inside.device.type == "meta" and network.moves == ["meta"]
        raise KeyError  # even when the run fails
    assert network.moves == ["meta", "cpu"] and core.device.type == "cpu"
    assert managed.get_ram_usage() == 12


def test_interrupt_stops_within_a_piece(nodes: SimpleNamespace, fake: FakeHost) -> None:
    image = torch.rand(2, 100, 100, 3)
    restored(nodes, image, tile_size=64, overlap=0)
    pieces = 2 * 4  # tiles of two frames
    assert fake.asked > 4 * pieces  # looked several times in each
    fake.asked, fake.stop_at = 0, 7
    with pytest.raises(Interrupted):
        restored(nodes, image, tile_size=64, overlap=0)
    assert fake.asked == 7  # nothing went on after it
    assert fake.bars[-1][-1][0] < 100 * 2 // pieces


def test_strength_zero_asks_for_nothing(nodes: SimpleNamespace, fake: FakeHost) -> None:
    assert nodes.restore.check_lazy_status(strength=0.0) == []
    assert nodes.restore.check_lazy_status(strength=0.5, image=1) == ["restorer", "instruction"]
    assert nodes.restore.check_lazy_status(object(), (), strength=1.0) == []
    image = torch.rand(1, 20, 31, 4)
    assert torch.equal(values(nodes.restore.execute(image, 0.0)), image) and not fake.loads


def test_instructions_chain_and_speak(nodes: SimpleNamespace) -> None:
    restorer = values(nodes.load.execute("tiny.safetensors"))
    first = nodes.encode.execute(restorer, "remove the rain", "from text")
    second = nodes.encode.execute(restorer, "ignored", "remove noise", previous=first.values[0])
    assert [i.text for i in second.values[0]] == [
        "remove the rain",
        "remove the noise from this photo",
    ]
    assert "%" in first.values[1] and first.ui["text"][0].startswith(first.values[1])
    with pytest.raises(ValueError, match="instruction is empty"):
        nodes.encode.execute(restorer, " ", "from text")


def test_foreign_instruction(nodes: SimpleNamespace) -> None:
    restorer = values(nodes.load.execute("tiny.safetensors"))
    instruction = values(nodes.encode.execute(restorer, "derain", "from text"))
    restorer.restorer.name = "other"
    with pytest.raises(ValueError, match="encoded by the model 'tiny', and this is 'other'"):
        nodes.restore.execute(torch.rand(1, 8, 8, 3), 1.0, restorer, instruction)


def test_model_menu_and_files(nodes: SimpleNamespace, fake: FakeHost) -> None:
    folder = fake.models / "instructir"
    (folder / "bge-micro-v2").mkdir()
    for name in ("bge-micro-v2/model.safetensors", "lm_x.pt", "notes.txt"):
        (folder / name).write_bytes(b"")
    names = nodes.host.model_names()
    assert names == ["mini (bundled)", "instructir-7d.safetensors", "tiny.safetensors"]
    (folder / "instructir-7d.safetensors").write_bytes(b"")
    assert nodes.host.model_names() == names  # the same before and after the download
    assert nodes.load.validate_inputs("tiny.safetensors") is True
    assert "was not found in" in nodes.load.validate_inputs("gone.safetensors")
    before = nodes.load.fingerprint_inputs("tiny.safetensors", "auto")
    assert before != nodes.load.fingerprint_inputs("tiny.safetensors", "fp16")
    with open(folder / "tiny.safetensors", "ab") as file:
        file.write(b"x")
    assert before != nodes.load.fingerprint_inputs("tiny.safetensors", "auto")
    with pytest.raises(FileNotFoundError, match="Put the file there"):
        nodes.load.execute("gone.safetensors")


def test_precision(nodes: SimpleNamespace) -> None:
    managed = values(nodes.load.execute("tiny.safetensors", "bf16"))
    assert next(managed.restorer.network.parameters()).dtype == torch.bfloat16
