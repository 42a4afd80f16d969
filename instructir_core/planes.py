"""The planes of a video frame, and RGB pictures: how the values of a pixel format lie, and what
they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    import av

_LUMA = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Weights of red and blue in luma, by FFmpeg's number of the colour space; the others' are those
of BT.601."""
_HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}
"""FFmpeg's numbers of transfer curves that are not what the network was trained on."""


@dataclass(frozen=True)
class Layout:
    """How the values of a pixel format lie, and what they mean."""

    format: str
    width: int
    height: int
    bits: int
    rgb: bool
    """Planes are green, blue and red, instead of luma and two of chroma, or of luma alone."""
    full: bool
    """Values use all of their bits; else luma is 16 to 235 and chroma 16 to 240 of 255."""
    red: float
    blue: float
    """Their weights in luma."""

    @classmethod
    def of(cls, frame: av.VideoFrame, path: Path) -> Layout:
        """That of a frame; ValueError for what would not be kept."""
        kind = frame.format
        transfer = _HIGH_DYNAMIC_RANGE.get(int(frame.color_trc))
        if transfer:
            raise ValueError(
                f"{path}: found high dynamic range ({transfer}); expected the range of an ordinary "
                "display, on which the network was trained. Tone-map it first, with ffmpeg."
            )
        bits = {component.bits for component in kind.components}
        planes = len(frame.planes)
        plain = planes == len(kind.components) and planes in (1, 3) and len(bits) == 1
        if not plain or kind.has_palette or kind.is_big_endian or kind.is_bit_stream:
            raise ValueError(
                f"{path}: found the pixel format {kind.name}; expected planes of YUV, RGB or grey "
                "without transparency, such as yuv420p or yuv420p10le. Convert the file with "
                "ffmpeg -pix_fmt yuv420p."
            )
        # Untagged video is BT.709 from 720 rows on and BT.601 below, by what players assume.
        space = int(frame.colorspace)
        if space == 2:
            space = 1 if frame.height >= 720 else 6
        red, blue = _LUMA.get(space, (0.299, 0.114))
        full = int(frame.color_range) == 2 or kind.name.startswith("yuvj") or kind.is_rgb
        return cls(
            kind.name, frame.width, frame.height, bits.pop(), bool(kind.is_rgb), full, red, blue
        )

    @property
    def _type(self) -> type[np.unsignedinteger[Any]]:
        return np.uint8 if self.bits == 8 else np.uint16

    def read(self, frame: av.VideoFrame) -> list[Tensor]:
        """The planes as (h, w) float32, in the file's own values."""
        planes = []
        for plane in frame.planes:
            rows = np.frombuffer(plane, self._type).reshape(plane.height, -1)[:, : plane.width]
            planes.append(torch.from_numpy(rows.astype(np.float32)))
        return planes

    def write(self, planes: Sequence[Tensor]) -> av.VideoFrame:
        """A new frame of such planes, rounded and kept within the bits."""
        import av

        frame = av.VideoFrame(self.width, self.height, self.format)
        for values, plane in zip(planes, frame.planes, strict=True):
            per_row = plane.line_size // np.dtype(self._type).itemsize
            rows = np.zeros((plane.height, per_row), self._type)
            rounded = values.round().clamp(0, 2**self.bits - 1)
            rows[:, : plane.width] = rounded.cpu().numpy().astype(self._type)
            plane.update(rows.tobytes())
        return frame

    def to_rgb(self, planes: Sequence[Tensor]) -> Tensor:
        """(H, W, 3) in [0, 1]."""
        if self.rgb:
            green, blue, red = (plane / (2**self.bits - 1) for plane in planes)
            return torch.stack([red, green, blue], -1)
        luma = (planes[0] - self._black) / self._range(235 - 16)
        if len(planes) == 1:
            return luma.clamp(0, 1)[..., None].expand(-1, -1, 3)
        u, v = (
            F.interpolate(
                (plane - self._middle)[None, None], (self.height, self.width), mode="bilinear"
            )[0, 0] / self._range(240 - 16)
            for plane in planes[1:]
        )  # fmt: skip
        red = luma + 2 * (1 - self.red) * v
        blue = luma + 2 * (1 - self.blue) * u
        green = (luma - self.red * red - self.blue * blue) / (1 - self.red - self.blue)
        return torch.stack([red, green, blue], -1).clamp(0, 1)

    def changed(self, planes: Sequence[Tensor], before: Tensor, after: Tensor) -> list[Tensor]:
        """The planes plus what was changed between two (H, W, 3) pictures."""
        red, green, blue = (after.cpu() - before.cpu()).unbind(-1)
        if self.rgb:
            scale = 2**self.bits - 1
            changes = [green * scale, blue * scale, red * scale]
            return [plane + change for plane, change in zip(planes, changes, strict=True)]
        luma = self.red * red + (1 - self.red - self.blue) * green + self.blue * blue
        result = [planes[0] + luma * self._range(235 - 16)]
        chroma = ((blue - luma) / (2 - 2 * self.blue), (red - luma) / (2 - 2 * self.red))
        for plane, change in zip(planes[1:], chroma, strict=False):
            small = F.interpolate(change[None, None], plane.shape, mode="area")[0, 0]
            result.append(plane + small * self._range(240 - 16))
        return result

    def _range(self, limited: int) -> float:
        """Values from least to most, ``limited`` being that of 8 bits."""
        return float(2**self.bits - 1) if self.full else float(limited * 2 ** (self.bits - 8))

    @property
    def _black(self) -> float:
        return 0.0 if self.full else 16.0 * 2 ** (self.bits - 8)

    @property
    def _middle(self) -> float:
        return float(2 ** (self.bits - 1))
