"""What may be restored, and how: errors that say what was found, what was expected, and the remedy.

Everything is looked at before any work is done.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from .memory import Plan
from .tiles import check_tiles


def check_strength(strength: float) -> None:
    """Raise ValueError unless it is a number from 0 to 1."""
    if not isinstance(strength, Real) or not 0.0 <= float(strength) <= 1.0:
        raise ValueError(f"strength is {strength!r}; expected 0 (unchanged) to 1 (restored).")


def check_plain(value: object, what: str) -> None:
    """Raise ValueError unless it is an ordinary tensor with values in memory."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"Found {what} of type {type(value).__name__}; expected a tensor. Convert it with "
            "torch.as_tensor."
        )
    if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
        raise ValueError(
            f"Found {what} of layout {value.layout} on {value.device}; expected a dense tensor "
            "with values. Call .to_dense() on it, or load it."
        )


def check_images(images: Tensor) -> Tensor:
    """(H, W, 3) or (B, H, W, 3) -> (B, H, W, 3), a view.

    All frames are looked at before any work is done; ValueError names the first bad one.
    """
    expected = "expected (H, W, 3) or (B, H, W, 3) floats in [0, 1]"
    check_plain(images, "images")
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or not images.numel():
        raise ValueError(f"Found images of shape {tuple(images.shape)}; {expected}.")
    if not images.is_floating_point():
        raise ValueError(f"Found images of type {images.dtype}; {expected}. Divide bytes by 255.")
    frames = images.reshape(-1, *images.shape[-3:])
    for index, frame in enumerate(frames.detach()):
        low, high = (float(v) for v in frame.aminmax())
        where = f" in frame {index + 1} of {len(frames)}" if len(frames) > 1 else ""
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"Found NaN or infinity among the pixels{where}; {expected}. A node or a file "
                "before this one failed: look at its result."
            )
        # Decoders and sharpeners overshoot a little, which is clamped; bytes passed as floats
        # and the light of a scene are not.
        if low < -1.0 or high > 2.0:
            raise ValueError(
                f"Found pixels from {low:.3g} to {high:.3g}{where}; {expected}. "
                + (
                    "Divide 8-bit values by 255."
                    if _are_bytes(frame, low, high)
                    else "Tone-map a picture of high dynamic range (EXR, HDR), or clamp it to "
                    "[0, 1]."
                )
            )
    return frames


def _are_bytes(frame: Tensor, low: float, high: float) -> bool:
    """Whether pixels out of range are 8-bit levels, maybe resized, and not the light of a scene,
    of which most lies below 1."""
    whole = torch.equal(frame, frame.round())
    return low >= 0.0 and high <= 255.0 and (whole or float(frame.median()) > 2.0)


def check_options(
    strength: float,
    tile_size: int | None,
    overlap: int | None,
    *,
    plan: Plan | None,
    size: tuple[int, int],
) -> None:
    """Raise ValueError for options that make no sense for a picture of ``size`` (height, width)."""
    check_strength(strength)
    if tile_size is not None:
        check_tiles(tile_size, overlap)
    if plan is not None and (plan.height, plan.width) != size:
        height, width = size
        raise ValueError(
            f"Found a plan for {plan.width} x {plan.height} pixels; expected one for "
            f"{width} x {height}. Make it with restorer.plan({height}, {width})."
        )
