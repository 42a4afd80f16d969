"""From pictures to the bytes of a file, in any of the formats."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from . import colour, containers, deep
from .containers import Finding
from .files import ROOM, room
from .metadata import COLOUR_CHUNKS, Metadata, write_exif

if TYPE_CHECKING:
    from .pictures import Picture

PAGED = ("TIFF",)
ANIMATED = ("PNG", "WEBP", "AVIF")
_NO_ALPHA = ("JPEG", "BMP")
_HOLDS = {
    "PNG": "EXIF XMP dpi text", "JPEG": "EXIF XMP IPTC dpi comment", "TIFF": "EXIF XMP IPTC dpi",
    "WEBP": "EXIF XMP", "AVIF": "EXIF XMP", "HEIF": "EXIF XMP", "JPEGXL": "EXIF XMP", "BMP": "dpi",
    "OPENEXR": "",
}  # fmt: skip
"""What each format holds beside pixels and, except for BMP and OpenEXR, the ICC profile."""
_WORDS = {"dpi": "the resolution", "text": "the PNG text", "comment": "the comment"}


def holds_pages(kind: str, first: Picture) -> bool:
    """Whether the format holds what comes after this page or frame."""
    return kind in PAGED or (kind in ANIMATED and first.duration > 0 and first.bits == 8)


def encode(pictures: Iterable[Picture], kind: str, folder: Path) -> tuple[bytes, list[str]]:
    """The bytes of a file of this format, and what it cannot hold of these pictures, as words.

    ``folder`` may hold a part for the time of encoding. Raises Finding.
    """
    pages = _guarded(pictures)
    try:
        first = next(pages, None)
        if first is None:
            raise Finding("found no page to write; expected at least one.")
        lost = _lost(first, kind)
        rest = pages if holds_pages(kind, first) else iter(())
        try:
            if kind in ("TIFF", "JPEGXL", "OPENEXR") or (kind == "PNG" and first.bits > 8):
                return _encode_deep(first, rest, kind, folder), lost
            data, more = _encode_with_pillow(first, rest, kind)
            return data, lost + more
        except (Finding, MemoryError, _FromPages):
            raise
        except Exception as exc:  # the encoders share no type of error
            height, width = first.pixels.shape[:2]
            with room(ROOM * width * height):
                raise Finding(
                    f"found {width} x {height} pixels that could not be encoded as {kind} "
                    f"({exc}); expected free memory and disk for it, and a picture within the "
                    "limits of the format. Write PNG or TIFF instead, or free some."
                ) from exc
    except _FromPages as exc:
        assert exc.__cause__ is not None
        raise exc.__cause__ from None


class _FromPages(Exception):
    """An error of the pages that come while encoding: no fault of the encoder."""


def _guarded(pages: Iterable[Picture]) -> Iterator[Picture]:
    try:
        for page in pages:
            _check(page)
            yield page
    except Finding:
        raise
    except Exception as exc:
        raise _FromPages from exc


def _check(picture: Picture) -> None:
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.dtype.kind != "f":
        raise Finding(
            f"found pixels of shape {pixels.shape} and type {pixels.dtype}; expected (H, W, 3) "
            "floats in [0, 1]. Reshape or scale them."
        )
    if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype.kind != "f"):
        raise Finding(
            f"found alpha of shape {alpha.shape} and type {alpha.dtype}; expected "
            f"{pixels.shape[:2]} floats in [0, 1]. Resize or scale it like the pixels."
        )
    if picture.bits not in (8, 16, 32):
        raise Finding(f"found bits={picture.bits}; expected 8, 16 or 32. Choose one of them.")
    if not np.isfinite(pixels).all() or not (alpha is None or np.isfinite(alpha).all()):
        raise Finding(
            "found NaN or infinity among the values to write; expected numbers in [0, 1]. The "
            "model failed on this picture: try it in full (float32) precision."
        )


def _lost(picture: Picture, kind: str) -> list[str]:
    """What of this picture the format cannot hold."""
    data, holds = picture.metadata, _HOLDS[kind].split()
    there = {
        "EXIF": data.exif, "XMP": data.xmp, "IPTC": data.iptc, "dpi": data.dpi,
        "text": [c for c in data.chunks if c[0] not in COLOUR_CHUNKS], "comment": data.comment,
    }  # fmt: skip
    lost = [_WORDS.get(name, name) for name, found in there.items() if found and name not in holds]
    if picture.icc and kind == "BMP":
        lost.append("the colour profile")
    if picture.scene is not None and kind != "OPENEXR":
        lost.append("the header and the light beyond white of the OpenEXR")
    elif picture.bits > 8 and kind not in ("PNG", "TIFF", "JPEGXL", "OPENEXR"):
        lost.append("more than 8 bits per sample")
    if picture.alpha is not None and kind in _NO_ALPHA:
        lost.append("transparency (laid over white)")
    return lost


# --- the layouts of the formats ----------------------------------------------------------------


def _encode_deep(first: Picture, rest: Iterator[Picture], kind: str, folder: Path) -> bytes:
    """TIFF, JPEG XL, OpenEXR and 16-bit PNG."""
    written: list[Metadata] = []

    def sheets() -> Iterator[deep.Sheet]:
        for page in _chain(first, rest):
            written.append(page.metadata)
            if kind == "OPENEXR":
                yield deep.Sheet(_light(page), None, page.scene, page.bits < 32)
                continue
            shown = _displayed(page)
            samples = _quantise(shown, kind, page.bits > 8)
            yield deep.Sheet(samples, shown.icc if kind != "PNG" else None)

    data = deep.write(sheets(), kind, folder)
    if kind == "PNG":
        return containers.put_png(data, first.metadata, _displayed(first, pixels=False).icc)
    if kind == "JPEGXL":
        return containers.put_jxl(data, first.metadata)
    return containers.put_tiff(data, written) if kind == "TIFF" else data


def _chain(first: Picture, rest: Iterator[Picture]) -> Iterator[Picture]:
    yield first
    yield from rest


def _encode_with_pillow(
    first: Picture, rest: Iterator[Picture], kind: str
) -> tuple[bytes, list[str]]:
    """The formats of 8 bits, and animations."""
    first = _displayed(first)
    data = first.metadata
    options: dict[str, Any] = {"icc_profile": first.icc} if first.icc and kind != "BMP" else {}
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    elif kind == "WEBP":  # exact: keep the colours under full transparency
        options |= {"lossless": True, "exact": True}
    elif kind == "AVIF":
        options |= {"quality": 95, "subsampling": "4:4:4"}
    elif kind == "HEIF":
        # Full colour resolution is a profile (range extensions) that few devices decode.
        options |= {"quality": 95, "chroma": 420}
    if data.dpi and kind in ("JPEG", "BMP"):
        options["dpi"] = data.dpi
    if kind in ("WEBP", "AVIF", "HEIF"):
        block = write_exif(data.exif) if data.exif else None
        options |= {"exif": b"Exif\0\0" + block} if block else {}
        options |= {"xmp": data.xmp} if data.xmp else {}
    image = Image.fromarray(_quantise(first, kind, False))
    if first.duration:
        more = [(Image.fromarray(_quantise(p, kind, False)), p.duration) for p in rest]
        if more:
            options |= {"save_all": True, "append_images": [frame for frame, _ in more]}
            options |= {"duration": [first.duration, *(n for _, n in more)], "loop": first.loop}
    output = io.BytesIO()
    image.save(output, kind, **options)
    if kind == "JPEG":
        return containers.put_jpeg(output.getvalue(), data)
    if kind == "PNG":
        return containers.put_png(output.getvalue(), data, first.icc), []
    return output.getvalue(), []


def _displayed(picture: Picture, pixels: bool = True) -> Picture:
    """Scene-linear light as sRGB; others as they are."""
    if picture.scene is None:
        return picture
    values = picture.for_network() if pixels else picture.pixels
    return replace(picture, pixels=values, scene=None, icc=None)


def _light(picture: Picture) -> npt.NDArray[np.float32]:
    """(H, W, 1 to 4) scene-linear and premultiplied, as OpenEXR holds it."""
    light = picture.pixels
    if picture.scene is None:
        space = picture.space or colour.scene_space(None)
        if picture.space is None:
            light = colour.SRGB_CURVE.decode(light.astype(np.float64)).astype(np.float32)
        else:
            shown = space.to_srgb(light.astype(np.float64))
            light = colour.SRGB_CURVE.decode(shown).astype(np.float32)
    if picture.grey:
        light = light @ np.array([[0.2126], [0.7152], [0.0722]], light.dtype)
    if picture.alpha is not None:
        alpha = np.clip(picture.alpha, 0, 1)[..., None]
        clear = alpha == 0  # light without cover, as glows have it, stays
        light = np.concatenate([np.where(clear, light, light * alpha), alpha], axis=2)
    return np.ascontiguousarray(light, np.float32)


def _quantise(picture: Picture, kind: str, is_deep: bool) -> npt.NDArray[Any]:
    """(H, W) or (H, W, 2 to 4) uint8 or uint16 samples; always with channels for OpenImageIO."""
    values = np.clip(picture.pixels, 0, 1)
    alpha = None if picture.alpha is None else np.clip(picture.alpha, 0, 1)[..., None]
    if alpha is not None and kind in _NO_ALPHA:
        values, alpha = values * alpha + (1 - alpha), None
    # The encoder of JPEG XL takes no grey with alpha.
    if picture.grey and not (kind == "JPEGXL" and alpha is not None):
        values = values @ np.array([[0.299], [0.587], [0.114]], values.dtype)
    if alpha is not None:
        values = np.concatenate([values, alpha], axis=2)
    steps = np.rint(values * np.float32(65535 if is_deep else 255))
    samples: npt.NDArray[Any] = steps.astype(np.uint16 if is_deep else np.uint8, order="C")
    with_channels = is_deep or kind in ("TIFF", "JPEGXL")
    return samples[..., 0] if samples.shape[2] == 1 and not with_channels else samples
