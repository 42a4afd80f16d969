"""Restoring: shapes, chains, strength, mask, tiles, progress, and input that must be refused."""

from __future__ import annotations

import copy
import gc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import TINY, fill, tiny_parts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from instructir_core import Restorer, memory, strips
from instructir_core.model import InstructIR, NetworkConfig
from instructir_core.tiles import run_tiled, tile_starts


def by_hand(restorer: Restorer, image: Tensor, embedding: Tensor) -> Tensor:
    """The contract written down: the picture mirrored, the network's forward, cropped, clamped."""
    height, width = image.shape[:2]
    multiple = restorer.network.config.multiple
    padding = [(0, -height % multiple), (0, -width % multiple), (0, 0)]
    modes = [
        "reflect" if n > after else "edge"
        for n, (_, after) in zip((height, width), padding[:2], strict=True)
    ]
    pixels = np.pad(image.numpy(), [padding[0], (0, 0), (0, 0)], modes[0])
    pixels = np.pad(pixels, [(0, 0), padding[1], (0, 0)], modes[1])
    with torch.no_grad():
        result = restorer.network(torch.from_numpy(pixels).permute(2, 0, 1)[None], embedding)
    return result[0].permute(1, 2, 0)[:height, :width].clamp(0, 1)


def test_equals_the_plain_forward(restorer: Restorer, picture: Tensor) -> None:
    instruction = restorer.encode("remove the rain")
    restored = restorer.restore(picture, instruction)
    assert restored.shape == picture.shape and restored.dtype == torch.float32
    assert not restored.requires_grad
    expected = by_hand(restorer, picture, instruction.embedding)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    assert (restored - picture).abs().max() > 0.01


def test_batch_equals_its_frames(restorer: Restorer, picture: Tensor) -> None:
    batch = torch.stack([picture, 1 - picture, picture / 2])
    instruction = restorer.encode("remove the rain")
    restored = restorer.restore(batch, instruction)
    for one, many in zip(batch, restored, strict=True):
        assert torch.equal(restorer.restore(one, instruction), many)


def test_instructions_apply_in_order(restorer: Restorer, picture: Tensor) -> None:
    first, second = restorer.encode("remove the rain"), restorer.encode("zzz qq, brighten!")
    chained = restorer.restore(picture, [first, second])
    step = restorer.restore(picture, first)
    assert torch.equal(chained, restorer.restore(step, second))
    assert not torch.equal(chained, restorer.restore(picture, [second, first]))


def test_strength_blends(restorer: Restorer, picture: Tensor) -> None:
    instruction = restorer.encode("remove the rain")
    full = restorer.restore(picture, instruction)
    half = restorer.restore(picture, instruction, strength=0.5)
    torch.testing.assert_close(half, (picture + full) / 2, atol=1e-6, rtol=0)


