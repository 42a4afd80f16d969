"""What the numbers of a picture mean: ICC profiles and scene-linear light, to sRGB and back.

The network learned from sRGB pictures, so others are converted for it, and what it changed is
converted back. Matrix profiles (ICC.1:2022, section 8.3) are computed in float64; profiles that
only hold tables are carried along and their values taken for sRGB, as without a profile.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Pixels = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

_ROWS = 128
"""Rows that are converted at a time: float64 takes twice the memory."""
_ALIKE = 1 / 255
"""Profiles within one 8-bit step of sRGB count as sRGB."""
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])
REC709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
"""Primaries and white of sRGB as xy pairs, which OpenEXR assumes too."""


@dataclass(frozen=True, eq=False)
class Curve:
    """From stored to linear values: ``(a x + b)^g + e`` from ``d`` on, below it ``c x + f``.

    Or linear interpolation in a ``table``. Negative values are mirrored.
    """

    gamma: float = 1.0
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    f: float = 0.0
    table: Values | None = None

    def decode(self, x: Values) -> Values:
        """Stored -> linear."""
        size = np.abs(x)
        if self.table is not None:
            y = np.interp(size, np.linspace(0, 1, len(self.table)), self.table)
        else:
            power = np.maximum(self.a * size + self.b, 0) ** self.gamma + self.e
            y = np.where(size >= self.d, power, self.c * size + self.f)
        return np.copysign(y, x)

    def encode(self, y: Values) -> Values:
        """Linear -> stored."""
        size = np.abs(y)
        if self.table is not None:
            x = np.interp(size, self.table, np.linspace(0, 1, len(self.table)))
        else:
            power = (np.maximum(size - self.e, 0) ** (1 / self.gamma) - self.b) / self.a
            start = max(self.a * self.d + self.b, 0) ** self.gamma + self.e
            x = np.where(size >= start, power, (size - self.f) / self.c if self.c else 0.0)
        return np.copysign(np.maximum(x, 0), y)

    @property
    def usable(self) -> bool:
        """Whether it rises, so that it can be inverted."""
        y = self.table
        if y is not None:
            return bool(len(y) > 1 and (np.diff(y) > 0).all())
        y = self.decode(np.linspace(0, 1, 256))
        return bool(np.isfinite(y).all() and self.gamma > 0 and self.a > 0 and y[-1] > 0)


SRGB_CURVE = Curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


@dataclass(frozen=True, eq=False)
class Space:
    """A colour space: three curves to linear values, and a matrix from those to linear sRGB."""

    matrix: Values
    curves: tuple[Curve, Curve, Curve]

    def to_srgb(self, pixels: npt.NDArray[Any]) -> Values:
        """(..., 3) stored -> sRGB, unclipped: colours outside of sRGB lie beyond [0, 1]."""
        linear = np.stack([c.decode(pixels[..., i]) for i, c in enumerate(self.curves)], -1)
        return SRGB_CURVE.encode(linear @ self.matrix.T)

    def from_srgb(self, pixels: Values) -> Values:
        """The inverse of `to_srgb`."""
        linear = SRGB_CURVE.decode(pixels) @ np.linalg.inv(self.matrix).T
        return np.stack([c.encode(linear[..., i]) for i, c in enumerate(self.curves)], -1)


def for_network(pixels: Pixels, space: Space | None) -> Pixels:
    """(H, W, 3) as sRGB in [0, 1]; values beyond are clipped."""
    if space is None:
        return pixels
    output = np.empty_like(pixels, order="C")
    for y in range(0, len(pixels), _ROWS):
        block = pixels[y : y + _ROWS].astype(np.float64)
        output[y : y + _ROWS] = np.clip(space.to_srgb(block), 0, 1)
    return output


def from_network(source: Pixels, restored: Pixels, space: Space | None) -> Pixels:
    """What the network made of `for_network`'s result, in the space of the source.

    What was clipped is added again, and only differences are converted: where nothing changed,
    the source comes back exactly.
    """
    if space is None:
        return restored
    output = np.empty_like(source, order="C")
    for y in range(0, len(source), _ROWS):
        block = source[y : y + _ROWS].astype(np.float64)
        whole = space.to_srgb(block)
        changed = restored[y : y + _ROWS] - np.clip(whole, 0, 1).astype(np.float32)
        changed = changed.astype(np.float64)  # a sum of two types takes a buffer, see `pictures`
        output[y : y + _ROWS] = block + space.from_srgb(whole + changed) - space.from_srgb(whole)
    return output


# --- profiles ----------------------------------------------------------------------------------


def space_of_profile(icc: bytes | None) -> Space | None:
    """The space of an RGB or grey profile; None where it is like sRGB or not a matrix profile."""
    if icc is None or len(icc) < 132 or icc[36:40] != b"acsp":
        return None
    try:
        (count,) = struct.unpack_from(">I", icc, 128)
        tags: dict[bytes, bytes] = {}
        for i in range(min(count, 256)):
            name, at, size = struct.unpack_from(">4sII", icc, 132 + 12 * i)
            tags.setdefault(name, icc[at : at + size])
        if icc[16:20] == b"GRAY":
            grey = _curve(tags[b"kTRC"])
            space = Space(np.eye(3), (grey, grey, grey))
        elif icc[16:20] == b"RGB ":
            columns = [struct.unpack_from(">3i", tags[n], 8) for n in (b"rXYZ", b"gXYZ", b"bXYZ")]
            to_d50 = np.array(columns, np.float64).T / 65536
            curves = [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
            matrix = np.linalg.inv(_rgb_to_d50(REC709)) @ to_d50
            space = Space(matrix, (curves[0], curves[1], curves[2]))
        else:
            return None
        return space if _differs(space) else None
    except (KeyError, struct.error, ValueError, np.linalg.LinAlgError):
        return None


def scene_space(chromaticities: Sequence[float] | None) -> Space:
    """Scene-linear values of these primaries and white, eight numbers, as OpenEXR stores them."""
    straight = Curve()
    matrix = np.eye(3)
    if chromaticities is not None and len(chromaticities) == 8:
        with suppress(np.linalg.LinAlgError, ZeroDivisionError, FloatingPointError):
            found = np.linalg.inv(_rgb_to_d50(REC709)) @ _rgb_to_d50(chromaticities)
            if np.isfinite(found).all() and abs(np.linalg.det(found)) > 1e-6:
                matrix = found
    return Space(matrix, (straight, straight, straight))


def _curve(tag: bytes) -> Curve:
    """Raises ValueError for a curve that cannot be inverted."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            curve = Curve()
        elif count == 1:
            curve = Curve(struct.unpack_from(">H", tag, 12)[0] / 256)
        else:
            table = np.frombuffer(tag, ">u2", count, 12).astype(np.float64) / 65535
            # Flat ends are common in the tables of scanners and of early sRGB profiles.
            curve = Curve(table=table + np.linspace(0, 1e-9, count))
    elif tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        size = (1, 3, 4, 5, 7)[kind] if kind < 5 else 0
        n = [value / 65536 for value in struct.unpack_from(f">{size}i", tag, 12)]
        if kind == 0:
            curve = Curve(n[0])
        elif kind in (1, 2) and n[1]:
            offset = n[3] if kind == 2 else 0.0
            curve = Curve(n[0], n[1], n[2], 0.0, -n[2] / n[1], offset, offset)
        elif kind in (3, 4):
            curve = Curve(*n)
        else:
            raise ValueError(f"parametric curve of type {kind}")
    else:
        raise ValueError(f"curve of type {tag[:4]!r}")
    if not curve.usable:
        raise ValueError("a curve that does not rise")
    return curve


