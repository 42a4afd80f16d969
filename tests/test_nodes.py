"""The nodes on a fake host: shapes, memory, progress, errors. `tests/host` has the real ones."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_host import FakeHost, Interrupted
from PIL import Image
from word_reader import WordReader

from instructir_core import Restorer
from instructir_core.tasks import TASKS


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


def said(nodes: SimpleNamespace, image: torch.Tensor, **options: Any) -> tuple[Any, str]:
    """The result, and what the node shows."""
    restorer = values(nodes.load.execute("tiny.safetensors"))
    instruction = values(nodes.encode.execute(restorer, "remove the rain", "from text"))
    output = nodes.restore.execute(image, 1.0, restorer, instruction, **options)
    return values(output), "" if output.ui is None else output.ui["text"][0]


def test_masks(nodes: SimpleNamespace, core: Any) -> None:
    image = torch.rand(2, 20, 31, 3)
    mask = torch.rand(2, 20, 31)
    assert torch.equal(restored(nodes, image, mask=mask), core(image, mask=mask))
    assert torch.equal(restored(nodes, image, mask=mask[0]), core(image, mask=mask[0]))
    assert torch.equal(restored(nodes, image, mask=mask[:, None]), core(image, mask=mask))
    result, text = said(nodes, image, mask=torch.zeros(1, 64, 64))
    assert torch.equal(result, core(image)) and not text
    with pytest.raises(ValueError, match=r"mask of 5 x 9 pixels; expected 31 x 20"):
        restored(nodes, image, mask=torch.ones(9, 5))
    large = torch.rand(1, 60, 93)
    result, text = said(nodes, image, mask=large)
    assert (
        torch.equal(result, core(image, mask=large)) and "resized from 93 x 60 to 31 x 20" in text
    )


def test_an_empty_mask_says_so(nodes: SimpleNamespace, fake: FakeHost) -> None:
    image = torch.rand(2, 20, 31, 3)
    for empty in (torch.zeros(1, 20, 31), torch.full((2, 20, 31), 0.0039), torch.zeros(40, 62)):
        result, text = said(nodes, image, mask=empty)
        assert torch.equal(result, image) and "mask is empty" in text
    assert not fake.loads
    square = torch.rand(1, 64, 64, 3)  # here 64 x 64 zeros are a mask of the picture's own size
    result, text = said(nodes, square, mask=torch.zeros(1, 64, 64))
    assert torch.equal(result, square) and "mask is empty" in text


def test_what_transparency_hides(nodes: SimpleNamespace) -> None:
    image = torch.rand(1, 40, 31, 4)
    image[..., 3] = (torch.rand(1, 40, 31) > 0.4).float()
    other, hidden = image.clone(), image[..., 3] == 0
    other[hidden] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    first, second = restored(nodes, image), restored(nodes, other)
    assert torch.equal(first[~hidden], second[~hidden])
    assert torch.equal(first[hidden], image[hidden]) and torch.equal(second[hidden], other[hidden])
    assert not torch.equal(first[~hidden], image[~hidden])


def test_short_memory(nodes: SimpleNamespace, fake: FakeHost, core: Any) -> None:
    image = torch.rand(1, 150, 260, 3)
    exact, text = said(nodes, image)
    assert torch.equal(exact, core(image)) and fake.bars[-1][-1] == (100, 100) and not text
    maps = 2 * 8 * 4 * 152 * 260
    fake.free = maps + 1000  # smaller strips
    strips, text = said(nodes, image)
    torch.testing.assert_close(strips, exact, atol=1e-5, rtol=0)
    assert not text and fake.loads[-1]["force_full_load"]
    fake.free = maps - 1000  # tiles
    tiled, text = said(nodes, image)
    assert "Not exact: memory was short, so tiles of 192 pixels were used" in text
    torch.testing.assert_close(tiled, core(image, tile_size=192, overlap=64), atol=1e-5, rtol=0)
    # The same room is asked for, however little there was before.
    assert len({load["memory_required"] for load in fake.loads}) == 1
    assert fake.loads[-1]["memory_required"] > maps


def test_the_host_is_asked_for_room_before_what_is_free(
    nodes: SimpleNamespace, fake: FakeHost, core: Any
) -> None:
    image = torch.rand(1, 150, 260, 3)
    fake.free, fake.free_when_asked = 0, 1 << 40  # other models fill the device until then
    result, text = said(nodes, image)
    assert torch.equal(result, core(image)) and not text


def test_nobody_plans_twice(
    nodes: SimpleNamespace, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    memory = sys.modules["comfy.model_management"]
    monkeypatch.setattr(memory, "get_free_memory", lambda device: asked.append(1) or 1 << 40)
    image = torch.rand(3, 20, 31, 3)
    restored(nodes, image)
    assert len(asked) == 1


@pytest.mark.parametrize("known_to_host", [False, True])
def test_out_of_memory_is_retried_in_smaller_pieces(
    nodes: SimpleNamespace, core: Any, monkeypatch: pytest.MonkeyPatch, known_to_host: bool
) -> None:
    class Strange(Exception):
        """What only the host knows for an out-of-memory error."""

    error = Strange("?") if known_to_host else torch.OutOfMemoryError("CUDA out of memory.")
    memory = sys.modules["comfy.model_management"]
    if known_to_host:
        monkeypatch.setattr(memory, "is_oom", lambda e: isinstance(e, Strange), raising=False)
    released = []
    monkeypatch.setattr(memory, "soft_empty_cache", lambda: released.append(1))
    execution = sys.modules["installed_pack.instructir_core.strips"]
    run, tried = execution.run, []

    def short(network: Any, image: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        tried.append(tuple(image.shape[2:]))
        if image.shape[3] > 256:
            raise error
        return run(network, image, *arguments, **options)

    monkeypatch.setattr(execution, "run", short)
    image = torch.rand(2, 80, 300, 3)
    result, text = said(nodes, image, overlap=32)
    expected = core(image, tile_size=256, overlap=32)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert "tiles of 256 pixels" in text and released
    assert tried.count((80, 300)) >= 2  # smaller strips were tried first
    assert tried[-2:] == [(80, 256), (80, 256)]  # and the second frame began with what had worked
    assert tried.index((80, 256)) == tried.count((80, 300))


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
    core = SimpleNamespace(
        network=network,
        device=torch.device("cpu"),
        plan=lambda *_, **__: SimpleNamespace(bytes=1),
    )
    managed = nodes.host.ManagedRestorer(core)
    managed.patcher.load_device = torch.device("meta")  # a device that is not the CPU
    with pytest.raises(KeyError), managed.resident(8, 8, None):
        assert core.device.type == "meta" and network.moves == ["meta"]
        raise KeyError  # even when the run fails
    assert network.moves == ["meta", "cpu"] and core.device.type == "cpu"
    assert managed.get_ram_usage() == 12
    network.moves.clear()
    network.device = torch.device("meta", 1)  # another device of the same kind
    with managed.resident(8, 8, None):
        assert network.moves == ["meta"]


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": 1.5}, "strength is 1.5; expected a number from 0 to 1"),
        ({"strength": float("nan")}, "strength is nan; expected"),
        ({"strength": "0.5"}, "strength is '0.5'; expected"),
        ({"strength": None}, "strength is None; expected"),
        ({"tile_size": -16}, "tile_size is -16; expected a number from 0 to 16384"),
        ({"tile_size": 32}, "tile_size is 32; expected at least 64"),
        ({"tile_size": float("inf")}, "tile_size is inf; expected"),
        ({"overlap": "x"}, "overlap is 'x'; expected a number from 0 to 4096"),
    ],
)
def test_numbers_from_other_nodes(
    nodes: SimpleNamespace, options: dict[str, Any], said: str
) -> None:
    restorer = values(nodes.load.execute("tiny.safetensors"))
    instruction = values(nodes.encode.execute(restorer, "remove the rain", "from text"))
    given = {"strength": 1.0, "restorer": restorer, "instruction": instruction, **options}
    with pytest.raises(ValueError, match=said):
        nodes.restore.execute(torch.rand(1, 8, 8, 3), **given)


def test_widgets_that_other_nodes_fill(nodes: SimpleNamespace, fake: FakeHost) -> None:
    assert nodes.load.validate_inputs(None) is True  # not known before it runs
    assert isinstance(nodes.load.fingerprint_inputs(None, None), str)
    assert nodes.restore.check_lazy_status(strength=None) == ["restorer", "instruction"]
    restorer = values(nodes.load.execute("tiny.safetensors"))
    with pytest.raises(ValueError, match="precision is 'fp8'; expected one of auto, fp32"):
        nodes.load.execute("tiny.safetensors", "fp8")
    with pytest.raises(ValueError, match="preset is 'fix'; expected one of from text, remove noi"):
        nodes.encode.execute(restorer, "x", "fix")
    secret = fake.models / "secret.safetensors"
    shutil.copy(fake.models / "instructir" / "tiny.safetensors", secret)
    (fake.models / "instructir" / "notes.txt").write_text("x")
    for name in (
        "../secret.safetensors",
        "..\\secret.safetensors",
        str(secret),
        "notes.txt",
        7,
        "",
    ):
        with pytest.raises(FileNotFoundError, match="was not found in"):
            nodes.load.execute(name)
        assert nodes.load.validate_inputs(name) is not True


def test_bad_pixels_are_found_before_any_work(nodes: SimpleNamespace, fake: FakeHost) -> None:
    image = torch.rand(5, 8, 8, 3)
    image[3, 1, 2, 0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinity among the pixels in frame 4 of 5"):
        restored(nodes, image)
    assert not fake.loads and not fake.bars


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


def test_sample_pictures_are_there(nodes: SimpleNamespace) -> None:
    samples = sys.modules["installed_pack.nodes.samples"]
    for name, file in samples.PICTURES.items():
        image = values(nodes.picture.execute(name))
        with Image.open(samples.FOLDER / file) as opened:
            assert tuple(image.shape) == (1, opened.height, opened.width, 3)
            assert np.array_equal((image[0].numpy() * 255).round(), np.asarray(opened))
    assert Path(values(nodes.video.execute()).path).is_file()
    with pytest.raises(ValueError, match="picture is 'cat'; expected one of face"):
        nodes.picture.execute("cat")


def test_before_and_after_side_by_side(nodes: SimpleNamespace) -> None:
    before, after = torch.full((1, 40, 60, 3), 0.2), torch.full((2, 40, 60, 4), 0.8)
    sheet = values(nodes.compare.execute(before, after, "noise 97%"))
    assert len(sheet) == 2 and sheet.shape[-1] == 3
    # Both are found in it, whole and unchanged, one right of the other.
    dark, light = (
        torch.nonzero((sheet[0] == round(value * 255) / 255).all(-1)) for value in (0.2, 0.8)
    )
    assert len(dark) >= 2400 and len(light) >= 2400
    assert dark[:, 1].float().mean() < light[:, 1].float().mean()
    bare = values(nodes.compare.execute(before, after))
    assert bare.shape[1] < sheet.shape[1]  # no room is kept for words
    grey = values(nodes.compare.execute(before[..., :1], after))
    assert torch.equal(grey, bare)
    large = values(nodes.compare.execute(before, torch.full((1, 80, 120, 3), 0.8), width=64))
    assert large.shape[2] >= 128  # of one size, each 64 wide
    with pytest.raises(ValueError, match=r"Found before of shape \(2, 40.*expected \(1 or 3"):
        nodes.compare.execute(before.expand(2, -1, -1, -1), torch.rand(3, 40, 60, 3))


def test_a_video_is_compared_by_a_few_frames_in_their_order(nodes: SimpleNamespace) -> None:
    before = torch.linspace(0.1, 0.9, 24)[:, None, None, None].expand(24, 40, 160, 3)
    after = torch.full((1, 40, 160, 3), 1.0)

    def shown(**options: int) -> list[int]:
        """Which frames are on the sheets, by their grey."""
        sheets = values(nodes.compare.execute(before, after, "noise 97%", **options))
        greys = (before[:, 0, 0, 0] * 255).round() / 255
        counts = (sheets[..., None, :] == greys[:, None]).all(-1).sum((1, 2))
        assert all(count.max() >= 40 * 160 for count in counts)
        return [int(count.argmax()) for count in counts]

    assert shown() == [0, 12, 23]
    assert shown(frames=2) == [0, 23] and shown(frames=1) == [0]
    assert shown(frames=0) == shown(frames=24) == shown(frames=100) == [*range(24)]
    few = values(nodes.compare.execute(before, after))
    some = values(nodes.compare.execute(before[:3], after))
    assert few.shape[1] > some.shape[1]  # the frame is named where some are left out
    with pytest.raises(ValueError, match="frames is -1; expected a number from 0"):
        nodes.compare.execute(before, after, frames=-1)


def test_a_sentence_in_parts_is_chained_and_shown(nodes: SimpleNamespace) -> None:
    restorer = values(nodes.load.execute("tiny.safetensors"))
    restorer.restorer.reader = WordReader()
    rain = values(nodes.encode.execute(restorer, "the rain", "from text"))
    text = "first brighten it, then remove the noise"
    output = nodes.encode.execute(restorer, text, "from text", previous=rain)
    assert [i.task for i in output.values[0]] == ["rain", "lol", "noise"]
    assert output.ui["text"][0] == output.values[1]
    assert output.values[1].splitlines() == [
        "1. low light 96%: brighten it",
        "2. noise 96%: remove the noise",
    ]


def test_what_asks_for_nothing_gives_back_the_image(nodes: SimpleNamespace, fake: FakeHost) -> None:
    restorer = values(nodes.load.execute("tiny.safetensors"))
    restorer.restorer.reader = WordReader(name="tiny")
    output = nodes.encode.execute(restorer, "good morning", "from text")
    assert "Restore Image leaves the picture as it is." in output.ui["text"][0]
    image = torch.rand(2, 20, 31, 4)
    result = nodes.restore.execute(image, 1.0, restorer, values(output))
    assert values(result) is image and "'good morning'" in result.ui["text"][0]
    assert not fake.loads


@pytest.mark.parametrize(
    ("sentence", "line"),
    [
        ("remove the noise", "noise 96%"),
        ("first brighten it, then remove the noise", "low light 96%, then noise 96%"),
        ("去噪", "噪点 96%"),
        ("去除雜訊，噪點太多", "雜訊 96%"),
        ("ノイズを取って", "ノイズ 96%"),
        ("노이즈 제거", "노이즈 96%"),
        ("good morning", "Nothing to restore in these words: say what is wrong."),
        ("早上好", "这句话里没有要修复的内容：请说出哪里不好。"),
    ],
)
def test_one_line_in_the_language_of_the_sentence(
    nodes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, sentence: str, line: str
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(nodes.host, "show_text", lambda node, text: shown.append(text))
    restorer = values(nodes.load.execute("tiny.safetensors"))
    restorer.restorer.reader = WordReader()
    nodes.encode.execute(restorer, sentence, "from text")
    assert shown == [line]
    nodes.encode.execute(restorer, "", "remove noise")
    assert shown[1] == "Preset remove noise: noise 96%"


def test_every_line_fits_and_has_words_for_everything(nodes: SimpleNamespace) -> None:
    line = sys.modules["installed_pack.nodes.line"]
    for words in line.WORDS.values():
        assert set(words.tasks) == {*TASKS, "none"}
        assert set(words.advice) == {"language", "nothing", "several", "unsure"}
        assert all(len(advice.format("")) <= line.LONGEST for advice in words.advice.values())
    restorer = values(nodes.load.execute("tiny.safetensors"))
    restorer.restorer.reader = WordReader()
    for sentence in ("noise, rain, fog, colours and it is dark", "the noise and the rain"):
        parts = restorer.restorer.read(sentence)
        assert len(line.one_line(sentence, parts, "brighten dark photo")) <= line.LONGEST


def test_empty_text_is_said_before_anything_runs(nodes: SimpleNamespace) -> None:
    assert "instruction is empty; expected" in nodes.encode.validate_inputs("  \n", "from text")
    assert nodes.encode.validate_inputs("", "remove noise") is True
    assert nodes.encode.validate_inputs(None, "from text") is True  # from another node
    assert nodes.encode.validate_inputs("", None) is True
    assert "no preset 'cat'" in nodes.encode.validate_inputs("x", "cat")
