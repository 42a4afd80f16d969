"""Masks that fit their pictures, and pictures without the colours that transparency hides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EMPTY = 0.01
"""A mask that is nowhere above this restores nothing; some decoders give 0.004 for "none"."""
ASPECT = 0.02
"""By how much the aspect of a mask may differ from that of the picture it is resized to."""


def fit_mask(mask: Tensor, frames: int, height: int, width: int) -> tuple[Tensor, str | None]:
    """(H, W), (B, H, W), or either with one axis of 1 more -> (1 or B, H, W, 1) in [0, 1].

    A mask of another size is resized where its aspect is that of the picture; the second value is
    a sentence that says so, or None. Raises ValueError for other sizes, another number than 1 or
    ``frames``, and values that are not finite.
    """
    if not isinstance(mask, Tensor) or mask.dtype == torch.bool:
        mask = torch.as_tensor(mask, dtype=torch.float32)
    several = mask.detach()
    if several.ndim == 4:  # (B, 1, H, W) or (B, H, W, 1), as pictures are
        several = several.squeeze(next((axis for axis in (1, 3, 0) if mask.shape[axis] == 1), 1))
    if several.ndim == 2:
        several = several[None]
    if several.ndim != 3 or len(several) not in (1, frames) or not several.numel():
        raise ValueError(
            f"Found a mask of shape {tuple(mask.shape)}; expected ({height}, {width}) or "
            f"({frames}, {height}, {width}), one for all pictures or one for each. Choose one mask."
        )
    if not torch.isfinite(several).all():
        raise ValueError("Found NaN or infinity in the mask; expected 0 (keep) to 1 (restore).")
    several = several.float().clamp(0.0, 1.0)
    note, found = None, several.shape[1:]
    if found != (height, width):
        if abs(found[1] * height / (found[0] * width) - 1.0) > ASPECT:
            raise ValueError(
                f"Found a mask of {found[1]} x {found[0]} pixels; expected {width} x {height}, the "
                "size of the picture, or its aspect. Resize the mask, or draw it on this picture."
            )
        note = f"The mask was resized from {found[1]} x {found[0]} to {width} x {height}."
        several = F.interpolate(several[:, None], (height, width), mode="bilinear", antialias=True)[
            :, 0
        ].clamp(0.0, 1.0)
    return several[..., None], note


def is_empty(mask: Tensor) -> bool:
    """Whether a mask selects nothing."""
    return bool(mask.max() < EMPTY)


def fill_hidden(pixels: Tensor, alpha: Tensor) -> Tensor:
    """(H, W, 3) and its (H, W) alpha -> the same with other colours where alpha is 0.

    What a cut-out hides may be anything, and the network would see it: it judges haze, light and
    colour by averages over the whole picture. So it is filled from the visible neighbourhood, by
    means over ever larger squares (the "pull, push" of Gortler et al., The Lumigraph, SIGGRAPH
    1996). Where nothing is visible the picture is returned as it is.
    """
    visible = (alpha > 0).float()[None, None]
    if bool(visible.all()) or not bool(visible.any()):
        return pixels
    colour = pixels.detach().float().permute(2, 0, 1)[None] * visible
    levels = []
    while not bool(visible.all()):
        levels.append((colour, visible))
        weight = F.avg_pool2d(visible, 2, ceil_mode=True)
        colour = F.avg_pool2d(colour * visible, 2, ceil_mode=True) / weight.clamp(min=1e-9)
        visible = (weight > 0).float()
    for finer, known in reversed(levels):
        size = finer.shape[-2:]
        wide = F.interpolate(colour, size, mode="bilinear", align_corners=False)
        colour = torch.where(known > 0, finer, wide)
    filled = colour[0].permute(1, 2, 0).to(pixels.dtype)
    return torch.where((alpha > 0)[..., None], pixels, filled)