def _rgb_to_d50(chromaticities: Sequence[float]) -> Values:
    """Linear RGB of these xy pairs to XYZ, adapted to D50 as profiles are (Bradford)."""
    xy = np.asarray(chromaticities, np.float64).reshape(4, 2)
    xyz = np.stack([xy[:, 0], xy[:, 1], 1 - xy.sum(1)], 1) / xy[:, 1:]
    primaries, white = xyz[:3].T, xyz[3]
    matrix = primaries * np.linalg.solve(primaries, white)
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ matrix)


def _differs(space: Space) -> bool:
    steps = np.linspace(0, 1, 9)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1)
    if any(c is not space.curves[0] for c in space.curves) or not np.allclose(
        space.matrix, np.eye(3)
    ):
        return bool(np.abs(space.to_srgb(grid) - grid).max() > _ALIKE)
    steps = np.linspace(0, 1, 256)[:, None].repeat(3, 1)
    return bool(np.abs(space.to_srgb(steps) - steps).max() > _ALIKE)


# --- CMYK --------------------------------------------------------------------------------------


def cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert through the file's profile: Pillow's own formula gives glaring colours."""
    if icc:
        # A broken profile, or a Pillow built without LittleCMS.
        with suppress(ImportError, OSError, ImageCms.PyCMSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.buildTransform(profile, srgb, "CMYK", "RGB").apply(image)
    return image.convert("RGB")


def chromaticities_of(scene: Mapping[str, Any]) -> Sequence[float] | None:
    """The primaries that an OpenEXR header names, or None."""
    found = scene.get("chromaticities")
    return [float(n) for n in found] if found is not None and len(found) == 8 else None
