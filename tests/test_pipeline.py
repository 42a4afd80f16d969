"""Restoring: shapes, chains, strength, mask, tiles, progress, and input that must be refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_model import tiny_parts
from torch import Tensor

from instructir_core import Restorer, bounded
from instructir_core.tiles import run_tiled, tile_starts


def by_hand(restorer: Restorer, image: Tensor, embedding: Tensor) -> Tensor:
    """The contract written down: network on (1, 3, H, W), clamped."""
    with torch.no_grad():
        return (
            restorer.network(image.permute(2, 0, 1)[None], embedding)[0]
            .permute(1, 2, 0)
            .clamp(0, 1)
        )


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


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 3)])
def test_odd_sizes(restorer: Restorer, size: tuple[int, int]) -> None:
    result = restorer.restore(torch.rand(*size, 3), torch.ones(1, 256) / 16)
    assert result.shape == (*size, 3) and result.isfinite().all()


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


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((8, 8, 3), float("nan")), "Found NaN or infinity"),
        (torch.rand(8, 8, 3) * 255, "Divide 8-bit values by 255"),
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
        ({"mask": torch.ones(5, 5)}, r"mask of shape \(5, 5\).*\(37, 50\)"),
        ({"mask": torch.full((37, 50), float("nan"))}, "NaN or infinity in the mask"),
        ({"tile_size": 8}, "tile_size is 8"),
        ({"tile_size": 64, "overlap": 60}, "overlap is 60"),
    ):
        with pytest.raises(ValueError, match=message):
            restorer.restore(picture, ok, **options)
    for instruction, message in (
        ([], "empty list"),
        (torch.ones(1, 255), r"shape \(1, 255\)"),
        (ok * float("nan"), "finite"),
        ("remove the rain", "restorer.encode"),
        (["remove the rain"], "restorer.encode"),
    ):
        with pytest.raises(ValueError, match=message):
            restorer.restore(picture, instruction)


def test_half_precision_that_overflows_is_run_again(
    picture: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    network = tiny_parts()[0]
    with torch.no_grad():
        network.intro.weight *= 1e5  # fits float16, its results do not
    embedding = torch.ones(1, 256) / 16
    half = Restorer(network, dtype=torch.float16)
    exact = Restorer(copy.deepcopy(network).float())
    assert torch.equal(half.restore(picture, embedding), exact.restore(picture, embedding))
    assert "run again in float32" in caplog.text


def test_short_memory_takes_tiles_with_a_warning(
    restorer: Restorer,
    picture: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    large = picture.repeat(3, 3, 1)
    embedding = torch.ones(1, 256) / 16
    exact = restorer.restore(large, embedding)
    monkeypatch.setattr(bounded, "free_memory", lambda device: 1000)
    tiled = restorer.restore(large, embedding)
    assert "Memory is short" in caplog.text
    assert torch.equal(tiled, restorer.restore(large, embedding, tile_size=64))
    assert not torch.equal(tiled, exact)


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
