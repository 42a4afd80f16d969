"""Pixels of 8 bits, through Pillow: PNG, JPEG, WebP, BMP, AVIF and HEIC."""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image

from . import colour
from .containers import Finding
from .files import ROOM, room
from .metadata import Metadata, read_exif

_lock = threading.Lock()


def need(kind: str) -> None:
    """Raise Finding where a package that the format needs is not installed."""
    if kind == "HEIF":
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError as exc:
            raise Finding(
                f"found a HEIC picture, which needs the package pillow-heif ({exc}). Install it "
                'with: pip install "instructir[heic]"'
            ) from exc
    if kind == "AVIF":
        Image.init()
        if kind not in Image.OPEN:
            raise Finding(
                "found an AVIF picture, which needs Pillow 11.3 or newer. Update it with: pip "
                "install --upgrade pillow"
            )


def opened(data: bytes, kind: str) -> Image.Image:
    """A picture of which only the header has been read, or of a WebP no more than one frame."""
    need(kind)
    pixels = _webp_pixels(data) if kind == "WEBP" else 1
    with room(ROOM * pixels), _no_limit():
        return Image.open(io.BytesIO(data), formats=[kind])


def load(image: Image.Image) -> None:
    """Decode the frame that it is at."""
    with room(ROOM * image.width * image.height), _no_limit():
        image.load()


def seek(image: Image.Image, frame: int) -> None:
    """Go to a frame."""
    with room(ROOM * image.width * image.height), _no_limit():
        image.seek(frame)


def samples(
    image: Image.Image, icc: bytes | None, depth: int
) -> tuple[npt.NDArray[np.uint8], bytes | None]:
    """The pixels of a loaded frame as (H, W) or (H, W, 2 to 4), and their profile."""
    clear = image.info.get("transparency")
    if depth < 8 and image.mode in ("1", "L") and isinstance(clear, int):
        # Pillow scales samples to 8 bits, but the transparent value only in newer versions.
        image = image.convert("L")
        image.info["transparency"] = min(255, clear * (255 // (2**depth - 1)))
    if image.mode == "CMYK":
        return np.asarray(colour.cmyk_to_rgb(image, icc)), None
    grey = image.mode in ("1", "L", "LA", "La")
    if not grey and image.mode not in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        raise Finding(
            f"found pixels of kind {image.mode}; expected grey or RGB at 8 or 16 bits, or "
            "CMYK at 8. Convert the picture to RGB in an image editor."
        )
    mode = ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")
    return np.asarray(image.convert(mode)), icc


def metadata_of(image: Image.Image) -> Metadata:
    """What Pillow found in a JPEG, WebP, BMP, AVIF or HEIC file."""
    info = image.info
    exif, xmp, dpi = info.get("exif"), info.get("xmp"), info.get("dpi")
    if isinstance(dpi, tuple) and not all(0 < float(n) < 1e6 for n in dpi):
        dpi = None
    photoshop = info.get("photoshop")
    iptc = photoshop.get(0x0404) if isinstance(photoshop, dict) else None
    comment = info.get("comment")
    return Metadata(
        exif=read_exif(exif) if isinstance(exif, bytes) else None,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp,
        iptc=iptc if isinstance(iptc, bytes) else None,
        dpi=(float(dpi[0]), float(dpi[1])) if isinstance(dpi, tuple) else None,
        comment=comment if isinstance(comment, bytes) else None,
    )


def _webp_pixels(data: bytes) -> int:
    """How many pixels the header of a WebP says (RFC 9649)."""
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = bits % 16384 + 1, (bits >> 14) % 16384 + 1
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") % 16384 for at in (26, 28))
    return max(1, width * height)


@contextmanager
def _no_limit() -> Iterator[None]:
    """Lift Pillow's limit, half of which warns, for one read; `pictures` has its own.

    The limit is a global of Pillow, hence the lock.
    """
    with _lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