def test_nothing_to_do_skips_the_network(
    restorer: Restorer, picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    instruction = restorer.encode("remove the rain")
    monkeypatch.setattr(restorer, "network", None)
    monkeypatch.setattr(Restorer, "_embeddings", lambda *_: [instruction.embedding])
    for options in ({"strength": 0.0}, {"mask": torch.zeros(37, 50)}):
        result = restorer.restore(picture, instruction, **options)
        assert torch.equal(result, picture)
        assert result.data_ptr() != picture.data_ptr()


def test_mask_with_soft_edges(restorer: Restorer, picture: Tensor) -> None:
    instruction = restorer.encode("remove the rain")
    full = restorer.restore(picture, instruction)
    mask = torch.linspace(0, 1, 50).expand(37, 50)
    result = restorer.restore(picture, instruction, mask=mask, strength=0.5)
    weight = 0.5 * mask[..., None]
    torch.testing.assert_close(result, picture + weight * (full - picture), atol=1e-6, rtol=0)
    batch = picture.expand(2, -1, -1, -1)
    per_frame = torch.stack([torch.ones(37, 50), torch.zeros(37, 50)])
    result = restorer.restore(batch, instruction, mask=per_frame)
    assert torch.equal(result[0], full) and torch.equal(result[1], picture)


def test_input_is_not_changed(restorer: Restorer, picture: Tensor) -> None:
    kept = picture.clone()
    restorer.restore(picture, restorer.encode("remove the rain"))
    assert torch.equal(picture, kept)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (17, 3), (2, 300), (15, 15), (64, 48), (61, 130)]
)
@pytest.mark.parametrize("config", [TINY, NetworkConfig(8, (1, 1, 1, 1), 1, (1, 1, 1, 1))])
@pytest.mark.parametrize("strip", [1, 1 << 30])
def test_any_size_is_mirrored(size: tuple[int, int], config: NetworkConfig, strip: int) -> None:
    restorer = Restorer(fill(InstructIR(config)))
    image = torch.rand(*size, 3, generator=torch.Generator().manual_seed(0))
    embedding = torch.ones(1, 256) / 16
    plan = replace(restorer.plan(*size), strip=strip)
    result = restorer.restore(image, embedding, plan=plan)
    expected = by_hand(restorer, image, embedding)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_tiles_are_mirrored_too(restorer: Restorer) -> None:
    image, embedding = torch.rand(67, 67, 3), torch.ones(1, 256) / 16
    result = restorer.restore(image, embedding, tile_size=66, overlap=0)
    # A last tile lies flush with the border, over the first: only the corner is one tile's alone.
    expected = by_hand(restorer, image[:66, :66], embedding)
    torch.testing.assert_close(result[0, 0], expected[0, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_come_back_as_float32(restorer: Restorer, dtype: torch.dtype) -> None:
    image = torch.rand(20, 20, 3).to(dtype)
    result = restorer.restore(image, torch.ones(1, 256) / 16)
    assert result.dtype == torch.float32
    assert torch.equal(result, restorer.restore(image.float(), torch.ones(1, 256) / 16))


def test_strided_and_gradient_input(restorer: Restorer, picture: Tensor) -> None:
    instruction = restorer.encode("remove the rain")
    flipped = picture.permute(1, 0, 2)
    assert torch.equal(
        restorer.restore(flipped, instruction),
        restorer.restore(flipped.contiguous(), instruction),
    )
    assert not restorer.restore(picture.clone().requires_grad_(), instruction).requires_grad


def frames_with(index: int, value: float) -> Tensor:
    frames = torch.rand(5, 8, 8, 3)
    frames[index, 2, 3, 1] = value
    return frames


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((8, 8, 3), float("nan")), "Found NaN or infinity among the pixels; "),
        (frames_with(3, float("inf")), "NaN or infinity among the pixels in frame 4 of 5"),
        (frames_with(1, 80.0), "to 80 in frame 2 of 5.*Tone-map"),
        (torch.rand(8, 8, 3) * 255, "Divide 8-bit values by 255"),
        (torch.randint(0, 3, (8, 8, 3)).float() * 2, "Divide 8-bit values by 255"),
        (torch.rand(8, 8, 3) - 4, "Tone-map .* or clamp"),
        (torch.rand(8, 8, 3) * 1000, "Tone-map"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "Divide bytes by 255"),
        (torch.rand(3, 8, 8), r"shape \(3, 8, 8\)"),
        (torch.rand(0, 8, 3), r"shape \(0, 8, 3\)"),
        (torch.rand(8, 8), r"shape \(8, 8\)"),
        (np.zeros((8, 8, 3)), "type ndarray"),
    ],
)
def test_bad_images(restorer: Restorer, images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restorer.restore(images, torch.ones(1, 256) / 16)


def test_bad_options(restorer: Restorer, picture: Tensor) -> None:
    ok = torch.ones(1, 256) / 16
    for options, message in (
        ({"strength": 1.5}, "strength is 1.5"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": None}, "strength is None"),
        ({"mask": torch.ones(5, 5)}, "mask of 5 x 5 pixels; expected 50 x 37"),
        ({"mask": torch.ones(2, 37, 50)}, r"mask of shape \(2, 37, 50\).*\(1, 37, 50\)"),
        ({"plan": restorer.plan(50, 37)}, r"plan for 37 x 50 pixels; expected one for 50 x 37"),
        ({"mask": torch.full((37, 50), float("nan"))}, "NaN or infinity in the mask"),
        ({"tile_size": 8}, "tile_size is 8"),
        ({"tile_size": 64, "overlap": 60}, "overlap is 60"),
    ):
        with pytest.raises(ValueError, match=message):
            restorer.restore(picture, ok, **options)
    for instruction, message in (
        (torch.ones(1, 255), r"shape \(1, 255\)"),
        (ok * float("nan"), "finite"),
        ("remove the rain", "restorer.encode"),
        (["remove the rain"], "restorer.encode"),
    ):
        with pytest.raises(ValueError, match=message):
            restorer.restore(picture, instruction)


def test_no_instruction_gives_back_the_picture(restorer: Restorer, picture: torch.Tensor) -> None:
    kept, batch = picture.clone(), picture[None].expand(3, -1, -1, -1)
    assert restorer.restore(picture, []) is picture and restorer.restore(batch, ()) is batch
    assert torch.equal(picture, kept)
    with pytest.raises(ValueError, match="strength is 2"):
        restorer.restore(picture, [], strength=2)
    frames = [*restorer.restore_frames([picture, picture], [])]
    assert all(frame is picture for frame in frames) and len(frames) == 2


class Handle:
    """What a host hangs on a module it manages: memory of its own, to be freed once."""

    freed = 0

    def __deepcopy__(self, memo: object) -> Handle:
        raise AssertionError("a handle of the host was copied")

    __copy__ = __deepcopy__  # type: ignore[assignment]
    __reduce__ = __deepcopy__  # type: ignore[assignment]

    def __del__(self) -> None:
        Handle.freed += 1


def test_half_precision_that_overflows_is_run_again(
    picture: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    network = tiny_parts()[0]
    with torch.no_grad():
        network.intro.weight *= 1e5  # fits float16, its results do not
    embedding = torch.ones(1, 256) / 16
    half = Restorer(network, dtype=torch.float16)
    exact = Restorer(copy.deepcopy(network).float())
    network.dynamic_pins = Handle()  # type: ignore[assignment]
    network.intro.dynamic_vbar = Handle()  # type: ignore[assignment]
    Handle.freed = 0
    for _ in range(2):
        assert torch.equal(half.restore(picture, embedding), exact.restore(picture, embedding))
    assert "run again in float32" in caplog.text and Handle.freed == 0
    assert next(half.network.parameters()).dtype == torch.float16
    half.network.to("meta")  # unloaded
    del half, network
    gc.collect()
    assert Handle.freed == 2


def test_a_plan_is_carried_out_as_it_is(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, embedding = torch.rand(130, 70, 3), torch.ones(1, 256) / 16
    plan = restorer.plan(130, 70, tile_size=64)
    expected = restorer.restore(image, embedding, tile_size=64)
    monkeypatch.setattr(Restorer, "plan", None)
    assert torch.equal(restorer.restore(image, embedding, plan=plan), expected)
    tried = []

    def short(network: object, image: Tensor, *_: object, **__: object) -> Tensor:
        tried.append(image.shape)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(strips, "run", short)
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory\."):
        restorer.restore(image, embedding, plan=plan)
    assert len(tried) == 1


def test_result_is_exact_until_two_feature_maps_do_not_fit(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = torch.rand(100, 61, 3, generator=torch.Generator().manual_seed(0))
    embedding = torch.ones(1, 256) / 16
    exact = restorer.restore(image, embedding)
    maps = restorer.plan(100, 61).maps
    assert maps == 2 * 8 * 4 * 100 * 64
    strips = set()
    for free in (1 << 40, 2 * maps, maps + maps // 2, maps + maps // 20, maps + 100, maps):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        result = restorer.restore(image, embedding)
        torch.testing.assert_close(result, exact, atol=1e-5, rtol=0)
        strips.add(restorer.plan(100, 61, free=free).rows)
    assert len(strips) >= 4 and min(strips) == 2 and not caplog.records
    for free in (maps - 1, maps // 2, maps // 4, 0):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        result = restorer.restore(image, embedding)
        assert "Memory is short" in caplog.text and "not exact" in caplog.text
        caplog.clear()
        tile = restorer.plan(100, 61, free=free).tile
        assert tile is not None and 64 <= tile < 100
        assert torch.equal(result, restorer.restore(image, embedding, tile_size=tile))
        assert not torch.equal(result, exact)


class OutOfMemory(TorchDispatchMode):
    """Makes the operations at given places run out of memory."""

    def __init__(self, places: set[int], error: type[Exception]) -> None:
        super().__init__()
        self.places, self.error, self.done = places, error, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.done += 1
        if self.done in self.places:
            raise self.error("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return function(*args, **(kwargs or {}))


def test_out_of_memory_anywhere_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 seeded failures of one or several allocations: a right result or a clear error."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # hundreds of times, it takes minutes
    monkeypatch.setattr(memory, "SMALLEST_RETRY", 64)  # and smaller pictures go through it all
    restorer = Restorer(fill(InstructIR(NetworkConfig(8, (1,), 1, (1,)))))
    image = torch.rand(1, 72, 8, 3, generator=torch.Generator().manual_seed(0))
    embedding = torch.ones(1, 256) / 16
    exact = restorer.restore(image, embedding)
    tiled = restorer.restore(image, embedding, tile_size=64)
    with OutOfMemory(set(), RuntimeError) as counted:
        restorer.restore(image, embedding)
    rng, ends = np.random.default_rng(0), Counter[str]()
    for trial in range(200):
        error = (torch.OutOfMemoryError, RuntimeError, MemoryError)[trial % 3]
        first = int(rng.integers(1, counted.done + 1))
        places = set(range(first, first + 1 + 400 * int(rng.integers(0, 3))))
        try:
            with OutOfMemory(places, error):
                result = restorer.restore(image, embedding)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as found:
            assert "memory" in str(found)
            ends["error"] += 1
        else:
            same = torch.allclose(result, exact, atol=1e-5, rtol=0)
            assert same or torch.allclose(result, tiled, atol=1e-5, rtol=0)
            ends["exact" if same else "tiled"] += 1
        if trial % 20 == 0:
            assert torch.equal(restorer.restore(image, embedding), exact)
    assert torch.equal(restorer.restore(image, embedding), exact)
    assert min(ends[end] for end in ("exact", "error")) > 5, ends


def test_foreign_instructions_are_warned_about(
    restorer: Restorer, picture: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    instruction = restorer.encode("remove the rain")
    restorer.restore(picture, instruction)
    assert not caplog.records
    restorer.name = "other"
    restorer.restore(picture, instruction)
    assert "was encoded by 'tiny'" in caplog.text


def test_progress_and_stop(restorer: Restorer) -> None:
    instruction = torch.ones(1, 256) / 16
    calls: list[tuple[int, int]] = []
    batch = torch.rand(2, 70, 130, 3)
    restorer.restore(
        batch, [instruction, instruction], tile_size=64, overlap=8,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    total = 2 * 2 * 2 * 3 * 9  # frames, instructions, rows and columns of tiles, blocks
    assert calls == [(i + 1, total) for i in range(total)]

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        restorer.restore(batch, instruction, progress=stop)


def test_tiles_cover_and_blend_without_seams() -> None:
    image = torch.rand(1, 3, 150, 97, dtype=torch.float64)
    seen: list[tuple[int, ...]] = []

    def run(tile: Tensor) -> Tensor:
        seen.append(tuple(tile.shape[2:]))
        return tile * 0.5

    result = run_tiled(run, image, 64, 16)
    torch.testing.assert_close(result, image * 0.5)
    assert set(seen) == {(64, 64)}  # the last tiles too are of full size
    assert tile_starts(150, 64, 16) == [0, 48, 86]
    assert tile_starts(64, 64, 16) == [0]


def test_one_tile_is_the_whole(restorer: Restorer, picture: Tensor) -> None:
    instruction = restorer.encode("remove the rain")
    whole = restorer.restore(picture, instruction)
    assert torch.equal(restorer.restore(picture, instruction, tile_size=64), whole)


def test_what_asks_for_nothing_returns_the_very_picture(
    restorer: Restorer, picture: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    rain = restorer.encode("remove the rain")
    shares = dict.fromkeys(rain.probabilities, 0.5 / 7) | {"none": 0.5}
    nothing = replace(rain, text="hello", task="none", probabilities=shares)
    kept = picture.clone()
    for options in ({}, {"strength": 0.5}, {"mask": torch.ones(37, 50)}):
        assert restorer.restore(picture, nothing, **options) is picture
        assert restorer.restore(picture, [nothing, nothing], **options) is picture
    assert torch.equal(picture, kept) and "'hello': the picture is left as it is" in caplog.text
    # Beside others it is left out, below one half it runs, and a bare embedding always does.
    expected = restorer.restore(picture, rain)
    doubted = replace(nothing, task="rain", probabilities={**shares, "none": 0.49})
    for chain in ([nothing, rain, nothing], doubted, nothing.embedding):
        assert torch.equal(restorer.restore(picture, chain), expected)
    with pytest.raises(ValueError, match="strength is 2"):
        restorer.restore(picture, nothing, strength=2)


def test_read_gives_parts_that_restore_takes(restorer: Restorer, picture: torch.Tensor) -> None:
    parts = restorer.read("remove the rain, then brighten it")
    assert parts and all(part.model == "tiny" for part in parts)
    assert restorer.restore(picture, parts).shape == picture.shape
    with pytest.raises(ValueError, match="no instruction head and text encoder"):
        Restorer(restorer.network, None, "bare").read("remove the rain")
