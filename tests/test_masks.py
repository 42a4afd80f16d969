"""Masks against what they should select, and pictures whose transparency hides other colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from instructir_core.cli import main
from instructir_core.masks import fill_hidden, fit_mask, is_empty


@pytest.mark.parametrize(
    ("shape", "frames"),
    [((20, 30), 1), ((20, 30), 5), ((1, 20, 30), 5), ((5, 20, 30), 5), ((5, 1, 20, 30), 5),
     ((5, 20, 30, 1), 5), ((1, 5, 20, 30), 5), ((1, 1, 20, 30), 5), ((1, 20, 30, 1), 1)],
)  # fmt: skip
def test_masks_of_the_right_size(shape: tuple[int, ...], frames: int) -> None:
    mask = torch.rand(shape)
    fitted, note = fit_mask(mask, frames, 20, 30)
    assert note is None and len(fitted) in (1, frames)
    assert torch.equal(fitted, mask.reshape(-1, 20, 30, 1))


def test_masks_of_another_size_are_resized_where_the_aspect_agrees() -> None:
    mask = torch.zeros(1, 40, 60)
    mask[:, :, 30:] = 1.0
    fitted, note = fit_mask(mask, 1, 20, 30)
    assert note == "The mask was resized from 60 x 40 to 30 x 20."
    assert fitted.shape == (1, 20, 30, 1)
    assert (fitted[:, :, :14] == 0).all() and (fitted[:, :, 16:] == 1).all()
    assert fit_mask(torch.ones(101, 150), 1, 200, 300)[1] is not None  # within 2 %
    for odd in ((105, 150), (30, 20)):
        with pytest.raises(ValueError, match=f"{odd[1]} x {odd[0]} pixels; expected 300 x 200"):
            fit_mask(torch.ones(odd), 1, 200, 300)
    with pytest.raises(ValueError, match=r"shape \(3, 20, 30\); expected .*\(5, 20, 30\)"):
        fit_mask(torch.ones(3, 20, 30), 5, 20, 30)


def test_empty_masks() -> None:
    assert is_empty(torch.zeros(2, 3)) and is_empty(torch.full((2, 3), 0.0039))
    assert not is_empty(torch.tensor([0.0, 0.02]))


def cut_out(hidden: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(45, 70, 3, generator=generator) / 4 + 0.5
    alpha = torch.zeros(45, 70)
    alpha[10:30, 5:40] = torch.rand(20, 35, generator=generator)
    pixels[alpha == 0] = hidden
    return pixels, alpha


def test_hidden_colours_come_from_the_visible_neighbourhood() -> None:
    pixels, alpha = cut_out(0.0)
    kept = pixels.clone()
    filled = fill_hidden(pixels, alpha)
    assert torch.equal(filled, fill_hidden(*cut_out(1.0))) and torch.equal(pixels, kept)
    assert torch.equal(filled[alpha > 0], pixels[alpha > 0])
    assert filled[alpha == 0].min() >= 0.5 and filled[alpha == 0].max() <= 0.75
    # One colour to the left and another to the right: each goes on at its side.
    pixels = torch.rand(8, 64, 3)
    pixels[:, 8:16], pixels[:, 48:56] = 0.2, 0.9
    alpha = torch.zeros(8, 64)
    alpha[:, 8:16] = alpha[:, 48:56] = 1.0
    filled = fill_hidden(pixels, alpha)
    assert (filled[:, :8] - 0.2).abs().max() < 0.1 and (filled[:, 56:] - 0.9).abs().max() < 0.1
    for nothing in (torch.zeros(8, 64), torch.ones(8, 64)):
        assert torch.equal(fill_hidden(pixels, nothing), pixels)


def test_two_cut_outs_that_look_alike_stay_alike(weights: Path, tmp_path: Path) -> None:
    results = []
    for name, hidden in (("a", 0.0), ("b", 1.0)):
        pixels, alpha = cut_out(hidden)
        rgba = np.rint(torch.cat([pixels, alpha[..., None]], -1).numpy() * 255).astype(np.uint8)
        Image.fromarray(rgba).save(tmp_path / f"{name}.png")
        command = ["restore", f"{tmp_path}/{name}.png", "-o", f"{tmp_path}/{name}-out.png"]
        assert main([*command, "-i", "fix it", "--model", str(weights), "--device", "cpu"]) == 0
        result = np.asarray(Image.open(tmp_path / f"{name}-out.png"))
        seen = rgba[..., 3] > 0
        np.testing.assert_array_equal(result[~seen], rgba[~seen])
        assert not np.array_equal(result[seen], rgba[seen])
        results.append(result[seen])
    np.testing.assert_array_equal(*results)
